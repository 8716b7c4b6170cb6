"""Reading a log from a position on, while it grows.

A reader takes complete, durable commits only, from memory when the log still has them
there, else from the files through a descriptor of its own: a segment that is trimmed
under it stays readable to the end. A commit of any size passes in parts, with no more
than `bytes_max` or one part in memory.

Every part is checked to follow the one before, wherever it came from.
"""

from typing import TYPE_CHECKING

from engine.errors import LogCorrupt, PositionTrimmed
from engine.files import Disk
from engine.segment_scan import RESTORE_HINT, Chain, PartStream
from proto.errors import RecordCorrupt, RecordTruncated
from proto.record import CommitPart
from proto.tokens import Bookmark

if TYPE_CHECKING:
    from engine.log import CommitLog


class LogReader:
    """The commits after a position, in order. One thread at a time; close it."""

    __slots__ = ("_chain", "_disk", "_held", "_log", "_stream", "is_between_commits", "position")

    position: Bookmark
    """After the newest complete commit that was given."""
    is_between_commits: bool
    """The last part given ended a commit."""

    def __init__(self, log: "CommitLog", position: Bookmark, disk: Disk) -> None:
        """Begin after `position`, which the log found to be in its history."""
        self._log = log
        self._disk = disk
        self._chain = Chain(position)
        self._stream: PartStream | None = None
        self._held: CommitPart | None = None
        self.position = position
        self.is_between_commits = True

    def next(self, bytes_max: int) -> list[CommitPart]:
        """The next durable parts, `bytes_max` in all or one that is longer; [] if there are none.

        Blocks on the disk when the position is older than the log's memory. Raises
        `PositionTrimmed` if the log was trimmed past it, `LogCorrupt`, `OSError`.
        """
        durable_seq = self._log.durable.seq
        parts: list[CommitPart] = []
        total = 0
        while True:
            part = self._held or self._read(durable_seq)
            if part is None:
                break
            total += len(part.raw)
            if parts and total > bytes_max:
                self._held = part
                break
            self._held = None
            self.is_between_commits = part.is_last
            if part.is_last:
                self.position = part.bookmark
            parts.append(part)
        return parts

    def close(self) -> None:
        """Give the descriptor back, if one is held. The reader may be used again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _read(self, durable_seq: int) -> CommitPart | None:
        """The part after the one read last."""
        chain = self._chain
        if chain.part == 0:
            if chain.seq >= durable_seq:
                self.close()
                return None
            part = self._log.recent_part(chain.seq + 1)
            if part is not None:
                self.close()
                self._follow(part, "memory")
                return part
        return self._read_file(durable_seq)

    def _read_file(self, durable_seq: int) -> CommitPart:
        stream = self._stream
        if stream is None or stream.offset >= stream.limit:
            assert self._chain.part == 0, "a commit is never split between segments"
            stream = self._open_stream(self._chain.seq + 1, durable_seq)
        where = f"{stream.path} at offset {stream.offset}"
        try:
            part = stream.next()
        except (RecordCorrupt, RecordTruncated) as exc:
            raise LogCorrupt(
                f"{where} is damaged ({exc}): {self._chain.expected()} cannot be read. "
                f"{RESTORE_HINT}"
            ) from exc
        self._follow(part, where)
        return part

    def _open_stream(self, seq: int, durable_seq: int) -> PartStream:
        extent = self._log.locate(seq, durable_seq)
        stream = self._stream
        if stream is not None and stream.path == extent.path and stream.offset == extent.offset:
            stream.limit = extent.limit
            return stream
        self.close()
        try:
            self._stream = PartStream(
                self._disk, extent.path, offset=extent.offset, limit=extent.limit
            )
        except FileNotFoundError as exc:
            raise PositionTrimmed(f"commit {seq} was trimmed a moment ago") from exc
        return self._stream

    def _follow(self, part: CommitPart, where: str) -> None:
        if not self._chain.takes(part):
            raise LogCorrupt(
                f"{where} is damaged: {part!r} stands where {self._chain.expected()} should. "
                f"{RESTORE_HINT}"
            )
        self._chain.advance(part)
