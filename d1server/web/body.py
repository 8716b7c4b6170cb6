"""Reading a request's body through aiohttp, bounded in size, time and memory.

aiohttp bounds none of the three for a streamed body: here a body is refused as soon as it is
known to be too large (before it is read, if it says so), dropped when it only drips, and
counted against the room that all large bodies of the node share.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web

from d1server.web.errors import Fault
from d1server.web.limits import FAST_BODY_BYTES_MAX, body_s_max
from proto.errors import RequestInvalid

_PLAIN: Final = "identity"
_CODINGS: Final = frozenset({_PLAIN, "gzip", "deflate", "br", "zstd"})


class BodyTooLarge(Exception):
    """More bytes than the route takes: answer 413."""


class BodySlow(Exception):
    """The bytes come too slowly: answer 408 and close."""


class NoRoom(Exception):
    """Too many large bodies are in memory: answer 503, nothing was done."""


BODY_FAULTS: Final[Mapping[type[Exception], Fault]] = {
    BodyTooLarge: Fault.BODY_TOO_LARGE,
    BodySlow: Fault.REQUEST_SLOW,
    NoRoom: Fault.OVERLOADED,
}
"""What the errors above are answered with; the connection closes after it."""


class BodyRoom:
    """The bytes of large bodies that may be in memory at once.

    Nobody waits for room: what waits would hold the part that it already has.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_free = bytes_max

    def take(self, count: int) -> None:
        """Take room for `count` bytes, or raise `NoRoom`."""
        if count > self.bytes_free:
            raise NoRoom("the node holds too many large request bodies: try again in a second")
        self.bytes_free -= count

    def give(self, count: int) -> None:
        """Give back what `take` took."""
        self.bytes_free += count


class Body:
    """One body being read. Holds its room until `close`."""

    def __init__(self, request: web.Request, room: BodyRoom, bytes_max: int) -> None:
        self._request = request
        self._room = room
        self._bytes_max = bytes_max
        self._bytes_taken = 0

    async def read(self) -> bytes:
        """Return the whole body, decompressed. Raises one of this module's errors."""
        content = self._request.content
        coding = self._request.headers.get(hdrs.CONTENT_ENCODING, _PLAIN).lower()
        if coding not in _CODINGS:  # aiohttp takes it for no coding at all
            raise RequestInvalid(
                "the body's Content-Encoding is none that is read here: send it plain"
            )
        self._check(self._request.content_length or 0)
        loop = asyncio.get_running_loop()
        started = loop.time()
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                async with asyncio.timeout_at(started + body_s_max(size)):
                    chunk = await content.readany()
                if not chunk:
                    return b"".join(chunks)
                size += len(chunk)
                self._check(size)
                self._hold(size)
                chunks.append(chunk)
        except TimeoutError as exc:
            raise BodySlow(f"only {size} bytes of the body came in time: send it again") from exc
        except web.RequestPayloadError as exc:
            if coding == _PLAIN:
                raise RequestInvalid("the body is not what its head says: send it again") from exc
            raise RequestInvalid(
                f"the body is not {coding}, which its Content-Encoding says: send it plain"
            ) from exc

    def close(self) -> None:
        """Give the room back, once the request is answered."""
        self._room.give(self._bytes_taken)
        self._bytes_taken = 0

    def _check(self, size: int) -> None:
        if size > self._bytes_max:
            raise BodyTooLarge(
                f"the body is larger than {self._bytes_max} bytes: send the statements in parts"
            )

    def _hold(self, size: int) -> None:
        if size > FAST_BODY_BYTES_MAX:  # smaller ones are bounded by the number of connections
            self._room.take(size - self._bytes_taken)
            self._bytes_taken = size
