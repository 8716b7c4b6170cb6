"""What a Worker's `env.DB` sends, and what it does with the answer, as workerd does it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.rest.http_cluster import HttpNode, Reply

TOKEN = "x-cf-d1-session-commit-token"
ROWS, NONE = "ROWS_AND_COLUMNS", "NONE"


class Answer(NamedTuple):
    """The elements of a good answer."""

    elements: list[dict[str, Any]]
    token: str | None

    @property
    def results(self) -> list[Any]:
        return [element["results"] for element in self.elements]

    @property
    def meta(self) -> dict[str, Any]:
        """Of the last element; the client needs one in each."""
        assert all(isinstance(element["meta"], dict) for element in self.elements)
        meta: dict[str, Any] = self.elements[-1]["meta"]
        return meta


class Binding:
    """`env.DB` of a Worker that is bound to one database at one node.

    `slash`: behind the path, which takes the call from the fast path to aiohttp.
    """

    def __init__(self, node: HttpNode, database: str, *, slash: str = "") -> None:
        self.node = node
        self.database = database
        self._slash = slash

    async def call(
        self, path: str, form: str, body: object, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one call as it stands on the wire."""
        sent = {"x-d1-database": self.database, **(headers or {})}
        target = f"{path}{self._slash}?resultsFormat={form}"
        return await self.node.call("POST", target, body, sent)

    async def query(self, body: object, token: str | None = None, *, form: str = ROWS) -> Answer:
        """`all`, `first`, `raw` (an object) and `batch` (an array)."""
        return taken(await self.call("/query", form, body, session(token)))

    async def execute(self, body: object, token: str | None = None) -> Answer:
        """`run` (an object) and `exec` (an array of lines)."""
        return taken(await self.call("/execute", NONE, body, session(token)))

    async def exec(self, text: str) -> Answer:
        """`exec`: one element per line, without parameters."""
        return await self.execute([{"sql": line} for line in text.strip().split("\n")])

    async def error(self, path: str, body: object, token: str | None = None) -> str:
        """The text of the error that a call must have."""
        return error_of(await self.call(path, ROWS, body, session(token)))


def session(token: str | None) -> dict[str, str]:
    return {} if token is None else {TOKEN: token}


def statement(sql: str, *params: object) -> dict[str, object]:
    return {"sql": sql, "params": params}


def batch(*statements: dict[str, object]) -> Sequence[object]:
    return statements


def taken(reply: Reply) -> Answer:
    """The answer as the client takes it: an array whose elements all have `meta`."""
    assert reply.status == 200, reply
    assert isinstance(reply.json, list), reply
    for element in reply.json:
        assert element.keys() == {"results", "success", "meta"}
        assert element["success"] is True
        assert isinstance(element["meta"]["size_after"], int)
    return Answer(reply.json, reply.headers.get(TOKEN))


def error_of(reply: Reply) -> str:
    """The text of an error: one object instead of the array, whatever the statement was."""
    assert reply.status == 200, reply
    assert reply.json.keys() == {"success", "error"}, reply
    assert reply.json["success"] is False
    text = reply.json["error"]
    assert isinstance(text, str)
    return text
