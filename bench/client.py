"""A small HTTP client for everything that is not timed: schema, filling, checks, counters."""

import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass

REQUEST_S_MAX = 600.0  # a VACUUM of a large database is one request


class NodeRefused(Exception):
    """The node answered a request of the benchmark's own preparation with an error."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The answer to one query: the last statement's rows, and the bookmark that came with it."""

    rows: list[dict[str, object]]
    bookmark: str


class NodeClient:
    """One keep-alive connection to one node; used by one thread."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=REQUEST_S_MAX)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def create(self, database: str) -> None:
        """Create `database`."""
        self._post("/db", {"name": database}, "")

    def vacuum(self, database: str) -> None:
        """Rebuild `database`; returns when that is durable."""
        self._post(f"/db/{database}/vacuum", {}, "")

    def query(
        self, database: str, sql: str, params: Sequence[object] = (), *, bookmark: str = ""
    ) -> Rows:
        """Run one statement; `bookmark` (or a session word) says how fresh the answer must be."""
        return self._query(database, {"sql": sql, "params": list(params)}, bookmark)

    def batch(self, database: str, statements: Sequence[tuple[str, Sequence[object]]]) -> Rows:
        """Run `statements` as one transaction."""
        body: dict[str, object] = {
            "batch": [{"sql": sql, "params": list(params)} for sql, params in statements]
        }
        return self._query(database, body, "")

    def status_of(self, path: str) -> int:
        """Return the HTTP status of `GET path`."""
        status, _body, _bookmark = self._exchange("GET", path, b"", "")
        return status

    def text(self, path: str) -> str:
        """Return the body of `GET path`."""
        status, body, _bookmark = self._exchange("GET", path, b"", "")
        if status != http.client.OK:
            raise NodeRefused(f"GET {path}: {status} {body[:500]!r}")
        return body.decode()

    def _query(self, database: str, body: dict[str, object], bookmark: str) -> Rows:
        answer, new_bookmark = self._post(f"/db/{database}/query", body, bookmark)
        result = answer["result"]
        assert isinstance(result, list)
        return Rows(rows=result[-1]["results"], bookmark=new_bookmark)

    def _post(
        self, path: str, body: dict[str, object], bookmark: str
    ) -> tuple[dict[str, object], str]:
        status, raw, new_bookmark = self._exchange(
            "POST", path, json.dumps(body).encode(), bookmark
        )
        if status != http.client.OK:
            raise NodeRefused(f"POST {path}: {status} {raw[:500]!r}")
        answer = json.loads(raw)
        if answer.get("success") is not True:
            raise NodeRefused(f"POST {path}: {raw[:500]!r}")
        return answer, new_bookmark

    def _exchange(
        self, method: str, path: str, body: bytes, bookmark: str
    ) -> tuple[int, bytes, str]:
        # A wait that runs out must show as an old bookmark, not as an answer of the primary.
        headers = {"content-type": "application/json", "x-d1-on-timeout": "stale"}
        if bookmark:
            headers["x-d1-bookmark"] = bookmark
        try:
            self._connection.request(method, path, body=body or None, headers=headers)
            response = self._connection.getresponse()
            return response.status, response.read(), response.getheader("x-d1-bookmark") or ""
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next request dials again
            raise


def counter_sum(exposition: str, name: str) -> float | None:
    """Return the sum of all series of counter `name` in a /metrics text; None if it is absent."""
    total, seen = 0.0, False
    for line in exposition.splitlines():
        if line.startswith((f"{name} ", f"{name}{{")):
            total += float(line.rsplit(" ", 1)[1])
            seen = True
    return total if seen else None
