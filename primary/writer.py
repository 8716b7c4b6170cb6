"""Execute one write, capture its pages, append its record to the log.

Synchronous: everything between a request's SQL and its record in the log's queue. Used
by one thread at a time: the event loop for short writes, an I/O thread for long ones.

Invariants:

1. After `execute` or `vacuum` returns, the log's head is the state of the database; after
   it raises anything but `LogFailed` or `DatabaseDamaged`, nothing was changed.
2. `is_publishing` is true from just before a commit becomes visible to readers until its
   record is the log's head: a reader on another thread may then have seen more than the head.
   It stays true when the record could not be made: such a commit will never be durable.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import apsw
import msgspec

from engine.capture import PageImages
from engine.errors import DatabaseDamaged, EngineError
from engine.live import LiveDatabase
from engine.load import SqlLoad, load
from engine.log import CommitLog
from engine.transaction import Step, write
from engine.wal import PAGE_SIZE
from primary.idempotency import IdempotencyKey, find_answer, store_answer
from proto.api import StatementResult
from proto.record import PART_PAGE_BYTES_MAX, CommitPart, encode_part
from proto.tokens import Bookmark, CommitToken

_PART_PAGES: Final = PART_PAGE_BYTES_MAX // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class KeyedWrite:
    """Exactly-once wish of a write: its key, and how its answer is put into bytes."""

    key: IdempotencyKey
    encode: Callable[[list[StatementResult]], bytes]


@dataclass(frozen=True, slots=True)
class CheckedWrite:
    """A write that is not kept if `check` refuses its results; it raises `StatementRefused`."""

    check: Callable[[list[StatementResult]], None]


class Written(msgspec.Struct, frozen=True, gc=False):
    """What a write did. With `replayed`, the stored answer of an earlier try, it did nothing."""

    results: list[StatementResult]
    bookmark: Bookmark
    page_count: int
    replayed: bytes | None = None


class Writer:
    """The one writer of a live database; see the module's head."""

    def __init__(self, live: LiveDatabase, log: CommitLog) -> None:
        """Take over the writer connection of `live`."""
        self._live = live
        self._log = log
        self._wish: KeyedWrite | CheckedWrite | None = None  # of the write that runs
        self._frames_end = 0
        self.wal_frames = 0
        self.is_publishing = False
        self.page_count = live.base.page_count
        live.keeper.set_wal_hook(self._on_wal)

    def execute(
        self,
        steps: Sequence[Step],
        wish: KeyedWrite | CheckedWrite | None,
        *,
        budget_s: float,
        after_part: Callable[[], None] | None = None,
    ) -> Written:
        """Run `steps` as one transaction and log it.

        `after_part` is called after each part of a commit of several. Raises
        `StatementRefused`, `BudgetExceeded`, `KeyReused`; `LogFailed`, `DatabaseDamaged`:
        the commit happened and cannot be logged.
        """
        if isinstance(wish, KeyedWrite):
            stored = find_answer(self._live.writer.sandbox, wish.key)
            if stored is not None:
                return Written([], self._log.head, self.page_count, replayed=stored)
        self._wish = wish
        self._frames_end = 0
        try:
            results = write(
                self._live.writer, steps, budget_s=budget_s, before_commit=self._before_commit
            )
        except BaseException:
            self.is_publishing = False
            raise
        self._log_commit(after_part)
        self.is_publishing = False
        return Written(results, self._log.head, self.page_count)

    def _before_commit(self, results: list[StatementResult]) -> None:
        wish, self._wish = self._wish, None
        if isinstance(wish, KeyedWrite):
            store_answer(self._live.writer.sandbox, wish.key, wish.encode(results))
        elif wish is not None:
            wish.check(results)
        self.is_publishing = True

    def load(
        self,
        source: SqlLoad,
        keyed: KeyedWrite,
        *,
        budget_s: float,
        after_part: Callable[[], None],
    ) -> Written:
        """Run a file as one transaction and log it; its answer is kept under its key.

        Raises as `execute`, and `OSError` if the file cannot be read.
        """
        sandbox = self._live.writer.sandbox

        def before_commit(result: StatementResult) -> None:
            store_answer(sandbox, keyed.key, keyed.encode([result]))
            self.is_publishing = True

        self._frames_end = 0
        try:
            result = load(sandbox, source, budget_s=budget_s, before_commit=before_commit)
        except BaseException:
            self.is_publishing = False
            raise
        self._log_commit(after_part)
        self.is_publishing = False
        return Written([result], self._log.head, self.page_count)

    def interrupt(self) -> None:
        """Stop the statement that a thread runs now; from any thread."""
        self._live.writer.sandbox.interrupt()

    def vacuum(self, after_part: Callable[[], None]) -> Written:
        """Run VACUUM as one commit and log it. Raises as `execute`.

        `is_publishing` stays false: VACUUM changes no row, so a read in the middle that
        carries the bookmark from before it tells no lie.
        """
        self._frames_end = 0
        self._live.writer.sandbox.vacuum()
        self._log_commit(after_part)
        return Written([], self._log.head, self.page_count)

    def _on_wal(self, _connection: apsw.Connection, _name: str, frames: int) -> int:
        self._frames_end = self.wal_frames = frames
        return apsw.SQLITE_OK

    def _log_commit(self, after_part: Callable[[], None] | None) -> None:
        """Capture the commit that just happened. One without a frame has no token."""
        end = self._frames_end
        if end == 0:
            return
        try:
            images = self._live.capture.read(end, frames_max=_PART_PAGES)
            if images is not None:
                self._append([self._part(images, None, is_last=True)])
            else:
                self._log_in_parts(end, after_part)
        except EngineError:
            raise
        except Exception as exc:
            raise DatabaseDamaged(f"a commit could not be put into the log: {exc!r}") from exc

    def _log_in_parts(self, end: int, after_part: Callable[[], None] | None) -> None:
        before: CommitPart | None = None
        pieces = self._live.capture.read_in_pieces(end, pages_max=_PART_PAGES)
        images = next(pieces)
        for following in pieces:
            before = self._part(images, before, is_last=False)
            self._append([before])
            if after_part is not None:
                after_part()
            images = following
        self._append([self._part(images, before, is_last=True)])

    def _append(self, parts: list[CommitPart]) -> None:
        self._log.append(parts)

    def _part(self, images: PageImages, before: CommitPart | None, *, is_last: bool) -> CommitPart:
        """The next part of the commit after the log's head; `before` is its part before."""
        log = self._log
        (epoch, seq), digest = log.head
        pgnos, pages, page_count = images
        checksum = self._live.pages.replace(pgnos, pages, page_count)
        self.page_count = page_count
        return encode_part(
            CommitToken(epoch, seq + 1),
            digest if before is None else before.digest,
            pgnos,
            pages,
            page_count=page_count,
            page_size=PAGE_SIZE,
            checksum=checksum if is_last else 0,
            time_ms=time.time_ns() // 1_000_000,
            durable_seq=log.durable.token.seq,
            part=0 if before is None else before.part + 1,
            is_last=is_last,
        )
