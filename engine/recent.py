"""The newest commits and digests of one log, in memory.

Feeds that keep up read from here and never touch the disk; bookmarks are checked here in
well under a microsecond. All of it can be forgotten at any time: the log's files hold the
same.

Invariants:

1. The parts held are one-part commits of consecutive numbers, the newest included; a
   large commit empties the store, because feeds must stream it from the files.
2. `parts_bytes <= PARTS_BYTES_MAX`; digests of at most `2 * DIGESTS_MAX` commits.

Changed on the event loop only; other threads may `get` (a miss sends them to the files).
"""

from typing import Final

from proto.record import CommitPart
from proto.tokens import DIGEST_BYTES

PARTS_BYTES_MAX: Final = 8 * 1024 * 1024
PART_BYTES_MAX: Final = 1024 * 1024
"""Commits above this are read from the files."""
DIGESTS_MAX: Final = 4096


class RecentCommits:
    """See the module's head."""

    __slots__ = ("_digests", "_digests_from", "_oldest", "_parts", "get", "parts_bytes")

    def __init__(self) -> None:
        """Hold nothing."""
        self._parts: dict[int, CommitPart] = {}
        self._oldest = 0
        self._digests = bytearray()
        self._digests_from = 0
        self.parts_bytes = 0
        self.get = self._parts.get
        """The commit of that number, None if it is not here."""

    def add(self, seq: int, part: CommitPart) -> None:
        """Take the last part of the commit `seq`, which follows the one added before."""
        digests = self._digests
        if not digests:
            self._digests_from = seq
        digests += part.digest
        if len(digests) >= 2 * DIGESTS_MAX * DIGEST_BYTES:
            del digests[: DIGESTS_MAX * DIGEST_BYTES]
            self._digests_from += DIGESTS_MAX
        size = len(part.raw)
        if part.part or size > PART_BYTES_MAX:
            self._forget_parts()
            return
        parts = self._parts
        if not parts:
            self._oldest = seq
        parts[seq] = part
        self.parts_bytes += size
        while self.parts_bytes > PARTS_BYTES_MAX:
            self.parts_bytes -= len(parts.pop(self._oldest).raw)
            self._oldest += 1

    def digest_of(self, seq: int) -> bytes | None:
        """The digest of commit `seq`, None if it is not here."""
        at = (seq - self._digests_from) * DIGEST_BYTES
        if at < 0:
            return None
        return bytes(self._digests[at : at + DIGEST_BYTES]) or None

    def drop_after(self, seq: int) -> None:
        """Forget the commits after `seq`, which did not come to be."""
        if any(held > seq for held in self._parts):
            self._forget_parts()
        if seq < self._digests_from:
            self._digests.clear()
        else:
            del self._digests[(seq + 1 - self._digests_from) * DIGEST_BYTES :]

    def forget(self) -> None:
        """Give the memory back."""
        self._forget_parts()
        self._digests.clear()

    def _forget_parts(self) -> None:
        self._parts.clear()
        self.parts_bytes = 0
