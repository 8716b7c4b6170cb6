"""`d1server insights`: which statements of a database cost most, and which indexes would help."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from d1server.call import AnswerForeign, NodeConnection, database_path
from d1server.cli.options import common_options, wishes
from d1server.cli.output import Failure, escaped, print_json, print_table

SORTS: Final = {"time": "queryDurationMs", "reads": "rowsRead", "writes": "rowsWritten"}
COLUMNS: Final = (
    *("query", "count", "total ms", "avg ms", "rows read", "written", "returned", "last seen"),
)
_QUERY: Final = """query ($filter: Filter) { viewer { accounts {
  d1QueriesAdaptiveGroups(limit: %d, filter: $filter, orderBy: [%s]) {
    count
    sum { queryDurationMs rowsRead rowsWritten rowsReturned }
    avg { queryDurationMs }
    max { lastSeen }
    dimensions { query }
  }
} } }"""


@click.command("insights")
@click.argument("name")
@click.option("--hours", type=click.IntRange(1, 31 * 24), default=24, show_default=True)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--sort-by", type=click.Choice([*SORTS, "count"]), default="time", show_default=True)
@click.option("--sort-type", type=click.Choice(["sum", "avg"]), default="sum", show_default=True)
@click.option("--recommendations", is_flag=True, help="Show indexes that would have helped.")
@common_options
def insights(
    name: str, hours: int, limit: int, sort_by: str, sort_type: str, *, recommendations: bool
) -> None:
    """Show what the statements of the database NAME have cost, without their values.

    Any node tells what all nodes ran. Recommendations look at seven days.
    """
    if recommendations:
        _recommend(name, limit)
        return
    order = "count_DESC" if sort_by == "count" else f"{sort_type}_{SORTS[sort_by]}_DESC"
    since = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)
    with wishes().connect() as node:
        key = node.call("GET", database_path(name)).result_object()["uuid"]
        wanted = {"databaseId": key, "datetimeHour_geq": since.strftime("%Y-%m-%dT%H:%M:%SZ")}
        found = ask(node, _QUERY % (limit, order), {"filter": {"AND": [wanted]}})
    if wishes().as_json:
        print_json([as_object(row) for row in found])
    elif found:
        print_table(COLUMNS, [list(as_object(row).values()) for row in found])
    else:
        click.echo(f"nothing has been run in the last {hours} hours", err=True)


def _recommend(name: str, limit: int) -> None:
    with wishes().connect() as node:
        key = node.call("GET", database_path(name)).result_object()["uuid"]
        told = node.call("GET", f"/accounts/any/d1/database/{key}/insights?filter=recommendations")
        result = told.result_object()
    try:
        found = result["recommendations"]["insights"][:limit]
        if wishes().as_json:
            print_json(found)
        elif not found:
            click.echo("no index would have helped what was run in seven days", err=True)
        else:
            click.echo("\n\n".join(_as_text(insight) for insight in found))
    except (KeyError, TypeError, IndexError) as exc:
        raise AnswerForeign(node.url) from exc


def _as_text(insight: dict[str, Any]) -> str:
    """The statement to run, and above it as comments of SQL why."""
    suggestion = insight["suggestions"][0]
    impact = suggestion["cost_impact"]
    changes = (
        f"rows read {impact['rows_read']:+}, written {impact['rows_written']:+} at most, "
        f"{impact['query_duration_ms']:+.1f} ms"
    )
    queries = [f"{one['cost']['count']} x {one['query']}" for one in insight["impacted_queries"]]
    lines = [insight["summary"], insight["reasoning"], f"In seven days: {changes}", *queries]
    shown = [f"-- {escaped(' '.join(line.split()))}" for line in lines]
    return "\n".join([*shown, f"{escaped(suggestion['sql'])};"])


def ask(node: NodeConnection, query: str, variables: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the one dataset that a query asks for."""
    answer = node.post("/graphql", {"query": query, "variables": variables}).json("data", "errors")
    if answer["errors"]:
        raise Failure(escaped(str(answer["errors"][0].get("message"))))
    try:
        rows: list[dict[str, Any]] = answer["data"]["viewer"]["accounts"][0][
            "d1QueriesAdaptiveGroups"
        ]
    except (KeyError, IndexError, TypeError) as exc:
        raise AnswerForeign(node.url) from exc
    return rows


def as_object(row: dict[str, Any]) -> dict[str, Any]:
    """One statement, in the order of COLUMNS."""
    seen = datetime.fromtimestamp(row["max"]["lastSeen"], UTC)
    return {
        "query": row["dimensions"]["query"],
        "count": row["count"],
        "total_ms": round(row["sum"]["queryDurationMs"], 3),
        "avg_ms": round(row["avg"]["queryDurationMs"], 3),
        "rows_read": row["sum"]["rowsRead"],
        "rows_written": row["sum"]["rowsWritten"],
        "rows_returned": row["sum"]["rowsReturned"],
        "last_seen": seen.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
