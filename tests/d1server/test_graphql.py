"""GraphQL over samples that are known: what is selected is answered, what costs too much is not."""

import time
from typing import Any

import pytest
from graphql import build_client_schema, get_introspection_query
from hypothesis import given
from hypothesis import strategies as st

from d1server.insights import graphql_query
from d1server.insights.analytics import ANALYTICS, QUERIES, ROWS_MAX, STORAGE, Sample
from d1server.insights.analytics_schema import SCHEMA
from d1server.insights.graphql_query import TEXT_CHARS_MAX, GraphqlRefused, read_query

COSTLY_S_MAX = 20.0  # of what is refused; some hundredths of a second on an idle machine

SAMPLES = {
    QUERIES: [
        Sample("a", 489_000, {"rowsRead": 1}, 1, query="q1", buckets="[0,1]"),
        Sample("a", 489_001, {"rowsRead": 2}, 1, query="q2", buckets="[0,0,0,4]"),
        Sample("b", 489_001, {"rowsRead": 9}, 3, query="q1"),
    ],
    ANALYTICS: [
        Sample("a", 489_000, {"rowsRead": 1}, 4, buckets=[0, 4, 0]),
        Sample("a", 489_001, {"rowsRead": 2}, 1, buckets=[0, 0, 1]),
    ],
    STORAGE: [Sample("a", 489_001, {}, 1, most={"databaseSizeBytes": 4096})],
}


def ask(text: str, variables: dict[str, Any] | None = None, operation: str | None = None) -> Any:
    """The data of a query."""
    return read_query(SCHEMA, text, variables or {}, operation).answer(SAMPLES)


def rows(arguments: str, selected: str, variables: dict[str, Any] | None = None) -> Any:
    """The rows of `d1QueriesAdaptiveGroups`."""
    head = f"query ({', '.join(f'${name}: JSON' for name in variables)})" if variables else ""
    text = f"{head} {{ viewer {{ accounts {{ {QUERIES}{arguments} {{ {selected} }} }} }} }}"
    return ask(text, variables)["viewer"]["accounts"][0][QUERIES]


def refusal(text: str, variables: dict[str, Any] | None = None) -> str:
    """The message of the first error, which has the form of all."""
    with pytest.raises(GraphqlRefused) as refused:
        ask(text, variables)
    for error in refused.value.errors:
        assert {"message", "path"} <= error.keys() <= {"message", "path", "locations"}
    return str(refused.value.errors[0]["message"])


def test_samples_are_grouped_filtered_and_ordered() -> None:
    """By the dimensions that are selected: a row is the sum of the samples that share them."""

    def found(arguments: str, selected: str = "dimensions { databaseId }") -> list[Any]:
        return [
            (*row.get("dimensions", {}).values(), row["count"], row["sum"]["rowsRead"])
            for row in rows(arguments, f"{selected} count sum {{ rowsRead }}")
        ]

    assert found("(orderBy: [sum_rowsRead_DESC])") == [("b", 3, 9), ("a", 2, 3)]
    assert found("(orderBy: avg_rowsRead_ASC, limit: 1)") == [("a", 2, 3)]
    assert found("(limit: 0)") == []
    assert found("", "__typename") == [(5, 12)]
    hours = "dimensions { datetimeHour }"
    assert found("(orderBy: [datetimeHour_DESC])", hours) == [
        ("2025-10-14T01:00:00Z", 4, 11),
        ("2025-10-14T00:00:00Z", 1, 1),
    ]
    assert found("", "dimensions { datetimeSixHours }") == [("2025-10-14T00:00:00Z", 5, 12)]
    assert found("", "dimensions { date servedByRegion }") == [("2025-10-14", None, 5, 12)]
    late = '(filter: {AND: [{datetimeHour_geq: "2025-10-14T00:30:00.123Z", databaseId: "a"}]})'
    assert found(late) == [("a", 1, 2)]
    either = '(filter: {OR: [{databaseId: "b"}, {query_in: ["q2"]}]}, orderBy: [count_ASC])'
    assert found(either) == [("a", 1, 2), ("b", 3, 9)]


