"""The commit log of one database: every commit since the log's tail, durably.

A folder of segments (`engine/segment.py`). The log answers: which commits came after
this position, and is this position in our history?

Invariants:

1. Commits are contiguous and chained by digest; the log holds them from `tail` to `head`.
2. `durable <= head`, and nothing after `durable` is given to any reader.
3. One flush writes to one segment, with one write and one sync. So a flush that fails can
   leave its commits in one file only, and they can be erased there.
4. After a failed flush nothing is written until `drop_undurable` has erased what the flush
   may have left, durably; then the log goes on in a new file. No failed sync is retried
   and believed.
5. A segment is never read by this process before its bytes were synced, also after a
   crash: `open` writes again what may stand in the system's cache only.

Threads: the *owner* (event loop) calls `append`, `mark_durable`, the drops and the
questions; `flush`, `prepare_next` and `trim` block and run on I/O threads, each one
call at a time. The drops and `close` want no such call in progress. Readers may be on
any thread.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from engine.errors import LogFailed, PositionTrimmed, PositionUnknown
from engine.files import Disk
from engine.log_reader import LogReader
from engine.log_repair import reopen_last, write_header
from engine.log_survey import LogEnds, Segment, peek, survey
from engine.recent import RecentCommits
from engine.sealed import Extent, SealedSegments
from engine.segment import (
    SEGMENT_BYTES_MIN,
    SEGMENT_SUFFIX,
    TEMPORARY_SUFFIX,
    BlankFile,
    CommitState,
    SegmentFile,
    SegmentHeader,
    make_blank,
    segment_bytes_for,
    segment_name,
)
from engine.segment_scan import state_after, verify_segment
from proto.record import Buffer, CommitPart
from proto.tokens import Bookmark, CommitToken


class CommitLog:
    """See the module's head."""

    __slots__ = (
        "_active",
        "_appended_bytes",
        "_attempt",
        "_attempt_first",
        "_blanks",
        "_bytes_max",
        "_chain",
        "_commit_at",
        "_disk",
        "_failure",
        "_folder",
        "_head_state",
        "_next_part",
        "_numbers",
        "_pending",
        "_prepare_from",
        "_recent",
        "_sealed",
        "_settled_bytes",
        "_synced",
        "_untidy",
        "_uuid",
        "durable",
        "head",
    )

    head: Bookmark
    """After the newest complete commit appended, durable or not."""
    durable: Bookmark
    """After the newest commit that the owner knows to be durable."""

    # --- opening and closing ---------------------------------------------------------------

    def __init__(
        self, disk: Disk, folder: Path, sealed: SealedSegments, active: SegmentFile, bytes_max: int
    ) -> None:
        """Use `open` or `create`."""
        self._disk = disk
        self._folder = folder
        self._uuid = active.header.uuid
        self._bytes_max = bytes_max
        self._sealed = sealed
        self._active = active
        self._recent = RecentCommits()
        self._pending: deque[CommitPart] = deque()
        self._appended_bytes = 0  # counted by the owner
        self._settled_bytes = 0  # counted by the flush; the difference is pending
        self._attempt: SegmentFile | None = None  # what the flush in progress, or failed, writes
        self._attempt_first = active.header.first
        self._failure: str | None = None
        # The next segment's file, and full ones to finish: one I/O thread puts, another takes.
        self._blanks: deque[BlankFile] = deque()
        self._untidy: deque[SegmentFile] = deque()
        self._numbers = itertools.count()
        self._prepare_from = active.capacity // 2
        self._commit_at = 0
        self._start_at(active.header.after)

    def _start_at(self, state: CommitState) -> None:
        """Let the next commit follow `state`, which is durable."""
        self._synced = state
        self._head_state: CommitState | CommitPart = state  # what both say of the database
        self.head = self.durable = state.position
        self._chain = state.position.digest
        self._next_part = 0

    @classmethod
    def create(
        cls, folder: Path, uuid: bytes, disk: Disk, *, after: Bookmark, bytes_max: int
    ) -> "CommitLog":
        """Make an empty log whose first commit will follow `after`; removes any log there.

        Blocking. Raises `LogFailed`.
        """
        first = CommitToken(after.token.epoch, after.seq + 1)
        header = SegmentHeader(uuid, first, CommitState(after, 0, 0, 0))
        try:
            disk.make_folder(folder)
            for name in reversed(disk.list(folder)):  # newest first: never a log with a hole
                disk.remove(folder / name)
            active = write_header(disk, folder / f"first{TEMPORARY_SUFFIX}", header)
            path = folder / segment_name(first)
            disk.rename(active.path, path)
            active.path = path
            disk.sync_folder(folder)
        except OSError as exc:
            raise LogFailed(f"cannot create the commit log {folder}: {exc}") from exc
        return cls(disk, folder, SealedSegments(disk, uuid, [], after), active, bytes_max)

    @classmethod
    def open(cls, folder: Path, uuid: bytes, disk: Disk, *, bytes_max: int) -> "CommitLog":
        """Open the log in `folder`, repairing what a crash left. Blocking.

        Raises `LogCorrupt` if acknowledged commits are missing, `LogFailed` if the disk
        refuses.
        """
        try:
            found = survey(folder, uuid, disk)
            active = reopen_last(found, disk)
        except OSError as exc:
            raise LogFailed(f"cannot open the commit log {folder}: {exc}") from exc
        sealed = SealedSegments(disk, uuid, found.segments[:-1], found.tail)
        log = cls(disk, folder, sealed, active, bytes_max)
        log._start_at(found.last.state)
        return log

    @classmethod
    def peek(cls, folder: Path, uuid: bytes, disk: Disk) -> LogEnds:
        """The ends of a log that is not open, without changing anything; blocking and cheap.

        Raises `LogCorrupt`, `LogFailed`.
        """
        try:
            return peek(folder, uuid, disk)
        except OSError as exc:
            raise LogFailed(f"cannot read the commit log {folder}: {exc}") from exc

    def close(self) -> None:
        """Cut the last segment to what it holds and give all descriptors back; blocking.

        What was appended and not flushed is forgotten. The files are good whether or not
        the disk lets them be tidied.
        """
        if self._failure is not None:
            with contextlib.suppress(LogFailed):
                self.drop_undurable()
        self._tidy_sealed()
        if self._failure is None:
            with contextlib.suppress(OSError):
                self._active.tidy()
        self._active.close()
        if self._attempt is not None and self._attempt is not self._active:
            self._attempt.close()
        for blank in self._blanks:
            self._disk.close(blank.fd)
            with contextlib.suppress(OSError):
                self._disk.remove(blank.path)
        self._blanks.clear()
        self._pending.clear()
        self._recent.forget()

    # --- questions -------------------------------------------------------------------------

    @property
    def tail(self) -> Bookmark:
        """The state before the oldest commit held."""
        return self._sealed.tail

    @property
    def page_count(self) -> int:
        """Pages in the database at `head`; 0 if the log is empty and was not told."""
        return self._head_state.page_count

    @property
    def checksum(self) -> int:
        """Rolling checksum at `head`."""
        return self._head_state.checksum

    @property
    def time_ms(self) -> int:
        """The primary's clock at `head`."""
        return self._head_state.time_ms

    @property
    def pending_bytes(self) -> int:
        """Bytes appended that no finished flush has taken; the owner bounds them."""
        return self._appended_bytes - self._settled_bytes

    @property
    def bytes_total(self) -> int:
        """Bytes of commits in the files."""
        return self._sealed.bytes_total + self._active.end

    @property
    def ends(self) -> LogEnds:
        """What `peek` would say; also after `close`."""
        state = self._synced
        return LogEnds(
            head=state.position,
            tail=self.tail,
            bytes=self.bytes_total,
            page_count=state.page_count,
            checksum=state.checksum,
            time_ms=state.time_ms,
        )

    @property
    def has_failed(self) -> bool:
        """A flush failed; `drop_undurable` comes next."""
        return self._failure is not None

    def digest_at(self, seq: int) -> bytes | None:
        """The digest after commit `seq`; None if it is trimmed, or beyond `head`.

        At once for some thousands of recent commits; an older one costs a read, or a scan.
        Raises `LogCorrupt`, `OSError`.
        """
        digest = self._recent.digest_of(seq)
        if digest is not None:
            return digest
        if seq == self.head.seq:
            return self.head.digest
        tail = self.tail
        if seq <= tail.seq or seq > self._synced.position.seq:
            return tail.digest if seq == tail.seq else None
        try:
            return self._filed_digest(seq)
        except PositionTrimmed:
            return None

    def is_recent(self, position: Bookmark) -> bool:
        """`parts_after(position)` needs no disk."""
        return position == self.durable or self._recent.get(position.token.seq + 1) is not None

    def parts_after(self, position: Bookmark, *, bytes_max: int) -> list[CommitPart]:
        """The durable parts that follow the complete commit `position`; [] if there are none.

        About `bytes_max` bytes, ending with a complete commit unless the first one alone is
        larger: then go on with `reader`. Raises `PositionTrimmed`, `PositionUnknown`, and
        when it must read the files `LogCorrupt`, `OSError`.
        """
        durable = self.durable
        if position == durable:
            return []
        seq, durable_seq = position.token.seq, durable.token.seq
        part = self._recent.get(seq + 1)
        if part is None or seq >= durable_seq or part.prev_digest != position.digest:
            return self._filed_parts(position, bytes_max)
        parts: list[CommitPart] = []
        total = 0
        while part is not None and seq < durable_seq:
            total += len(part.raw)
            if parts and total > bytes_max:
                break
            parts.append(part)
            seq += 1
            part = self._recent.get(seq + 1)
        return parts

    def reader(self, position: Bookmark) -> LogReader:
        """A reader of the commits after `position`, for any one thread.

        Raises `PositionTrimmed`, `PositionUnknown`, `LogCorrupt`, `OSError`.
        """
        self._check_position(position)
        return LogReader(self, position, self._disk)

    def recent_part(self, seq: int) -> CommitPart | None:
        """The one-part commit `seq`, if it is in memory."""
        return self._recent.get(seq)

    def locate(self, seq: int, durable_seq: int) -> Extent:
        """Where the commits from `seq` to `durable_seq` stand, as far as in one file.

        Raises `PositionTrimmed`, `LogCorrupt`, `OSError`.
        """
        active = self._active
        if seq < active.index.first_seq:
            return self._sealed.locate(seq, before=active.index.first_seq)
        limit = active.index.offset_of(durable_seq + 1)
        return Extent(active.path, active.index.offset_of(seq), limit)

    def forget_recent(self) -> None:
        """Give the memory back that makes recent commits quick to read: the log is idle."""
        self._recent.forget()
        self._sealed.forget_indexes()
        if isinstance(self._head_state, CommitPart):
            self._head_state = state_after(self._head_state)

    def _filed_parts(self, position: Bookmark, bytes_max: int) -> list[CommitPart]:
        reader = self.reader(position)
        try:
            parts = reader.next(bytes_max)
        finally:
            reader.close()
        complete = len(parts)
        while complete and not parts[complete - 1].is_last:
            complete -= 1
        return parts[:complete] or parts

    def _check_position(self, position: Bookmark) -> None:
        """`position` is in this history, and what follows it is held."""
        durable, tail = self.durable, self.tail
        if position == durable:
            return
        if position.seq > durable.seq:
            raise PositionUnknown(f"{position} is ahead of this history, which ends at {durable}")
        if position.seq < tail.seq:
            raise PositionTrimmed(f"{position} is older than the log, which follows {tail}")
        digest = tail.digest if position.seq == tail.seq else self._filed_digest(position.seq)
        if digest != position.digest:
            raise PositionUnknown(f"{position} is of another history; ours ends at {durable}")

    def _filed_digest(self, seq: int) -> bytes:
        index = self._active.index
        if seq >= index.first_seq:
            return index.digest_of(seq)
        return self._sealed.digest_of(seq, before=index.first_seq)

    def verify(self) -> int:
        """Read and check every durable commit held; blocking. How many there are.

        Raises `LogCorrupt`, `LogFailed`.
        """
        durable = self.durable
        active = self._active
        segments = self._sealed.segments
        firsts = [*(segment.first.seq for segment in segments), active.index.first_seq]
        paths = [*(segment.path for segment in segments), active.path]
        position = tail = self.tail
        try:
            for path, before in zip(paths, [*firsts[1:], durable.seq + 1], strict=True):
                position = verify_segment(path, self._disk, after=position, before=before)
        except OSError as exc:
            raise LogFailed(f"cannot read the commit log {self._folder}: {exc}") from exc
        assert position == durable
        return position.seq - tail.seq

    # --- the owner's side of writing -------------------------------------------------------

    def append(self, parts: Sequence[CommitPart]) -> None:
        """Queue parts that follow what was appended before; never blocks."""
        for part in parts:
            digest = part.digest
            assert part.prev_digest == self._chain, f"{part!r} does not follow {self.head}"
            assert part.part == self._next_part, f"{part!r}, expected part {self._next_part}"
            (epoch, head_seq), _ = self.head
            token = part.token
            seq = token.seq
            assert seq == head_seq + 1, f"gap: {self.head} then {token}"
            assert token.epoch >= epoch, f"{token} is older than {self.head}"
            self._pending.append(part)
            self._appended_bytes += len(part.raw)
            self._chain = digest
            if part.is_last:
                self._next_part = 0
                self.head = Bookmark(token, digest)
                self._head_state = part
                self._recent.add(seq, part)
            else:
                self._next_part += 1

    def mark_durable(self, position: Bookmark) -> None:
        """Let readers have everything up to what `flush` returned."""
        assert self.durable.seq <= position.seq <= self._synced.position.seq
        # The same object when nothing is pending: "all is durable" is one `is`.
        self.durable = self.head if position == self.head else position

    def drop_partial(self) -> None:
        """Forget the parts of a commit that will not be completed."""
        if self._next_part == 0:
            return
        while self._pending and not self._pending[-1].is_last:
            self._appended_bytes -= len(self._pending.pop().raw)
        self._active.forget_partial()
        self._chain = self.head.digest
        self._next_part = 0

    def drop_undurable(self) -> None:
        """Erase, durably, everything that no successful flush covered; blocking.

        Afterwards `head` and `durable` are what the disk holds, and the log goes on in a new
        file. Raises `LogFailed` if the disk refuses; then those commits may be there
        after a restart, nothing may be flushed, and this may be called again.
        """
        attempt = self._attempt
        if attempt is not None:
            try:
                self._erase(attempt)
            except OSError as exc:
                raise LogFailed(
                    f"{self._failure}; and what it left cannot be erased: {exc}"
                ) from exc
        self._active.forget_partial()
        self._attempt = None
        self._failure = None
        self._pending.clear()
        self._settled_bytes = self._appended_bytes
        self._start_at(self._synced)
        self._recent.drop_after(self.head.seq)

    # --- the blocking side of writing ------------------------------------------------------

    def flush(self) -> Bookmark:
        """Write what was appended, make it durable, give the new durable position; blocking.

        Raises `LogFailed`: nothing of it counts, call `drop_undurable`.
        """
        if self._failure is not None:
            raise LogFailed(self._failure)
        batch = [self._pending.popleft() for _ in range(len(self._pending))]
        if not batch:
            return self._synced.position
        pieces: list[Buffer] = [part.raw for part in batch]
        count = sum(map(len, pieces))
        self._attempt_first = batch[0].token
        try:
            at = self._write(batch[0], pieces, count)
        except Exception as exc:  # whatever it was: part of the batch may be in the file
            self._failure = f"the commit log {self._folder} cannot be written: {exc}"
            raise LogFailed(self._failure) from exc
        self._note_synced(batch, at)
        self._settled_bytes += count
        return self._synced.position

    @property
    def wants_next(self) -> bool:
        """`prepare_next` has something to do."""
        return bool(self._untidy) or (not self._blanks and self._active.end >= self._prepare_from)

    def prepare_next(self) -> None:
        """Make the next segment's file, and finish the one before; blocking.

        May run beside `flush`. A full disk is no error here: `flush` decides.
        """
        self._tidy_sealed()
        active = self._active
        if self._blanks or active.end < self._prepare_from:
            return
        try:
            size = segment_bytes_for(2 * max(active.end, active.capacity))
            self._blanks.append(make_blank(self._disk, self._temporary_path(), size))
        except OSError:
            rest = max(active.capacity - active.end, SEGMENT_BYTES_MIN)
            self._prepare_from = active.end + rest // 2

    def trim(self, keep: Bookmark) -> int:
        """Remove old segments while the log is longer than `bytes_max`; blocking.

        Only segments whose commits are all at or before `keep`, and never the last one.
        Gives the bytes removed. Raises `LogFailed`, `LogCorrupt`.
        """
        try:
            return self._sealed.trim(
                keep,
                end=self._active.header.after.position,
                excess=self.bytes_total - self._bytes_max,
            )
        except OSError as exc:
            raise LogFailed(f"cannot trim the commit log {self._folder}: {exc}") from exc

    def _write(self, first: CommitPart, pieces: list[Buffer], count: int) -> int:
        """Write and sync a flush; the offset where it begins. Raises `OSError`."""
        active = self._active
        if first.part == 0 and not active.has_room(count):
            return self._write_new_segment(first.token, pieces, count)
        assert active.capacity, "a segment with a failed sync takes no more"
        at = active.end
        self._attempt = active
        active.write(pieces, count)
        active.sync()
        self._attempt = None
        return at

    def _write_new_segment(self, first: CommitToken, pieces: list[Buffer], count: int) -> int:
        """Begin a segment with this flush."""
        self._tidy_sealed()
        try:
            blank = self._blanks.popleft()
        except IndexError:
            blank = make_blank(self._disk, self._temporary_path(), 0)
        header = SegmentHeader(self._uuid, first, self._synced)
        self._attempt = segment = SegmentFile(self._disk, blank, header)
        head = header.encode()
        segment.write([head, *pieces], len(head) + count)
        segment.sync()
        self._put_in_place(segment)
        self._attempt = None
        return len(head)

    def _put_in_place(self, segment: SegmentFile) -> None:
        """Give a synced segment its name, durably, and go on in it."""
        path = self._folder / segment_name(segment.header.first)
        self._disk.rename(segment.path, path)
        segment.path = path
        old = self._active
        if not len(old.index) and old.path != path:
            self._disk.remove(old.path)  # or its name could be taken for the newer one
        self._disk.sync_folder(self._folder)
        self._adopt(segment)

    def _adopt(self, segment: SegmentFile) -> None:
        """Make `segment` the one that is written."""
        old = self._active
        if len(old.index):
            listed = Segment(old.path, old.header.first, old.index.end)
            self._sealed.add(listed, old.index)
            self._untidy.append(old)
        else:
            old.close()
        self._active = segment
        self._prepare_from = segment.capacity // 2

    def _note_synced(self, batch: list[CommitPart], at: int) -> None:
        """Enter the commits of a flush, which begins at offset `at`, in the index."""
        active = self._active
        last = None
        for part in batch:
            if part.part == 0:
                self._commit_at = at
            active.last_part_at = at
            at += len(part.raw)
            if part.is_last:
                active.index.add(self._commit_at, part.digest, at)
                last = part
        if last is not None:
            self._synced = state_after(last)

    def _erase(self, attempt: SegmentFile) -> None:
        """Make sure that nothing of a failed flush is found after a restart."""
        if attempt.path.suffix != SEGMENT_SUFFIX:
            self._discard(attempt)  # it never got its name
            return
        try:
            attempt.cut()
        except OSError:
            self._supersede(attempt)
            return
        if attempt is not self._active:
            self._adopt(attempt)

    def _supersede(self, attempt: SegmentFile) -> None:
        """Put an empty segment over what cannot be erased: a later segment wins."""
        header = SegmentHeader(self._uuid, self._attempt_first, self._synced)
        segment = write_header(self._disk, self._temporary_path(), header)
        try:
            self._put_in_place(segment)
        except OSError:
            self._discard(segment)
            raise
        if attempt is not self._active and attempt not in self._untidy:
            attempt.close()

    def _discard(self, segment: SegmentFile) -> None:
        """Give a segment that is not in use back, and its file if it has no name yet."""
        segment.close()
        if segment.path.suffix != SEGMENT_SUFFIX:
            with contextlib.suppress(OSError):
                self._disk.remove(segment.path)

    def _tidy_sealed(self) -> None:
        """Finish the segments that are full; what the disk refuses is only space and speed."""
        while self._untidy:
            with contextlib.suppress(IndexError):  # the other thread took it
                segment = self._untidy.popleft()
                with contextlib.suppress(OSError):
                    segment.tidy()
                segment.close()

    def _temporary_path(self) -> Path:
        return self._folder / f"next-{next(self._numbers)}{TEMPORARY_SUFFIX}"
