"""Large blobs as JSON, piece by piece: D1 writes a blob as an array of numbers.

Two megabytes are seven as text, and one call that reads or writes that takes a tenth of a
second in which no other thread of the interpreter runs. In pieces the others run between.

Pure. Small ones are not worth it: `LARGE_BYTES`.
"""

from typing import Final

import orjson

LARGE_BYTES: Final = 64 * 1024
_PIECE: Final = 64 * 1024


def to_json(value: bytes) -> object:
    """What orjson is to write for a blob; it asks for all that it does not know."""
    if type(value) is not bytes or len(value) <= LARGE_BYTES:
        return list(value)
    pieces = [
        orjson.dumps(list(value[at : at + _PIECE]))[1:-1] for at in range(0, len(value), _PIECE)
    ]
    return orjson.Fragment(b"[%b]" % b",".join(pieces))


def from_json(text: bytes) -> bytes | None:
    """The blob that stands in valid JSON as an array of bytes; None if something else does."""
    if not text.startswith(b"["):
        return None
    pieces = []
    at, end = 1, len(text) - 1
    while at < end:
        cut = text.find(b",", min(at + _PIECE, end))
        cut = cut if cut >= 0 else end
        piece = text[at:cut]
        if b"e" in piece:  # true, false, 1e2: numbers to `bytes`, or to Python
            return None
        try:
            pieces.append(bytes(orjson.loads(b"[%b]" % piece)))
        except (ValueError, TypeError):
            return None
        at = cut + 1
    return b"".join(pieces)