def test_quantiles_are_of_all_that_a_row_is_made_of() -> None:
    """Told where they are asked for, also by the order; null where no durations were counted."""
    by = "dimensions { query } quantiles { queryDurationMsP50 p: queryDurationMsP999 }"
    found = rows("(orderBy: [quantiles_queryDurationMsP50_DESC])", by)
    assert [row["dimensions"]["query"] for row in found] == ["q2", "q1"]
    low, high = 2.0**-18, 2.0**-17  # ms: the fourth bucket
    assert low < found[0]["quantiles"]["queryDurationMsP50"] < found[0]["quantiles"]["p"] <= high
    assert rows('(filter: {databaseId: "b"})', by)[0]["quantiles"] == {
        "queryDurationMsP50": None,
        "p": None,
    }
    both = rows('(filter: {databaseId: "a"})', "quantiles { queryDurationMsP50 }")
    assert both == [{"quantiles": {"queryDurationMsP50": pytest.approx(low + low * 1.5 / 4)}}]
    order = "(orderBy: [quantiles_queryDurationMsP99_ASC])"
    assert [row["count"] for row in rows(order, "count dimensions { query }")] == [4, 1]


def test_fragments_and_directives_say_what_rows_are_grouped_by() -> None:
    text = """
      query Both($isHourly: Boolean = false, $tag: string!) {
        viewer { accounts(filter: {accountTag: $tag}) { ...All size: d1StorageAdaptiveGroups {
          max { databaseSizeBytes } } } }
      }
      fragment All on account { rows: d1QueriesAdaptiveGroups(orderBy: [count_DESC]) {
        count
        ...By
        ... on AccountD1QueriesAdaptiveGroups { sum { read: rowsRead } }
      } }
      fragment By on AccountD1QueriesAdaptiveGroups {
        dimensions { id: databaseId @skip(if: true) datetimeHour @include(if: $isHourly) }
        dimensions { query __typename }
      }"""
    for variables in ({"tag": "x"}, {"tag": "x", "isHourly": False}):
        (account,) = ask(text, variables)["viewer"]["accounts"]
        assert account["size"] == [{"max": {"databaseSizeBytes": 4096}}]
        assert [(row["count"], row["sum"]["read"]) for row in account["rows"]] == [(4, 10), (1, 2)]
        assert account["rows"][0]["dimensions"] == {
            "query": "q1",
            "__typename": "AccountD1QueriesAdaptiveGroupsDimensions",
        }
    (account,) = ask(text, {"tag": "x", "isHourly": True})["viewer"]["accounts"]
    assert len(account["rows"]) == 3
    assert "tag" in refusal(text)


def test_a_variable_has_the_type_of_its_place() -> None:
    """Whatever it is declared as; also where one stands in places of several types."""
    found = rows(
        "(filter: $f, limit: $n, orderBy: $o)",
        "count",
        {"f": {"databaseId": "b"}, "n": 1, "o": "count_DESC"},
    )
    assert found == [{"count": 3}]
    both = """query ($day: Time!, $ids: [ID], $id: ID) { viewer { accounts {
      d1QueriesAdaptiveGroups(filter: {date: $day, datetime_geq: $day, databaseId_in: $ids}) {
        count }
      d1AnalyticsAdaptiveGroups(filter: {date: $day, databaseId_in: [$id]}) { count } } } }"""
    (account,) = ask(both, {"day": "2025-10-14", "ids": ["a"], "id": "a"})["viewer"]["accounts"]
    assert account == {QUERIES: [{"count": 2}], ANALYTICS: [{"count": 5}]}
    with pytest.raises(GraphqlRefused, match="not below 0"):
        rows("(limit: $n)", "count", {"n": -1})


def test_one_of_several_operations_is_answered() -> None:
    text = "query A { viewer { __typename } } query B { b: viewer { __typename } }"
    assert ask(text, operation="B") == {"b": {"__typename": "viewer"}}
    with pytest.raises(GraphqlRefused):
        ask(text)
    with pytest.raises(GraphqlRefused):
        ask(text, operation="C")


def test_the_schema_is_told() -> None:
    """As GraphQL's own tools ask for it, and with the names that D1's has."""
    told = build_client_schema(ask(get_introspection_query()))
    assert told.type_map.keys() == SCHEMA.type_map.keys()
    fields = ask(
        '{ __type(name: "AccountD1AnalyticsAdaptiveGroupsDimensions") { fields { name } } }'
    )
    assert {field["name"] for field in fields["__type"]["fields"]} == {
        *("databaseId", "databaseRole", "date", "datetime", "datetimeFifteenMinutes"),
        *("datetimeFiveMinutes", "datetimeHour", "datetimeMinute", "datetimeSixHours"),
        *("servedByInstance", "servedByRegion"),
    }


