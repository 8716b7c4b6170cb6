"""Reads of one live database: short ones inline in the event loop, the others on threads.

A point read costs less than handing it to a thread. So every read first runs inline with
a budget of about a millisecond; one that exceeds it is stopped and run again on a thread,
which is safe because it only reads. The loop never stalls for longer than the budget, but
for what a single opcode of SQLite may take.

The gate bounds the WAL: while it is held, no new read starts on a thread, the running ones
drain within their deadline, and a checkpoint can begin the WAL anew. Inline reads need no
gate, they end before the loop does anything else. A *long snapshot* (an export) stays
outside the gate: it would hold writes up for minutes. The WAL grows meanwhile, up to the bound
at which the committer has the snapshot stopped.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar

from engine.errors import BudgetExceeded, DatabaseClosed, DeadlineExceeded
from engine.live import POOL_READERS_MAX, LiveDatabase
from engine.threads import Threads, until_done
from engine.transaction import SqlConnection, Step, read, steps_of, writes, writes_in_time
from proto.api import Statement, StatementResult

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

INLINE_BUDGET_S: Final = 0.001
_CUT_INLINE_MAX: Final = 64 * 1024  # characters of SQL: some 10 ms in the event loop at the worst
_STOP_AGAIN_S: Final = 0.05


class _Work(Protocol[T_co]):
    """What a thread does with a reader."""

    def __call__(
        self, connection: SqlConnection, steps: Sequence[Step], *, budget_s: float
    ) -> T_co: ...


class Reads:
    """Runs the reads of one live database, on the event loop's side of it."""

    def __init__(self, live: LiveDatabase, threads: Threads, *, deadline_s: float) -> None:
        """Serve reads of `live`; one that takes longer than `deadline_s` is stopped."""
        self._live = live
        self._threads = threads
        self._deadline_s = deadline_s
        self._places = asyncio.Semaphore(POOL_READERS_MAX)
        self._inside = 0
        self._snapshots: list[SqlConnection] = []
        self._is_finished = False
        self._gate = asyncio.Event()
        self._gate.set()
        self._none_inside = asyncio.Event()
        self._none_inside.set()

    def now(self, steps: Sequence[Step]) -> list[StatementResult]:
        """Read inline. Raises `BudgetExceeded` (then use `on_thread`), `StatementRefused`."""
        return read(self._live.reader, steps, budget_s=INLINE_BUDGET_S)

    async def writes(self, steps: Sequence[Step]) -> bool:
        """`writes` of `engine/transaction.py`; what takes long is planned on a thread.

        Raises `DeadlineExceeded`, `StatementRefused`, `DatabaseClosed`.
        """
        try:
            return writes(self._live.reader, steps)
        except BudgetExceeded:
            return await self._with_reader(writes_in_time, steps)

    async def steps_of(self, statements: Sequence[Statement]) -> list[Step]:
        """`steps_of` of `engine/transaction.py`; a long text is cut on a thread."""
        if sum([len(statement.sql) for statement in statements]) <= _CUT_INLINE_MAX:
            return steps_of(statements)
        return await self._threads.call(steps_of, statements)

    async def aside(self, work: Callable[[], T]) -> T:
        """Do what follows a read, and takes long, on a thread."""
        return await self._threads.call(work)

    async def run(self, steps: Sequence[Step]) -> list[StatementResult]:
        """Read inline, and if that takes too long on a thread. Raises as `on_thread` does."""
        try:
            return self.now(steps)
        except BudgetExceeded:
            return await self.on_thread(steps)

    async def on_thread(self, steps: Sequence[Step]) -> list[StatementResult]:
        """Read on a thread. Cancelling stops the query.

        Raises `DeadlineExceeded`, `StatementRefused`, `DatabaseClosed`.
        """
        return await self._with_reader(read, steps)

    async def _with_reader(self, work: _Work[T], steps: Sequence[Step]) -> T:
        async with self._places, self.inside():
            reader = self._live.borrow_reader()
            try:
                running = self._threads.start(work, reader, steps, budget_s=self._deadline_s)
                return await until_done(running, stop=reader.sandbox.interrupt)
            except BudgetExceeded as exc:
                raise DeadlineExceeded(
                    f"the query took longer than {self._deadline_s:g} s and was stopped; "
                    "add an index, or ask for less at a time"
                ) from exc
            finally:
                self._live.return_reader(reader)

    @property
    def has_snapshots(self) -> bool:
        """A long snapshot is held: the WAL cannot begin anew."""
        return bool(self._snapshots)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[SqlConnection]:
        """A reader for a read of minutes, outside the gate; the caller begins and ends.

        Whoever runs something on it ends when it is interrupted: `stop_snapshots` does that,
        again and again. Raises `DatabaseClosed`.
        """
        async with self._places:
            if self._is_finished:
                raise DatabaseClosed("the database was closed under a request")
            reader = self._live.borrow_reader()
            self._snapshots.append(reader)
            try:
                yield reader
            finally:
                self._snapshots.remove(reader)
                self._live.return_reader(reader)

    async def stop_snapshots(self) -> None:
        """Return once no long snapshot is held any more."""
        while self._snapshots:
            for reader in self._snapshots:
                reader.sandbox.interrupt()
            await asyncio.sleep(_STOP_AGAIN_S)

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        """Within this, the database is not closed and its WAL is not begun anew.

        Raises `DatabaseClosed`: find the database again, it may be open anew.
        """
        await self._gate.wait()
        if self._is_finished:
            raise DatabaseClosed("the database was closed under a request")
        self._inside += 1
        self._none_inside.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._none_inside.set()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Within this, nobody is inside: those who were have left, new ones wait."""
        self._gate.clear()
        try:
            await self._none_inside.wait()
            yield
        finally:
            self._gate.set()

    async def finish(self) -> None:
        """Let nobody in any more, and return once all have left; before closing `live`."""
        self._is_finished = True
        await self.stop_snapshots()
        await self._none_inside.wait()
