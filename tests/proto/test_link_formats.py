"""Messages and frames of the link: round trips in any pieces, and no silent damage."""

import contextlib
import typing
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proto.errors import FrameCorrupt, MessageInvalid
from proto.framing import BODY_BYTES_MAX, FRAME_BYTES_MAX, HEAD, FrameDecoder, encode_frame
from proto.messages import (
    Ack,
    Acked,
    Challenge,
    Commits,
    Follow,
    Forward,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Position,
    Proof,
    Refuse,
    Reply,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPages,
    Unfollow,
    Welcome,
    decode_message,
    encode_message,
)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
uuids = st.binary(min_size=16, max_size=16)
positions = st.builds(Position, uuids, u32, u64, st.binary(min_size=16, max_size=16))
texts = st.text(max_size=20)
acked = st.builds(Acked, uuids, u64, u64, u64, u64, texts)
MESSAGES: dict[type, st.SearchStrategy[Message]] = {
    Hello: st.builds(Hello, u32, texts, texts, texts, texts, texts, st.binary(max_size=32)),
    Challenge: st.builds(Challenge, st.binary(max_size=32), st.binary(max_size=32)),
    Proof: st.builds(Proof, st.binary(max_size=32)),
    Welcome: st.builds(Welcome, u32, texts, texts, texts, texts),
    Refuse: st.builds(Refuse, texts),
    Follow: st.builds(Follow, st.lists(positions, max_size=3), st.booleans()),
    Unfollow: st.builds(Unfollow, st.lists(uuids, max_size=3)),
    Commits: st.builds(Commits, uuids, st.lists(st.binary(max_size=50), max_size=3)),
    SnapshotBegin: st.builds(SnapshotBegin, positions, u64, u32, u32),
    SnapshotPages: st.builds(SnapshotPages, uuids, u32, st.binary(max_size=100)),
    SnapshotEnd: st.builds(SnapshotEnd, positions),
    Heartbeat: st.builds(Heartbeat, u64, st.lists(positions, max_size=3)),
    Ack: st.builds(Ack, st.lists(acked, max_size=3), st.floats(0, 1e9)),
    Forward: st.builds(
        Forward, u64, texts, texts, st.binary(max_size=50), texts, texts, texts, st.integers(0, 9)
    ),
    Reply: st.builds(
        Reply,
        u64,
        st.integers(100, 599),
        st.binary(max_size=50),
        texts,
        st.none() | st.booleans(),
        st.none() | st.integers(0, 99),
    ),
    Goodbye: st.builds(Goodbye, texts),
}
messages = st.one_of(*MESSAGES.values())


def test_all_messages_are_tried() -> None:
    assert set(MESSAGES) == set(typing.get_args(Message))


@given(messages)
def test_a_message_and_back(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(st.lists(messages, max_size=6), st.lists(st.integers(1, 60), min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_stream_in_any_pieces(sent: list[Message], cuts: list[int]) -> None:
    """However the network cuts it, the same messages come out, in order."""
    stream = b"".join(encode_frame(encode_message(message)) for message in sent)
    decoder = FrameDecoder()
    got: list[Message] = []
    at = 0
    while at < len(stream):
        size = cuts[at % len(cuts)]
        got += [decode_message(payload) for payload in decoder.feed(stream[at : at + size])]
        at += size
    assert got == sent


def test_every_flipped_bit_ends_the_stream() -> None:
    """No flip of a frame's bits brings a message that was not sent."""
    message = Commits(bytes(16), [bytes(range(200)), b"x"])
    frame = encode_frame(encode_message(message))
    follower = encode_frame(encode_message(Goodbye("end")))
    for bit in range(8 * len(frame)):
        changed = bytearray(frame)
        changed[bit // 8] ^= 1 << bit % 8
        decoder = FrameDecoder()
        try:
            payloads = decoder.feed(changed + follower)
        except FrameCorrupt:
            continue
        assert not payloads, "a longer length waits for more"


@given(st.binary(max_size=200))
def test_any_bytes_are_no_crash(data: bytes) -> None:
    decoder = FrameDecoder()
    try:
        payloads = decoder.feed(data)
    except FrameCorrupt:
        return
    for payload in payloads:
        with pytest.raises(MessageInvalid):
            decode_message(payload)


@given(st.binary(max_size=60))
@example(b"\x91\xa6\0\0\0\0\0\x80")  # text that is not UTF-8
def test_any_payload_is_a_message_or_refused(data: bytes) -> None:
    with contextlib.suppress(MessageInvalid):
        decode_message(data)


def test_a_frame_that_is_too_long_is_refused_from_its_head() -> None:
    with pytest.raises(FrameCorrupt, match="limit"):
        FrameDecoder().feed(HEAD.pack(FRAME_BYTES_MAX + 1, 0))


@pytest.mark.parametrize(
    "make",
    [
        lambda body: Reply(2**64 - 1, 599, body, "b" * 61, True, 10**9),
        lambda body: Forward(
            2**64 - 1, "o" * 10, "d" * 64, body, "c" * 61, "k" * 255, "w" * 1000, 9
        ),
    ],
)
def test_the_largest_body_fits_a_frame(make: Callable[[bytes], Message]) -> None:
    payload = encode_message(make(bytes(BODY_BYTES_MAX)))
    assert len(payload) <= FRAME_BYTES_MAX


def test_a_newer_peer_may_add_fields() -> None:
    """At the end of a message: read as if they were not there."""
    fields = [*msgspec.msgpack.decode(encode_message(Goodbye("later"))), "a field of tomorrow"]
    assert decode_message(msgspec.msgpack.encode(fields)) == Goodbye("later")


def test_an_older_peer_may_lack_fields_with_a_default() -> None:
    assert decode_message(msgspec.msgpack.encode(["Follow", []])) == Follow([])


DEEP = b"\x93\xa7Goodbye\xa1x" + b"\x91" * 60_000 + b"\x01"  # arrays in a place that nobody reads


@pytest.mark.parametrize(
    "payload", [b"\xc0", b"\x91\xa4Nope", b"\x92\xa7Goodbye\x01", b"{}", DEEP], ids=range(5)
)
def test_other_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(MessageInvalid):
        decode_message(payload)
