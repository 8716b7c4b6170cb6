"""Recommendations: which are worth it, and what real nodes tell."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from d1server.access.grants import EVERYTHING, NOBODY, Grant, Level
from d1server.cli import command_line
from d1server.insights.recommendations import Insight, Proposal, Ran, Sample, insight_of
from d1server.insights.recommender import Page, decode_page, encode_page, read_filter, read_page
from d1server.query import AdminRequest, Answer
from engine.index_advice import Advice, Index
from proto.errors import RequestInvalid
from tests.cluster.running_cluster import NodeUnderTest, running_cluster
from tests.rest.http_cluster import REST, HttpCluster, http_cluster
from tests.web.real_nodes import open_pair

FILL = (
    "CREATE TABLE users(id INTEGER PRIMARY KEY, city TEXT, sex TEXT);"
    " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
    " INSERT INTO users SELECT i, 'city ' || (i % 100), i % 2 FROM n"
)
INDEX = Index("users", ("city",))
DATABASE = ("uuid", "shop")


def told(
    ran: Ran, sample: Sample, *, equal: tuple[str, ...] = ("city",), has_range: bool = False
) -> Insight | None:
    advice = Advice(INDEX, equal, has_range, "SCAN users", "SEARCH users USING INDEX")
    return insight_of(Proposal(INDEX, "CREATE INDEX", [(ran, advice)], 7), sample, DATABASE)


def test_the_impact_is_a_proportion_of_what_was_counted() -> None:
    """2,000 rows of 100 cities: 20 with the index, in a hundredth of the time."""
    ran = Ran("q", 5_000, 1000.0, 5_000 * 2000, 0, 5_000 * 20)
    insight = told(ran, Sample(2000, 2000, 100))
    assert insight is not None
    impact = insight.suggestions[0].cost_impact
    assert (impact.rows_read, impact.rows_written) == (-5_000 * 1980, 7)
    assert impact.query_duration_ms == pytest.approx(-990.0)
    assert insight.impacted_queries[0].cost.count == 5_000


def test_what_reads_no_more_than_it_returns_gains_nothing() -> None:
    for read in (0, 3, 5_000 * 20):
        assert told(Ran("q", 5_000, 1000.0, read, 0, read), Sample(2000, 2000, 100)) is None


@pytest.mark.parametrize(
    ("sample", "equal", "has_range", "is_worth_it"),
    [
        (Sample(99, 99, 99), ("city",), False, False),  # a small table
        (Sample(2000, 2000, 1), ("city",), False, False),  # one value
        (Sample(2000, 2000, 2), ("city",), False, True),  # half of the rows
        (Sample(100_000, 10_000, 10_000), ("city",), False, True),
        (Sample(2000, 2000, 100), (), True, True),  # a range
        (Sample(2000, 2000, 100), (), False, True),  # the first ten in order
        (Sample(0, 0, 0), ("city",), False, False),
    ],
)
def test_an_index_must_be_worth_it(
    sample: Sample, equal: tuple[str, ...], has_range: bool, is_worth_it: bool
) -> None:
    ran = Ran("q", 1, 1.0, max(sample.rows, 20), 0, 10)
    assert (told(ran, sample, equal=equal, has_range=has_range) is not None) == is_worth_it


def test_parameters() -> None:
    assert read_page("", "") == Page(20, "", 0)
    assert read_page("100", "abc:12") == Page(100, "abc", 12)
    assert decode_page(encode_page(Page(100, "abc", 12))) == Page(100, "abc", 12)
    for body in (b"", b"{}", b'[101,"",0]', b'[1,"",-1]'):
        with pytest.raises(RequestInvalid):
            decode_page(body)
    bad_limits = ("0", "101", "x", "1e2", "00000000110000")
    for limit, cursor in (*((one, "") for one in bad_limits), ("", "abc"), ("", "a:b")):
        with pytest.raises(RequestInvalid):
            read_page(limit, cursor)
    with pytest.raises(RequestInvalid):
        read_filter("slow")


async def of_all(node: NodeUnderTest, grant: Grant) -> list[str]:
    """The databases that a page of recommendations speaks of."""
    body = encode_page(Page(20, "", 0))
    request = AdminRequest(op="recommend-all", database="", body=body, hops=0, grant=grant)
    answer = await node.node.administer(request)
    found = json.loads(answer.body)["result"]["recommendations"]["insights"]
    return [one["database_name"] for one in found]


async def recommended(node: NodeUnderTest, name: str, grant: Grant) -> Answer:
    request = AdminRequest(op="recommend", database=name, body=b"", hops=0, grant=grant)
    return await node.node.administer(request)


async def insights(node: NodeUnderTest, name: str = "shop") -> list[dict[str, Any]]:
    answer = await recommended(node, name, EVERYTHING)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = json.loads(answer.body)["result"]["recommendations"]["insights"]
    return found


async def test_any_node_recommends_for_what_all_ran(tmp_path: Path) -> None:
    """And once the index is there, no more."""
    async with running_cluster(tmp_path) as cluster:
        primary = await cluster.add_primary()
        replica = await cluster.add_replica()
        await cluster.create()
        await primary.run(FILL)
        await cluster.caught_up()
        for number in range(3):
            sql = f"SELECT id FROM users WHERE city = 'city {number}'"
            assert (await replica.sql(sql, session="first-unconstrained")).status == 200
            await primary.sql("SELECT count(*) FROM users WHERE sex = '1' AND id > ?", number)
        (found,) = await insights(replica)
        assert await insights(primary) == [found]
        assert found["suggestions"][0]["sql"] == 'CREATE INDEX "idx_users_city" ON "users" ("city")'
        assert found["suggestions"][0]["cost_impact"]["rows_read"] == -3 * 1980
        assert [one["query"] for one in found["impacted_queries"]] == [
            "SELECT id FROM users WHERE city = ?"
        ]
        assert "2000 rows" in found["reasoning"]
        assert (await recommended(primary, "shop", NOBODY)).status == 403
        assert (await recommended(replica, "none", EVERYTHING)).status == 404
        assert await of_all(replica, EVERYTHING) == ["shop"]
        another = Grant("another's", Level.ADMIN, frozenset([bytes(16)]))
        assert await of_all(primary, another) == []

        await primary.run(found["suggestions"][0]["sql"])
        await cluster.caught_up()
        assert await insights(replica) == []


async def test_pages_over_all_databases(tmp_path: Path) -> None:
    """Over HTTP: each recommendation once, whatever the size of a page is."""
    async with http_cluster(tmp_path) as nodes:
        for name in ("a", "b", "c"):
            await nodes.create(name, FILL)
            if name != "b":
                await nodes.primary.rows(name, "SELECT * FROM users WHERE city = 'city 1'")
                await nodes.primary.rows(name, "SELECT id FROM users WHERE sex = 'x' LIMIT 5")
        await _check_pages(nodes)
        for path in ("?filter=slow", "?limit=0", "?limit=101", "?cursor=x"):
            reply = await nodes.primary.call("GET", ALL + path)
            assert reply.error[:2] == (400, 7400)
        reply = await nodes.primary.rest("GET", "/a/insights?filter=recommendations")
        assert len(reply.result["recommendations"]["insights"]) == 2


ALL = REST.removesuffix("/database") + "/insights"


async def _check_pages(nodes: HttpCluster) -> None:
    for limit in (1, 3, 20):
        seen: list[tuple[str, str]] = []
        cursor: str | None = ""
        while cursor is not None:
            path = f"{ALL}?filter=recommendations&limit={limit}&cursor={cursor}"
            reply = await nodes.primary.call("GET", path)
            page = reply.result["recommendations"]["insights"]
            assert len(page) == reply.json["result_info"]["count"] <= limit
            seen += [(one["database_name"], one["suggestions"][0]["sql"]) for one in page]
            cursor = reply.json["result_info"]["cursor"]
        assert sorted(seen) == [
            (name, f'CREATE INDEX "idx_users_{column}" ON "users" ("{column}")')
            for name in ("a", "c")
            for column in ("city", "sex")
        ]


async def test_the_command_shows_sql_that_can_be_run(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (primary, _):

        async def d1server(*words: str) -> Any:
            line = [*words, "--url", f"http://{primary}"]
            return await asyncio.to_thread(CliRunner().invoke, command_line, line)

        await d1server("db", "create", "shop")
        assert (await d1server("execute", "shop", "-c", FILL)).exit_code == 0
        done = await d1server("insights", "shop", "--recommendations")
        assert "no index would have helped" in done.stderr
        await d1server("execute", "shop", "-c", "SELECT id FROM users WHERE city = 'Riga'")
        done = await d1server("insights", "shop", "--recommendations")
        assert done.exit_code == 0, done.output
        assert done.stdout.endswith('CREATE INDEX "idx_users_city" ON "users" ("city");\n')
        assert "\n-- In seven days: rows read -1980, written +2000 at most, -" in done.stdout
        assert (await d1server("execute", "shop", "-c", done.stdout)).exit_code == 0
        done = await d1server("insights", "shop", "--recommendations", "--json")
        assert json.loads(done.stdout) == []