BAD_FILTERS = ("5", "{AND: 1}", "{date_xx: 1}", "{databaseId: 1}", '{databaseRole: "primary"}')


def within(selected: str) -> str:
    """A query of the one account."""
    return f"{{ viewer {{ accounts {{ {selected} }} }} }}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "}", "query", "mutation { a }", "{ a { } }", "{ a(b: ) }", "{ a b: }"),
        *("{ a } { b }", "{ ...F }", "query (", "{" * 1000, "{ a(b: " + "[" * 1000, "\0"),
        *("{ a(b: $) }", '{ a(b: "open) }', "{ nope }", "{ viewer }", "{ viewer { nope } }"),
        *("{ a" * 20, "subscription { a }", "{ viewer { ...F } } fragment F on viewer { ...F }"),
        *(within(f"{QUERIES}({bad}) {{ count }}") for bad in ("limit: -1", "orderBy: x")),
        *(within(f"{QUERIES}(filter: {wanted}) {{ count }}") for wanted in BAD_FILTERS),
        within(f"{QUERIES} {{ dimensions {{ nope }} }}"),
    ],
)  # fmt: skip
def test_bad_queries_are_refused(text: str) -> None:
    assert refusal(text)


@given(st.text('{}()[]:$!"query a1.,#\n-@_', max_size=40))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        ask(text)
    except GraphqlRefused:
        pass


MANY = range(10_000)
LEVELS = "".join(f"fragment F{n} on account {{ ...F{n + 1} ...F{n + 1} }} " for n in range(40))
DEEP_TYPE = "{ __schema { types { " + "fields { type { " * 5 + "name" + " } }" * 5 + " } } }"
WIDE = " ".join(f"a{n}: inputFields {{ name b{n}: name type {{ name kind }} }}" for n in range(80))
HOSTILE = {
    "aliases": within(" ".join(f"a{n}: {STORAGE} {{ count }}" for n in MANY)),
    "fields": within("__typename " * 600),
    "same": within(f"{STORAGE} {{ count }} " * 200),
    "fragments": within("...F0") + LEVELS + "fragment F40 on account { __typename }",
    "cycle": "{ viewer { ...A } } fragment A on viewer { ...B } fragment B on viewer { ...A }",
    "types": DEEP_TYPE,
    "wide introspection": f"{{ __schema {{ types {{ {WIDE} }} }} }}",
    "long": "{ a #" + "x" * TEXT_CHARS_MAX + "\n}",
    "comments": "#\n" * 20_000 + "{ viewer { __typename } }",
    "values": within(f"{STORAGE}(filter: {{databaseId_in: [{'1 ' * 9000}]}}) {{ count }}"),
    "lists": "{ a(b: " + "[" * 2400 + "]" * 2400 + ") }",
    "name": "{ " + "x" * 60_000 + " }",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_query_is_refused_cheaply(name: str) -> None:
    begun = time.process_time()
    message = refusal(HOSTILE[name])
    assert len(message) < 1001
    assert time.process_time() - begun < COSTLY_S_MAX


def test_an_answer_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset as large as one may be is within it, with all that a row has of use."""
    selected = (
        "count sum { rowsRead rowsWritten rowsReturned } avg { rowsRead rowsWritten } "
        "dimensions { query databaseId }"
    )
    query = read_query(SCHEMA, within(f"{QUERIES} {{ {selected} }}"), {})
    large = [Sample("a", 489_000, {"rowsRead": 1}, 1, query=f"q{n}") for n in range(ROWS_MAX)]
    data = query.answer({QUERIES: large})
    assert len(data["viewer"]["accounts"][0][QUERIES]) == ROWS_MAX
    monkeypatch.setattr(graphql_query, "VALUES_MAX", 40)
    with pytest.raises(GraphqlRefused, match="limit"):
        query.answer({QUERIES: large[:10]})


def test_a_mistake_of_ours_is_no_error_of_the_query() -> None:
    query = read_query(SCHEMA, f"{{ viewer {{ accounts {{ {QUERIES} {{ count }} }} }} }}", {})
    with pytest.raises(KeyError):
        query.answer({})
