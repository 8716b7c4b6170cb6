"""When access tokens were last used: noted in memory, told to the primary now and then.

To the minute, and at most once a minute for a token: the catalog must not move because
somebody reads.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Final, NoReturn

import msgspec

from d1server.access.grants import Access
from d1server.bodies import decode_body
from engine.errors import EngineError
from primary.errors import PrimaryError
from replica.errors import ReplicaError

logger = logging.getLogger(__name__)

TOKEN_USES_OP: Final = "token-uses"  # on the link: a replica's own word, no client's
TELL_S: Final = 30.0
_TOLD_MAX: Final = 1000  # at once; the others wait for the next time

Tell = Callable[[Mapping[str, float]], Awaitable[None]]


async def tell_uses(access: Access, tell: Tell, *, every_s: float = TELL_S) -> NoReturn:
    """Hand `tell` the uses that are worth it, for as long as the node lives."""
    while True:
        await asyncio.sleep(every_s)
        uses = dict(islice(access.untold_uses().items(), _TOLD_MAX))
        if uses:
            try:
                await tell(uses)
            except (EngineError, PrimaryError, ReplicaError, OSError) as exc:
                logger.debug("the last uses of %d tokens are told later: %s", len(uses), exc)


def encode_uses(uses: Mapping[str, float]) -> bytes:
    """The body of TOKEN_USES_OP."""
    return msgspec.json.encode(uses)


def decode_uses(body: bytes) -> dict[str, float]:
    """Read it; no use lies in the future. Raises `RequestInvalid`."""
    uses = decode_body(body, dict[str, float], "when tokens were last used")
    now = time.time()
    return {key: min(at, now) for key, at in islice(uses.items(), _TOLD_MAX) if at > 0}
