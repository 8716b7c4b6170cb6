"""Messages on a byte stream, without any I/O.

A frame is the payload's length (u32), a check value (u32, the low half of
xxh3_64 of the payload), both little-endian, and the payload: one message of
`proto/messages.py`. TCP's checksum lets about one error in 65,536 through; the
check value makes a flipped bit end the link instead of reaching a database.
"""

import struct
from typing import Final

import xxhash

from proto.errors import FrameCorrupt
from proto.record import PART_PAGE_BYTES_MAX, Buffer

HEAD: Final = struct.Struct("<II")
FRAME_BYTES_MAX: Final = 5 * PART_PAGE_BYTES_MAX
"""A longer frame is a fault: the largest message holds one commit part or one body."""
BODY_BYTES_MAX: Final = FRAME_BYTES_MAX - 64 * 1024
"""Of a request or an answer that is to pass the link; the rest is for its headers."""


def encode_frame(payload: Buffer) -> bytes:
    """Wrap a payload for the stream."""
    assert len(payload) <= FRAME_BYTES_MAX, f"a frame of {len(payload)} bytes"
    return HEAD.pack(len(payload), xxhash.xxh3_64_intdigest(payload) & 0xFFFFFFFF) + payload


class FrameDecoder:
    """Cuts a byte stream into payloads.

    Holds at most one incomplete frame (`bytes_max` and one read). After
    `FrameCorrupt` the stream has no meaning any more: drop it.
    """

    def __init__(self) -> None:
        self.bytes_max = FRAME_BYTES_MAX
        self._buffer = bytearray()

    def feed(self, data: Buffer) -> list[bytes]:
        """Take bytes in, give the payloads that are complete now. Raises `FrameCorrupt`."""
        buffer = self._buffer
        buffer += data
        payloads: list[bytes] = []
        at = 0
        while len(buffer) - at >= HEAD.size:
            length, check = HEAD.unpack_from(buffer, at)
            if length > self.bytes_max:
                raise FrameCorrupt(f"a frame of {length} bytes; the limit is {self.bytes_max}")
            end = at + HEAD.size + length
            if len(buffer) < end:
                break
            payload = bytes(memoryview(buffer)[at + HEAD.size : end])
            if xxhash.xxh3_64_intdigest(payload) & 0xFFFFFFFF != check:
                raise FrameCorrupt(f"the check value of a frame of {length} bytes does not match")
            payloads.append(payload)
            at = end
        if at:
            del buffer[:at]
        return payloads
