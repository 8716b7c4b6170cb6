"""How far one replica is with one database, and what it is sent next. Pure.

Modes, as in etcd's raft:

    PROBE      the replica has not said where it is (or must say so again): send nothing
    STREAM     it has everything up to `sent`, or it is in flight
    SNAPSHOT   the log cannot take it forward, a copy of the file can; then STREAM from its base
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from proto.messages import Acked
from proto.tokens import Bookmark


class Mode(enum.Enum):
    """See the module's head."""

    PROBE = "probe"
    STREAM = "stream"
    SNAPSHOT = "snapshot"


MODE_AFTER: Final[Mapping[Mode, frozenset[Mode]]] = {
    Mode.PROBE: frozenset({Mode.STREAM, Mode.SNAPSHOT}),
    Mode.STREAM: frozenset({Mode.PROBE, Mode.SNAPSHOT}),  # fell out of the log
    Mode.SNAPSHOT: frozenset({Mode.PROBE, Mode.STREAM}),  # copied: stream from its base
}

SNAPSHOT_ABOVE: Final = 4
"""A replica that lacks this many times the file's size in log copies the file instead."""
SNAPSHOT_BYTES_MIN: Final = 16 * 1024 * 1024
"""Below this the log is always quick enough."""


@dataclass(frozen=True, slots=True)
class LogView:
    """What the primary knows of a position in one database's log."""

    is_known: bool  # the position is of this history, and the log still has what follows it
    bytes_after: int  # of log behind the position
    file_bytes: int  # of the database file


def next_mode(view: LogView, *, is_copy_wanted: bool) -> Mode:
    """How a replica at the viewed position is brought forward."""
    if is_copy_wanted or not view.is_known:
        return Mode.SNAPSHOT
    if view.bytes_after > max(SNAPSHOT_ABOVE * view.file_bytes, SNAPSHOT_BYTES_MIN):
        return Mode.SNAPSHOT
    return Mode.STREAM


@dataclass(slots=True)
class ReplicaProgress:
    """See the module's head. `in_flight` never goes below 0."""

    uuid: bytes
    mode: Mode = Mode.PROBE
    sent: Bookmark | None = None  # the newest commit sent whole; None: nothing is known yet
    in_flight: int = 0  # bytes sent and not acknowledged as written
    received: int = 0  # sequence numbers, as acknowledged
    durable: int = 0
    applied: int = 0
    problem: str = field(default="")

    def follow(self, position: Bookmark, mode: Mode) -> None:
        """The replica said where it is; it is brought forward by `mode`."""
        if self.mode is not Mode.PROBE:
            self._become(Mode.PROBE)
        self.sent = position if mode is Mode.STREAM else None
        self.in_flight = 0
        self.problem = ""
        self._become(mode)

    def fall_out(self) -> None:
        """The log has moved on beyond what the replica needs next."""
        self._become(Mode.SNAPSHOT)
        self.sent = None

    def copied(self, base: Bookmark) -> None:
        """A copy with this base was sent: what follows it is streamed."""
        self.sent = base
        self._become(Mode.STREAM)

    def note_sent(self, size: int, newest: Bookmark | None = None) -> None:
        """`size` bytes went out, ending with the whole commit `newest` if given."""
        self.in_flight += size
        if newest is not None:
            assert self.sent is None or newest.seq > self.sent.seq
            self.sent = newest

    def acked(self, acked: Acked, window_freed: int) -> None:
        """The replica reported; `window_freed` bytes have been written there."""
        self.in_flight = max(0, self.in_flight - window_freed)
        self.received, self.durable = acked.received, acked.durable
        self.applied = acked.applied
        self.problem = acked.problem

    def _become(self, mode: Mode) -> None:
        assert mode in MODE_AFTER[self.mode], f"{self.mode} does not turn into {mode}"
        self.mode = mode
