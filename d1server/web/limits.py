"""The bounds of the HTTP side, each with its reason.

Whatever a client does or does not do, one connection holds at most a head, a body and an
answer, and only for a bounded time.
"""

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

HEAD_BYTES_MAX: Final = 8190  # what aiohttp takes in one header; more goes there for its 400
HEADERS_MAX: Final = 100  # below aiohttp's 128, so that a head it refuses is never served here
HEAD_S_MAX: Final = 10.0  # from the first byte of a head to its last
IDLE_S_MAX: Final = 75.0  # longer than the 60 s after which common proxies drop their side
IDLE_S_MIN: Final = 5.0  # idle for less, a connection is not closed to make room for another
BODY_S_MAX: Final = 20.0  # to begin with; then see `body_s_max`
BODY_BYTES_PER_S_MIN: Final = 16 * KIB  # a 32 MiB body may take half an hour on a bad line
WRITE_STALL_S_MAX: Final = 20.0  # a client that takes less than WRITE_BYTES_MIN in it is dropped
WRITE_BYTES_MIN: Final = 64 * KIB
LINGER_S_MAX: Final = 5.0  # for a client to read a refusal before the connection goes
FAST_BODY_BYTES_MAX: Final = 64 * KIB  # larger ones go through aiohttp, which can wait for room
BACKLOG_BYTES_MAX: Final = 64 * KIB  # pipelined bytes kept while an answer is in the making
PIPELINE_TURN: Final = 16  # requests of one connection served before the others get their turn
ADMIN_BODY_BYTES_MAX: Final = 64 * KIB  # a name and a few options
SWEEP_S: Final = 1.0  # how late a deadline above may be noticed
NEVER: Final = float("inf")  # of a connection that nothing is due of


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The bounds that a deployment may have to change."""

    body_bytes_max: int = 32 * MIB
    bodies_bytes_max: int = 128 * MIB  # large bodies in memory at once; later ones wait their turn
    unread_bytes_max: int = 256 * MIB  # of answers that clients are slow to take, all together
    connections_max: int = 4096  # one descriptor and up to ~200 KiB each
    stop_s_max: float = 3.0  # for requests in flight when the node stops


def body_s_max(bytes_received: int) -> float:
    """Return how long a body may have taken when this much of it is here.

    Grows with what arrives, so that a large body on a slow line lives and a dripped one dies.
    """
    return BODY_S_MAX + bytes_received / BODY_BYTES_PER_S_MIN
