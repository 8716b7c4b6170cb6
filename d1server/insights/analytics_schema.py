"""The GraphQL schema of D1's datasets, with the names that Cloudflare's has.

    viewer { accounts(filter) { d1QueriesAdaptiveGroups(filter, orderBy, limit) {
        count sum { ... } avg { ... } max { ... } quantiles { ... } dimensions { ... } } } }

Rows are grouped by the dimensions that are selected. Fields that the client cannot do without are
non-null, up to the root: an error anywhere makes `data` null, as at D1.

Importing graphql-core takes a quarter of a second: this module is loaded when it is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from graphql import (
    FragmentSpreadNode,
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLError,
    GraphQLField,
    GraphQLIncludeDirective,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLSkipDirective,
    InlineFragmentNode,
    SelectionSetNode,
    get_directive_values,
)

from d1server.insights.analytics import (
    ANALYTICS,
    QUERIES,
    ROWS_MAX,
    SHARES,
    STORAGE,
    TIMES,
    UNTOLD,
    Order,
    Sample,
    rows,
)
from d1server.insights.analytics_filter import COMPARISONS, LISTS, PATTERNS, read_filter
from d1server.insights.graphql_query import PLAIN

Samples = Mapping[str, Sequence[Sample]]
"""The context of an execution: what there is of each dataset."""


@dataclass(frozen=True)
class _Dataset:
    name: str
    description: str
    texts: Sequence[str]  # dimensions beside the times
    counts: Sequence[str] = ()
    durations: Sequence[str] = ()  # in ms
    most: Sequence[str] = ()
    quantiles: Sequence[str] = ()

    @property
    def type_name(self) -> str:
        return f"Account{self.name[0].upper()}{self.name[1:]}"


_DATASETS: Final = (
    _Dataset(
        QUERIES,
        "What each statement has cost, without its values.",
        texts=("databaseId", "query", "error"),
        counts=("rowsRead", "rowsWritten", "rowsReturned"),
        durations=("queryDurationMs",),
        most=("lastSeen",),
        quantiles=("queryDurationMs",),
    ),
    _Dataset(
        ANALYTICS,
        "What the requests to each database have cost.",
        texts=("databaseId",),
        counts=(
            *("readQueries", "writeQueries", "rowsRead", "rowsWritten"),
            "queryBatchResponseBytes",
        ),
        durations=("queryBatchTimeMs",),
        quantiles=("queryBatchTimeMs",),
    ),
    _Dataset(
        STORAGE,
        "How large each database is now.",
        texts=("databaseId",),
        most=("databaseSizeBytes",),
    ),
)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise GraphQLError("it wants text")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise GraphQLError("it wants a whole number, not below 0")
    return value


def _time(value: object) -> datetime:
    text = _text(value)
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise GraphQLError(f"{text[:40]!r} is no time such as 2026-01-31T00:00:00Z") from exc


_STRING: Final = GraphQLScalarType("string", coerce_input_value=_text)
_UINT64: Final = GraphQLScalarType("uint64", coerce_input_value=_whole)
_FLOAT64: Final = GraphQLScalarType("float64")
_TIME: Final = GraphQLScalarType(
    "Time",
    description="Such as 2026-01-31T00:00:00Z.",
    coerce_input_value=lambda value: _time(value).timestamp(),
)
_DATE: Final = GraphQLScalarType(
    "Date",
    description="Such as 2026-01-31.",
    coerce_input_value=lambda value: _time(value).strftime("%Y-%m-%d"),
)

Inputs = dict[str, GraphQLInputField]


def _plain(name: str, fields: Mapping[str, GraphQLScalarType]) -> GraphQLObjectType:
    made = {key: GraphQLField(of) for key, of in fields.items()}
    return GraphQLObjectType(name, made, extensions={PLAIN: True})


def _dimension_types(dataset: _Dataset) -> dict[str, GraphQLScalarType]:
    return {
        **dict.fromkeys(dataset.texts, _STRING),
        **dict.fromkeys(UNTOLD, _STRING),
        "date": _DATE,
        **dict.fromkeys(TIMES, _TIME),
    }


def _parts(dataset: _Dataset) -> dict[str, dict[str, GraphQLScalarType]]:
    """The objects of a row and their fields."""
    sums = dict.fromkeys(dataset.counts, _UINT64) | dict.fromkeys(dataset.durations, _FLOAT64)
    shares = [f"{of}{share}" for of in dataset.quantiles for share in SHARES]
    return {
        "sum": sums,
        "avg": dict.fromkeys((*sums, "sampleInterval"), _FLOAT64),
        "max": dict.fromkeys(dataset.most, _UINT64),
        "quantiles": dict.fromkeys(shares, _FLOAT64),
        "dimensions": _dimension_types(dataset),
    }


def _row_type(dataset: _Dataset) -> GraphQLObjectType:
    fields = {"count": GraphQLField(GraphQLNonNull(_UINT64))}
    for part, of in _parts(dataset).items():
        if of:
            name = f"{dataset.type_name}{part[0].upper()}{part[1:]}"
            fields[part] = GraphQLField(_plain(name, of))
    return GraphQLObjectType(dataset.type_name, fields, description=dataset.description)


def _filter_type(dataset: _Dataset) -> GraphQLInputObjectType:
    def inputs() -> Inputs:
        joined = GraphQLInputField(GraphQLList(GraphQLNonNull(made)))
        members: Inputs = {"AND": joined, "OR": joined}
        for name, of in _dimension_types(dataset).items():
            if name in UNTOLD:
                continue
            for how in COMPARISONS:
                if how in PATTERNS and of is not _STRING:
                    continue
                wanted = GraphQLList(GraphQLNonNull(of)) if how in LISTS else of
                members[f"{name}_{how}" if how else name] = GraphQLInputField(wanted)
        return members

    made = GraphQLInputObjectType(f"{dataset.type_name}Filter_InputObject", inputs)
    return made


def _order_type(dataset: _Dataset) -> GraphQLEnumType:
    paths: dict[str, tuple[str, ...]] = {"count": ("count",)}
    paths |= {name: ("dimensions", name) for name in _dimension_types(dataset)}
    for part, of in _parts(dataset).items():
        if part != "dimensions":
            paths |= {f"{part}_{name}": (part, name) for name in of}
    values = {
        f"{name}_{direction}": Order(path, is_down=direction == "DESC")
        for name, path in paths.items()
        for direction in ("ASC", "DESC")
    }
    return GraphQLEnumType(f"{dataset.type_name}OrderBy", values)


def _field(dataset: _Dataset) -> GraphQLField:
    def resolve(
        _: object,
        info: GraphQLResolveInfo[Samples],
        wanted: Mapping[str, Any] | None = None,
        orders: Sequence[Order] | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        return rows(
            info.context[dataset.name],
            is_wanted=read_filter(wanted),
            selected=_selected(info),
            orders=orders or (),
            limit=ROWS_MAX if limit is None else limit,
        )

    order = GraphQLList(GraphQLNonNull(_order_type(dataset)))
    return GraphQLField(
        GraphQLNonNull(GraphQLList(GraphQLNonNull(_row_type(dataset)))),
        {
            "filter": GraphQLArgument(_filter_type(dataset), out_name="wanted"),
            "orderBy": GraphQLArgument(order, out_name="orders"),
            "limit": GraphQLArgument(_UINT64, description=f"At most {ROWS_MAX}."),
        },
        resolve,
        description=dataset.description,
    )


def _selected(info: GraphQLResolveInfo[Samples]) -> dict[str, set[str]]:
    """The fields of each part of a row, by their names; through fragments and directives."""
    names: dict[str, set[str]] = {}

    def visit(selections: SelectionSetNode | None, take: Callable[[Any], None]) -> None:
        for node in selections.selections if selections else ():
            skip = get_directive_values(GraphQLSkipDirective, node, info.variable_values)
            include = get_directive_values(GraphQLIncludeDirective, node, info.variable_values)
            if (skip and skip["if"]) or (include and not include["if"]):
                continue
            if isinstance(node, FragmentSpreadNode):
                visit(info.fragments[node.name.value].selection_set, take)
            elif isinstance(node, InlineFragmentNode):
                visit(node.selection_set, take)
            else:
                take(node)

    def take_part(node: Any) -> None:
        fields = names.setdefault(node.name.value, set())
        visit(node.selection_set, lambda one: fields.add(one.name.value))
        fields.discard("__typename")

    for node in info.field_nodes:
        visit(node.selection_set, take_part)
    return names


def _schema() -> GraphQLSchema:
    tags = {
        "accountTag": GraphQLInputField(_STRING, description="Any account is this cluster."),
        "accountTag_in": GraphQLInputField(GraphQLList(GraphQLNonNull(_STRING))),
    }
    account = GraphQLObjectType("account", {one.name: _field(one) for one in _DATASETS})
    accounts = GraphQLField(
        GraphQLNonNull(GraphQLList(GraphQLNonNull(account))),
        {"filter": GraphQLArgument(GraphQLInputObjectType("AccountFilter_InputObject", tags))},
        resolve=lambda *_, **__: [{}],
    )
    viewer = GraphQLField(
        GraphQLNonNull(GraphQLObjectType("viewer", {"accounts": accounts})),
        resolve=lambda *_: {},
    )
    return GraphQLSchema(GraphQLObjectType("Query", {"viewer": viewer}))


SCHEMA: Final = _schema()
