"""Carries out one copy of the primary's file: the messages in order, on a thread.

Owned by its `ReplicaDatabase`. The queue is bounded by the primary's window, which is
freed only by what is written here.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from engine.resources import Resources
from engine.threads import until_done
from proto.messages import SnapshotBegin, SnapshotEnd, SnapshotPages
from proto.record import CommitPart
from replica.bootstrap import FileCopy

Step: TypeAlias = SnapshotPages | SnapshotEnd | list[CommitPart]


class CopyUnderWay:
    """The messages of one copy, and the copy that becomes of them; see the module's head."""

    def __init__(
        self,
        folder: Path,
        begin: SnapshotBegin,
        resources: Resources,
        on_written: Callable[[], None],
    ) -> None:
        """Copy for the database in `folder`."""
        self._folder = folder
        self._begin = begin
        self._io = resources.io
        self._resources = resources
        self._on_written = on_written
        self._steps: asyncio.Queue[Step] = asyncio.Queue()
        self._copy: FileCopy | None = None
        self.unwritten_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self.is_dropped = False

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes of the file: copied, in all."""
        copy = self._copy
        return (copy.bytes_copied, copy.bytes_expected) if copy is not None else (0, 0)

    def put(self, step: Step) -> None:
        """Take the next message."""
        self.unwritten_bytes += _size(step)
        self._steps.put_nowait(step)

    async def completed(self) -> FileCopy:
        """Return the copy when it is complete, ready to be installed.

        Raises `HistoryDiverged`, `LogFailed`, `OSError`; then, and when cancelled, nothing
        of it remains.
        """
        beginning = self._io.start(FileCopy, self._folder, self._begin, self._resources)
        try:
            self._copy = copy = await until_done(beginning)
        except asyncio.CancelledError:
            if not beginning.cancelled() and beginning.exception() is None:
                await self._io.call(beginning.result().abandon)
            raise
        try:
            while not copy.is_complete:
                step = await self._steps.get()
                await self._io.call(_do, copy, step)
                self.unwritten_bytes -= _size(step)
                self._on_written()
        except BaseException:
            await self._io.call(copy.abandon)
            raise
        return copy

    def rest(self) -> list[list[CommitPart]]:
        """Commits that came after those that completed the copy."""
        rest: list[list[CommitPart]] = []
        while not self._steps.empty():
            step = self._steps.get_nowait()
            if isinstance(step, list):
                rest.append(step)
        return rest


def _do(copy: FileCopy, step: Step) -> None:
    if isinstance(step, SnapshotPages):
        copy.write_pages(step)
    elif isinstance(step, SnapshotEnd):
        copy.end_pages(step.until.bookmark)
    else:
        copy.append(step)


def _size(step: Step) -> int:
    """Content bytes, as the primary counts its window."""
    if isinstance(step, SnapshotPages):
        return len(step.data)
    return 0 if isinstance(step, SnapshotEnd) else sum(map(len, step))
