"""A body that comes in chunks, as far as nothing about it is unusual.

Clients that do not know a body's length when they begin to send it, or do not say it, send it in
chunks; a query is nearly always one of them. Two readers of HTTP behind one socket must never
disagree on where a body ends, so only what leaves no choice is taken here:

    1*5 hex digits CRLF, so many bytes, CRLF      at most CHUNKS_MAX times
    1*5 zeros CRLF CRLF                           no trailers

with at most FAST_BODY_BYTES_MAX bytes in all. None is no verdict: aiohttp looks at extensions,
trailers, white space, and what is too much, and refuses or serves them.

Pure. A body is looked at from its beginning whenever more of it has come; `Chunks.end` says when
that is worth it, CHUNKS_MAX bounds how often.
"""

import re
from typing import Final, NamedTuple

from d1server.web.limits import FAST_BODY_BYTES_MAX

CHUNKS_MAX: Final = 16

_SIZE_LINE: Final = re.compile(rb"([0-9a-fA-F]{1,5})\r\n")
_SIZE_LINE_BEGUN: Final = re.compile(rb"[0-9a-fA-F]{0,5}|[0-9a-fA-F]{1,5}\r")
_LINE_END: Final = b"\r\n"
_LEAST_END: Final = 7  # of a chunk: its line end, and the last chunk


class Chunks(NamedTuple):
    """What has come of a body."""

    body: bytes | None  # None: not all of it
    end: int  # where it ends, or how far it must have come for another look


def read_chunks(data: bytes, start: int) -> Chunks | None:
    """Read the body that begins at `start`; None: not beyond doubt one of ours."""
    pieces: list[bytes] = []
    size_all, at = 0, start
    for _ in range(CHUNKS_MAX + 1):
        line = _SIZE_LINE.match(data, at)
        if line is None:
            return Chunks(None, len(data) + 1) if _SIZE_LINE_BEGUN.fullmatch(data, at) else None
        size = int(line[1], 16)
        begin = line.end()
        end = begin + size
        size_all += size
        line_end = data[end : end + 2]
        if size_all > FAST_BODY_BYTES_MAX or not _LINE_END.startswith(line_end):
            return None
        if len(line_end) < 2:
            return Chunks(None, end + (_LEAST_END if size else 2))
        if not size:
            return Chunks(pieces[0] if len(pieces) == 1 else b"".join(pieces), end + 2)
        pieces.append(data[begin:end])
        at = end + 2
    return None
