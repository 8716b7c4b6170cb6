"""GraphQL by graphql-core, within bounds: a query is read, judged and answered, or refused.

Pure: text and values in, values out. It may take a second: run it on a thread (`insights.py`).

Bounds, on the text: `TEXT_CHARS_MAX`, `_TOKENS_MAX`, `_DEPTH_MAX` levels. On what it asks for, with
fragments put in their places: `_FIELDS_MAX` fields, none more often in one place than `_SAME_MAX`
(rules compare those pair by pair). On the answer: `VALUES_MAX` fields, of introspection too.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    NoUnusedVariablesRule,
    OperationDefinitionNode,
    SelectionSetNode,
    execute_sync,
    is_introspection_type,
    parse,
    specified_rules,
    validate,
)
from graphql.execution import Executor
from graphql.execution.collect_fields import GroupedFieldSet

from d1server.insights.analytics_filter import FilterRefused
from d1server.insights.graphql_variables import placed_variables

TEXT_CHARS_MAX: Final = 64 * 1024
_TOKENS_MAX: Final = 5000
_COMMENTS_MAX: Final = 1000
_DEPTH_MAX: Final = 24
_FIELDS_MAX: Final = 500
_SAME_MAX: Final = 16
VALUES_MAX: Final = 250_000  # 25 in each row of the largest dataset that there may be
_INTROSPECTION_WEIGHT: Final = 3  # what takes longer counts for more
_ERRORS_MAX: Final = 10
_MESSAGE_CHARS_MAX: Final = 1000  # it may quote the query

PLAIN: Final = "is_plain"
"""In the extensions of an object type: its fields are scalars, its value a dict that holds them."""

_RULES: Final = [rule for rule in specified_rules if rule is not NoUnusedVariablesRule]


class GraphqlRefused(Exception):
    """A query that is not answered; `errors` as GraphQL shows them."""

    def __init__(self, *errors: GraphQLError) -> None:
        super().__init__("; ".join(error.message for error in errors))
        self.errors = [_shown(error) for error in errors]


@dataclass(frozen=True, slots=True)
class Query:
    """A query that may be run; of its document all is known to be within the bounds."""

    schema: GraphQLSchema
    document: DocumentNode
    variables: Mapping[str, Any]
    operation_name: str | None
    fields: Counter[str]  # how often each is asked for, by its name

    def answer(self, context: object) -> dict[str, Any]:
        """The data. Raises `GraphqlRefused`, and what a resolver raises by mistake."""
        try:
            result = execute_sync(
                self.schema,
                self.document,
                context_value=context,
                variable_values=dict(self.variables),
                operation_name=self.operation_name,
                max_coercion_errors=_ERRORS_MAX,
                executor_class=_BoundedExecutor,
            )
        except _TooMuch as exc:
            raise _refused(str(exc)) from None
        for error in result.errors or ():
            mistake = error.original_error
            if not isinstance(mistake, FilterRefused | GraphQLError | None):
                raise mistake
        if result.errors or result.data is None:
            raise GraphqlRefused(*(result.errors or ()))
        return result.data


def read_query(
    schema: GraphQLSchema,
    text: str,
    variables: Mapping[str, Any],
    operation_name: str | None = None,
) -> Query:
    """Read a query, and judge it by the schema and the bounds. Raises `GraphqlRefused`."""
    try:
        document = parse(
            text,
            max_source_length=TEXT_CHARS_MAX,
            max_lexical_tokens=_TOKENS_MAX,
            max_comments=_COMMENTS_MAX,
        )
        fields = _Measure(document).fields()
        document, variables = placed_variables(schema, document, variables)
    except GraphQLError as exc:
        raise GraphqlRefused(exc) from exc
    except RecursionError as exc:
        raise _refused("the query is nested too deeply") from exc
    errors = validate(schema, document, _RULES, max_errors=_ERRORS_MAX)
    if errors:
        raise GraphqlRefused(*errors)
    return Query(schema, document, variables, operation_name, fields)


class _Measure:
    """Counts what a document asks for, each fragment as often as it is spread."""

    def __init__(self, document: DocumentNode) -> None:
        self._definitions = document.definitions
        self._fragments = {
            one.name.value: one
            for one in document.definitions
            if isinstance(one, FragmentDefinitionNode)
        }
        self._left = _FIELDS_MAX
        self._within: set[str] = set()  # fragments

    def fields(self) -> Counter[str]:
        """Of all operations. Raises `GraphqlRefused`."""
        names: Counter[str] = Counter()
        for one in self._definitions:
            if isinstance(one, OperationDefinitionNode | FragmentDefinitionNode):
                found = names if isinstance(one, OperationDefinitionNode) else Counter[str]()
                self._left = _FIELDS_MAX
                self._count(one.selection_set, found, Counter(), 1)
        return names

    def _count(
        self, selected: SelectionSetNode, names: Counter[str], beside: Counter[str], depth: int
    ) -> None:
        """`beside`: what stands in the same place already, by the name that it is shown as."""
        if depth > _DEPTH_MAX:
            raise _refused(f"the query is nested more than {_DEPTH_MAX} levels deep")
        for node in selected.selections:
            self._left -= 1
            if self._left < 0:
                raise _refused(f"the query asks for more than {_FIELDS_MAX} fields")
            if isinstance(node, FieldNode):
                names[node.name.value] += 1
                shown_as = (node.alias or node.name).value
                beside[shown_as] += 1
                if beside[shown_as] > _SAME_MAX:
                    raise _refused(f"{shown_as!r} is asked for more than {_SAME_MAX} times")
                if node.selection_set:
                    self._count(node.selection_set, names, Counter(), depth + 1)
            elif isinstance(node, FragmentSpreadNode):
                name = node.name.value
                fragment = self._fragments.get(name)
                if fragment is not None and name not in self._within:  # else the rules say so
                    self._within.add(name)
                    self._count(fragment.selection_set, names, beside, depth + 1)
                    self._within.discard(name)
            elif isinstance(node, InlineFragmentNode):
                self._count(node.selection_set, names, beside, depth + 1)


class _TooMuch(BaseException):
    """Ends an execution at once; of an `Exception`, graphql-core makes an error of one field."""


class _BoundedExecutor(Executor[Any]):
    """Counts the values of one answer, and takes those of PLAIN types as they are.

    Field by field, as graphql-core does it, the parts of 10,000 rows would take seconds.
    """

    _values = 0

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Any,
        grouped_field_set: GroupedFieldSet,
        position_context: Any,
    ) -> Any:
        weight = _INTROSPECTION_WEIGHT if is_introspection_type(parent_type) else 1
        self._values += weight * len(grouped_field_set)
        if self._values > VALUES_MAX:
            raise _TooMuch(
                f"the answer would have more than {VALUES_MAX} values: ask for fewer rows "
                "(`limit`), dimensions or fields"
            )
        if PLAIN not in parent_type.extensions:
            return super().execute_fields(
                parent_type, source_value, path, grouped_field_set, position_context
            )
        names = {shown: fields[0].node.name.value for shown, fields in grouped_field_set.items()}
        return {
            shown: parent_type.name if name == "__typename" else source_value.get(name)
            for shown, name in names.items()
        }


def _refused(message: str) -> GraphqlRefused:
    return GraphqlRefused(GraphQLError(message))


def _shown(error: GraphQLError) -> dict[str, Any]:
    shown: dict[str, Any] = {"path": None, **error.formatted}
    shown["message"] = error.message[:_MESSAGE_CHARS_MAX]
    return shown
