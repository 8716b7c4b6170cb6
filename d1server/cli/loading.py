"""A file of SQL as one transaction, however large: D1's import protocol, from the client's side.

    init (MD5) -> upload, on from where it broke off -> ingest -> poll to the end

A node that restarts, or a connection that breaks, does not end it: what was begun is asked
about first, and begun again only if surely nothing of it was done.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from d1server.call import NodeConnection, NodeRefused, NodeUnreachable, database_path
from d1server.cli.options import wishes
from d1server.cli.progress import Bar
from d1server.file_calls import FileUrl

ATTEMPTS_MAX: Final = 8
RETRY_PAUSE_S: Final = 0.5  # doubles with each attempt, but no further than this:
RETRY_PAUSE_S_MAX: Final = 10.0
_INTERRUPTED: Final = "The import was interrupted"
_READ_BYTES: Final = 1024 * 1024


class ImportRefused(Exception):
    """The node refused the file: nothing of it was applied. `place`: where in it, if known."""

    def __init__(self, message: str, place: str) -> None:
        """Carry the node's text."""
        super().__init__(message)
        self.place = place


class Interrupted(Exception):
    """The node stopped under the import, more than once: nothing of it was applied."""


@dataclass(slots=True)
class Loading:
    """One file on its way into one database."""

    node: NodeConnection
    database: str
    path: Path
    sleep: Callable[[float], None] = time.sleep
    _etag: str = ""
    _earlier: str = ""  # bookmark of an earlier import of the same file
    _reached: tuple[int, int] = (0, 0)  # bytes uploaded, statements done

    def run(self) -> dict[str, Any]:
        """Import the file; `result` of the node's last answer.

        Raises `ImportRefused`, `NodeRefused`; `NodeUnreachable` when it has tried long enough.
        """
        with Bar("reading", self.path.stat().st_size) as bar:
            self._etag = _md5(self.path, bar)
        self._earlier = self._newest().get("at_bookmark", "")
        failures, reached = 0, self._reached
        while True:
            try:
                told = self._begun() if failures else None
                return self._polled(told or self._begin())
            except (NodeUnreachable, NodeRefused, Interrupted) as exc:
                if isinstance(exc, NodeRefused) and not exc.should_retry:
                    raise
                failures = 1 if self._reached > reached else failures + 1
                reached = self._reached
                if failures > ATTEMPTS_MAX:
                    raise
            self.sleep(min(RETRY_PAUSE_S * 2 ** (failures - 1), RETRY_PAUSE_S_MAX))

    def _call(self, **body: str) -> dict[str, Any]:
        told = self.node.post(database_path(self.database, "import"), body).result_object()
        if not told.get("success") and body["action"] != "poll":
            raise NodeRefused(503, 7500, str(told.get("error")), should_retry=True)
        return told

    def _newest(self) -> dict[str, Any]:
        """The newest import of this very file; empty if another one is the newest."""
        told = self._call(action="poll")
        return told if str(told.get("filename")).endswith(f".{self._etag}.sql") else {}

    def _begun(self) -> dict[str, Any] | None:
        """What an attempt before began, if the node knows of it and has not undone it."""
        told = self._newest()
        if not told or told["at_bookmark"] == self._earlier or _is_interrupted(told):
            return None
        return told

    def _begin(self) -> dict[str, Any]:
        """Have the file there, and the import begun."""
        told = self._call(action="init", etag=self._etag)
        if "upload_url" not in told:
            return told
        size, start = self.path.stat().st_size, int(told.get("uploaded_bytes", 0))
        self._reached = (start, 0)
        with Bar("uploading", size) as bar, self.path.open("rb") as file:
            bar(start)
            url = FileUrl(told["upload_url"], wishes().ca_file())
            url.send(file, size, start, bar)
        return self._call(action="ingest", etag=self._etag, filename=told["filename"])

    def _polled(self, told: dict[str, Any]) -> dict[str, Any]:
        with Bar("importing", None) as bar:
            while told.get("status") == "active":
                progress = told["progress"]
                self._reached = (progress["bytes_total"], progress["queries"])
                bar.reach(progress["bytes_done"], progress["bytes_total"])
                told = self._call(action="poll", current_bookmark=told["at_bookmark"])
        if told.get("status") == "complete":
            result: dict[str, Any] = told["result"]
            return result
        if _is_interrupted(told):
            raise Interrupted(str(told["error"]))
        place = told["messages"][-1] if len(told.get("messages", ())) > 1 else ""
        raise ImportRefused(str(told.get("error")), place)


def _is_interrupted(told: dict[str, Any]) -> bool:
    return told.get("status") == "error" and str(told["error"]).startswith(_INTERRUPTED)


def _md5(path: Path, on_read: Callable[[int], None]) -> str:
    found = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            found.update(block)
            on_read(len(block))
    return found.hexdigest()
