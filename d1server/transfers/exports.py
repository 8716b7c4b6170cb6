"""Exports: a database as SQL text in a file of this node, made from one snapshot.

    asked -> ACTIVE: a thread writes the file -> COMPLETE: fetched by a signed URL | FAILED

Invariants:

1. At most one export of a database is ACTIVE, and at most `_ACTIVE_MAX` of the node.
2. One that nobody asks about for `_UNASKED_S_MAX` seconds is stopped: it keeps the WAL from
   beginning anew.
3. Its file goes an hour after it was finished; what an earlier process left goes at the start.

On the event loop, but for `_write_dump`.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import apsw

from d1server.query import Answer
from d1server.transfers.bodies import EXPORT_BUSY, NOT_EXPORTING, job_answer, read_export, refused
from d1server.transfers.jobs import Status, hold
from d1server.transfers.signing import SIGNED_PREFIX, SignUrl
from engine.dump import DumpOptions, dump
from engine.errors import BudgetExceeded, DeadlineExceeded, EngineError, StatementRefused
from engine.files import Disk, is_no_room
from engine.ondemand import Retired
from engine.resources import Resources
from engine.threads import until_done
from engine.transaction import SqlConnection
from primary.committer import Spawn
from primary.database import PrimaryDatabase
from primary.errors import Overloaded, PrimaryError
from primary.snapshot import snapshot_at

logger = logging.getLogger(__name__)

EXPORTS_PATH: Final = f"{SIGNED_PREFIX}exports/"
KEPT_S: Final = 3600.0
_ACTIVE_MAX: Final = 2  # each takes one of the few threads for long reads
_UNASKED_S_MAX: Final = 60.0
_RUN_S_MAX: Final = 6 * 3600.0
_BLOCK_CHARS: Final = 1024 * 1024
_STOPPED: Final = "the export was stopped"


@dataclass(slots=True, eq=False)
class Export:
    """One export."""

    options: DumpOptions
    file: Path
    status: Status = Status.ACTIVE
    bookmark: str = ""  # set once `begun` is, unless it was stopped before
    error: str = ""
    hint: str = ""
    bytes_written: int = 0  # by the thread
    asked_at: float = field(default_factory=time.monotonic)
    ended_at: float = 0.0  # once COMPLETE
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class Exports:
    """See the module's head."""

    def __init__(
        self,
        folder: Path,
        resources: Resources,
        *,
        spawn: Spawn,
        sign_url: SignUrl,
    ) -> None:
        """Keep files in `folder`; `sign_url` says where they are."""
        self._folder = folder
        self._resources = resources
        self._spawn = spawn
        self._sign_url = sign_url
        self._newest: dict[bytes, Export] = {}
        self._finished: list[Export] = []

    def open(self) -> None:
        """Make the folder, empty; blocking."""
        disk = self._resources.disk
        disk.make_folder(self._folder)
        for name in disk.list(self._folder):
            disk.remove(self._folder / name)

    async def answer(self, database: PrimaryDatabase, body: bytes) -> Answer:
        """Begin an export, or tell how far it is."""
        asked = read_export(body)
        export = self._newest.get(database.uuid)
        if asked.poll is None:
            if export is not None and export.status is Status.ACTIVE:
                return refused(EXPORT_BUSY)
            if self._active_count() >= _ACTIVE_MAX:
                raise Overloaded(f"the node makes {_ACTIVE_MAX} exports already: try again later")
            export = self._begin(database, asked.options)
            await export.begun.wait()
        elif export is None or export.bookmark != asked.poll:
            return refused(NOT_EXPORTING)
        export.asked_at = time.monotonic()
        await hold(export.ended)
        export.asked_at = time.monotonic()
        return self._told(export)

    def find(self, file_name: str) -> Export | None:
        """The finished export with this file, while it is kept."""
        for export in self._finished:
            if export.file.name == file_name:
                return export
        return None

    def sweep(self) -> None:
        """Stop what nobody asks about, remove what is too old."""
        now = time.monotonic()
        for export in self._newest.values():
            if export.status is Status.ACTIVE and now - export.asked_at > _UNASKED_S_MAX:
                _stop(export)
        for export in [one for one in self._finished if now - one.ended_at > KEPT_S]:
            self._finished.remove(export)
            self._resources.disk.remove(export.file)

    async def forget(self, key: bytes) -> None:
        """The database is deleted: so are its exports."""
        export = self._newest.pop(key, None)
        if export is not None:
            await _stopped([export])
            if export in self._finished:
                self._finished.remove(export)
                self._resources.disk.remove(export.file)

    async def close(self) -> None:
        """Stop all; their databases are closed next."""
        await _stopped(self._newest.values())

    def _active_count(self) -> int:
        return sum(export.status is Status.ACTIVE for export in self._newest.values())

    def _begin(self, database: PrimaryDatabase, options: DumpOptions) -> Export:
        export = Export(options, self._folder / f"{secrets.token_hex(16)}.sql")
        self._newest[database.uuid] = export
        task = self._spawn(self._run(database, export), f"export:{database.uuid.hex()}")
        task.add_done_callback(lambda _: self._ended(database, export))
        export.task = task
        return export

    async def _run(self, database: PrimaryDatabase, export: Export) -> None:
        try:
            async with (
                database.demand.used() as opened,
                snapshot_at(opened) as (reader, bookmark),
            ):
                export.bookmark = bookmark.text
                export.begun.set()
                disk = self._resources.disk
                writing = self._resources.readers.start(_write_dump, reader, export, disk)
                await until_done(writing, stop=reader.sandbox.interrupt)
            export.status = Status.COMPLETE
            export.ended_at = time.monotonic()
            self._finished.append(export)
        except StatementRefused as exc:
            export.error, export.hint = exc.message, exc.hint
        except (EngineError, PrimaryError, Retired, OSError, apsw.Error) as exc:
            export.error = _told_error(exc)

    def _ended(self, database: PrimaryDatabase, export: Export) -> None:
        """Its task is done, and has perhaps not even begun: one that is stopped at once."""
        if export.status is Status.ACTIVE:
            assert export.task is not None
            is_stopped = export.task.cancelled()
            export.status = Status.FAILED
            export.error = export.error or (_STOPPED if is_stopped else "internal error")
            self._resources.disk.remove(export.file)
            logger.info("an export of %s failed: %s", database.uuid.hex(), export.error)
        export.begun.set()
        export.ended.set()

    def _told(self, export: Export) -> Answer:
        result: dict[str, object] | None = None
        messages = ["Generating SQL dump"]
        if export.status is Status.COMPLETE:
            url = self._sign_url("GET", EXPORTS_PATH + export.file.name, KEPT_S)
            result = {"filename": f"{export.bookmark}.sql", "signed_url": url}
        if export.bytes_written:
            messages.append(f"Written {export.bytes_written} bytes")
        if export.hint:
            messages.append(export.hint)
        return job_answer(
            "export",
            export.status.value,
            export.bookmark,
            messages=messages,
            error=export.error,
            result=result,
            more={"progress": {"bytes_done": export.bytes_written}},
        )


