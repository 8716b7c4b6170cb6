"""The handshake of the link as values: who knows the token, who only listened, who changed what."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.errors import FrameCorrupt, ProofInvalid
from proto.handshake import (
    NONCE_BYTES,
    TAG_BYTES,
    LinkCredential,
    PrimaryHandshake,
    ReplicaHandshake,
    Seal,
)
from proto.messages import Challenge, Hello, Proof

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
CREDENTIAL = LinkCredential("id", KEY)
HELLO = Hello(1, "cluster", "node", "WEUR", "http://x")
CERTIFICATE = b"c" * 32


def replica(key: bytes = KEY, certificate: bytes = b"") -> ReplicaHandshake:
    return ReplicaHandshake(LinkCredential("id", key), HELLO, certificate)


def primary(side: ReplicaHandshake, key: bytes = KEY, certificate: bytes = b"") -> PrimaryHandshake:
    return PrimaryHandshake(key, side.hello, certificate)


def test_both_sides_are_sure_and_have_the_same_keys() -> None:
    ours = replica(certificate=CERTIFICATE)
    theirs = primary(ours, certificate=CERTIFICATE)
    proof, keys = ours.answer(theirs.challenge)
    theirs.check(proof)
    assert keys == theirs.keys
    assert keys.of_primary != keys.of_replica
    assert ours.hello.token_id == "id"
    assert len(ours.hello.nonce) == NONCE_BYTES


def test_token_s_hash_is_in_no_message() -> None:
    ours = replica()
    theirs = primary(ours)
    proof, _ = ours.answer(theirs.challenge)
    said = ours.hello.nonce + theirs.challenge.nonce + theirs.challenge.proof + proof.proof
    assert all(KEY[at : at + 4] not in said for at in range(28))


def test_primary_that_does_not_know_the_token_gets_no_proof() -> None:
    ours = replica()
    with pytest.raises(ProofInvalid):
        ours.answer(primary(ours, OTHER_KEY).challenge)
    with pytest.raises(ProofInvalid):
        ours.answer(Challenge(b"n" * 32, b""))


def test_replica_that_does_not_know_the_token_is_refused() -> None:
    ours = replica(OTHER_KEY)
    theirs = primary(ours)
    for proof in (b"", b"\0" * 32, theirs.challenge.proof):  # the last: our own, sent back
        with pytest.raises(ProofInvalid):
            theirs.check(Proof(proof))


def test_recorded_challenge_is_worth_nothing() -> None:
    """Somebody who has heard one handshake plays the primary to the same replica later."""
    first = replica()
    heard = primary(first).challenge
    first.answer(heard)
    with pytest.raises(ProofInvalid):
        replica().answer(heard)


def test_recorded_proof_is_worth_nothing() -> None:
    """... or plays the replica, even with the very Hello that it has heard."""
    ours = replica()
    theirs = primary(ours)
    proof, _ = ours.answer(theirs.challenge)
    with pytest.raises(ProofInvalid):
        primary(ours).check(proof)


def test_proof_is_for_one_tls_connection() -> None:
    """Method: a relay with a certificate of its own, which the replica happens to trust."""
    ours = replica(certificate=b"r" * 32)
    with pytest.raises(ProofInvalid):
        ours.answer(primary(ours, certificate=CERTIFICATE).challenge)
    without = replica()  # TLS that ends in front of the primary
    with pytest.raises(ProofInvalid):
        without.answer(primary(without, certificate=CERTIFICATE).challenge)


@pytest.mark.parametrize(
    "changed",
    [
        Hello(1, "other", "node", "WEUR", "http://x"),
        Hello(1, "cluster", "nod", "eWEUR", "http://x"),  # the same bytes, cut elsewhere
        Hello(1, "cluster", "node", "WEUR", "http://y"),
        Hello(2, "cluster", "node", "WEUR", "http://x"),
    ],
    ids=str,
)
def test_hello_is_what_was_sent(changed: Hello) -> None:
    ours = replica()
    seen = msgspec.structs.replace(changed, token_id="id", nonce=ours.hello.nonce)
    with pytest.raises(ProofInvalid):
        ours.answer(PrimaryHandshake(KEY, seen, b"").challenge)


def sealed(payloads: list[bytes], key: bytes = KEY) -> list[bytes]:
    seal = Seal(key)
    return [seal.close(payload) for payload in payloads]


def opened(messages: Sequence[bytes]) -> list[bytes]:
    seal = Seal(KEY)
    return [seal.open(message) for message in messages]


payload_lists = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


@given(payload_lists)
def test_sealed_messages_come_as_they_went(payloads: list[bytes]) -> None:
    assert opened(sealed(payloads)) == payloads


@given(payload_lists, st.data())
def test_changed_bit_breaks_the_seal(payloads: list[bytes], data: st.DataObject) -> None:
    messages = sealed(payloads)
    number = data.draw(st.integers(0, len(messages) - 1))
    changed = bytearray(messages[number])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    opener = Seal(KEY)
    for message in messages[:number]:
        opener.open(message)
    with pytest.raises(FrameCorrupt):
        opener.open(bytes(changed))


def test_dropped_repeated_and_swapped_messages_break_the_seal() -> None:
    first, second, third = sealed([b"a", b"a", b"a"])  # equal but for their places
    assert all(one != other for one, other in pairwise([first, second, third]))
    for order in ((second,), (first, first), (first, third), (second, first)):
        with pytest.raises(FrameCorrupt):
            opened(order)


def test_message_without_a_seal_or_of_another_key_is_refused() -> None:
    for message in (b"", b"short", b"x" * TAG_BYTES, *sealed([b"a"], OTHER_KEY)):
        with pytest.raises(FrameCorrupt):
            Seal(KEY).open(message)
