"""Every way by which SQL reaches a database, behind one call each.

At a replica each way is tried twice: as it comes, which leads to the primary, and with leave to
read any state, which has the replica itself judge the statement.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.binding.binding_client import error_of, taken
from tests.rest.http_cluster import REST, HttpCluster, HttpNode, Reply

HERE = {"x-d1-bookmark": "first-unconstrained"}


class Said(NamedTuple):
    """What a door answered: the rows of the last statement, or the text of the error."""

    rows: list[list[Any]] | None
    error: str


@dataclass(frozen=True)
class Door:
    """One way in to one database."""

    name: str
    node: HttpNode
    path: str
    headers: Mapping[str, str]

    async def ask(self, sql: str, *params: object) -> Said:
        """Run a text; an error is a 400 with code 7500, or the binding's one object."""
        body = {"sql": sql, "params": params} if params else {"sql": sql}
        reply = await self.node.call("POST", self.path, body, self.headers)
        if self.path.startswith("/db") or self.path.startswith(REST):
            return _of_envelope(reply, self.name)
        if isinstance(reply.json, dict):
            return Said(None, error_of(reply))
        return Said(_rows(taken(reply).elements[-1]["results"]), "")

    async def counts(self, sql: str) -> tuple[int, int]:
        """Run a text; the rows that its last statement read and wrote."""
        reply = await self.node.call("POST", self.path, {"sql": sql}, self.headers)
        is_enveloped = self.path.startswith(("/db", REST))
        meta = (reply.result if is_enveloped else taken(reply).elements)[-1]["meta"]
        return meta["rows_read"], meta["rows_written"]


def doors(nodes: HttpCluster, database: str) -> Iterator[Door]:
    """All of them, for a database that both nodes have."""
    bound = {"x-d1-database": database}
    for node in nodes.nodes:
        at = "primary" if node is nodes.primary else "replica"
        for path, headers in (
            (f"/db/{database}/query", {}),
            (f"/db/{database}/raw", {}),
            (f"{REST}/{database}/query", {}),
            (f"{REST}/{database}/raw/", {}),  # the slash leads to aiohttp
            ("/query?resultsFormat=ROWS_AND_COLUMNS", bound),
            ("/execute?resultsFormat=NONE", bound),
        ):
            yield Door(f"{at} {path}", node, path, headers)
            if node is nodes.replica:
                yield Door(f"{at} {path} itself", node, path, headers | HERE)


def _of_envelope(reply: Reply, name: str) -> Said:
    if reply.status == 200:
        return Said(_rows(reply.result[-1]["results"]), "")
    first = reply.json["errors"][0]
    assert (reply.status, first["code"]) == (400, 7500), (name, reply)
    assert "x-should-retry" not in reply.headers
    return Said(None, first["message"])


def _rows(results: Any) -> list[list[Any]]:
    if isinstance(results, dict):
        rows: list[list[Any]] = results["rows"]
        return rows
    return [list(row.values()) for row in results]