def _stop(export: Export) -> None:
    if export.task is not None:
        export.task.cancel()


async def _stopped(exports: Iterable[Export]) -> None:
    tasks = [export.task for export in exports if export.task is not None]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _told_error(exc: Exception) -> str:
    if isinstance(exc, OSError) and is_no_room(exc):
        return "the disk has no room for the export: free some space and try again"
    if isinstance(exc, DeadlineExceeded | BudgetExceeded):
        return "the export was stopped: it took too long, or too much was written meanwhile"
    return str(exc)


def _write_dump(reader: SqlConnection, export: Export, disk: Disk) -> None:
    """Write the file; on a thread, with memory for one block and one row."""
    with (
        reader.sandbox.limit_time(_RUN_S_MAX),
        closing(dump(reader.sandbox, export.options)) as lines,
        export.file.open("xb") as file,
    ):
        for block in _blocks(lines):
            disk.check_room(export.file.parent, len(block))
            file.write(block)
            export.bytes_written += len(block)


def _blocks(lines: Iterable[str]) -> Iterator[bytes]:
    waiting: list[str] = []
    chars = 0
    for line in lines:
        waiting += (line, "\n")
        chars += len(line)
        if chars >= _BLOCK_CHARS:
            yield "".join(waiting).encode()
            waiting.clear()
            chars = 0
    yield "".join(waiting).encode()
