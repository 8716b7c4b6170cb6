"""How the two ends of a replication link prove to each other that they know one token.

    replica                                     primary
    Hello(..., token_id, nonce)       ->
                                      <-        Challenge(nonce, proof)
    Proof(proof)                      ->
                                      <-        Welcome

The key is the token's hash, which the primary has in its catalog and the replica computes from
the token: the token itself never travels. A proof is HMAC-SHA256 over both nonces, what the
Hello says and the fingerprint of the certificate that the primary has shown, so that it
fits this link only: replayed, reflected or relayed to another TLS connection it is refused.
Node id and life are not in it: they are not believed, but compared with those of links that live.
The replica speaks last, and only to a primary that has proved itself.

On a link without TLS everything behind the Challenge is *sealed*: each message carries
a tag, keyed from the handshake and counted, so that nobody on the way can add, change, drop or
repeat one. It can still be read there: only TLS hides it.

Sans I/O: messages in, messages out, or `ProofInvalid`.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from proto.errors import FrameCorrupt, ProofInvalid
from proto.messages import Challenge, Hello, Proof

NONCE_BYTES: Final = 32
TAG_BYTES: Final = 16


class LinkCredential(NamedTuple):
    """What a replica knows of its token."""

    token_id: str
    key: bytes


class LinkKeys(NamedTuple):
    """The keys of the seals of one link."""

    of_primary: bytes
    of_replica: bytes


class PrimaryHandshake:
    """The primary's side, from a `Hello` that names a token."""

    def __init__(self, key: bytes, hello: Hello, fingerprint: bytes) -> None:
        """Make the challenge. `fingerprint`: of our certificate, empty without TLS."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._transcript = _transcript(hello, nonce, fingerprint)
        self._key = key
        self.challenge: Final = Challenge(nonce, _proof(key, b"primary", self._transcript))

    @property
    def keys(self) -> LinkKeys:
        """What seals the link behind the challenge."""
        return _keys(self._key, self._transcript)

    def check(self, proof: Proof) -> None:
        """Raise `ProofInvalid` unless the replica knows the token."""
        _check(proof.proof, _proof(self._key, b"replica", self._transcript))


class ReplicaHandshake:
    """The replica's side."""

    def __init__(self, credential: LinkCredential, hello: Hello, fingerprint: bytes) -> None:
        """Make the hello. `fingerprint`: of the primary's certificate, empty without TLS."""
        self._key = credential.key
        self._fingerprint = fingerprint
        self.hello: Final = msgspec.structs.replace(
            hello, token_id=credential.token_id, nonce=secrets.token_bytes(NONCE_BYTES)
        )

    def answer(self, challenge: Challenge) -> tuple[Proof, LinkKeys]:
        """Our proof, and what seals the link. Raises `ProofInvalid` if the primary's is wrong."""
        transcript = _transcript(self.hello, challenge.nonce, self._fingerprint)
        _check(challenge.proof, _proof(self._key, b"primary", transcript))
        return Proof(_proof(self._key, b"replica", transcript)), _keys(self._key, transcript)


class Seal:
    """Tags the messages that go one way over one link, in their order."""

    def __init__(self, key: bytes) -> None:
        """Begin with the first message."""
        self._key = key
        self._count = 0

    def close(self, payload: bytes) -> bytes:
        """The payload with its tag."""
        return payload + self._tag(payload)

    def open(self, sealed: bytes) -> bytes:
        """The payload without its tag. Raises `FrameCorrupt`."""
        payload = sealed[:-TAG_BYTES]
        if not hmac.compare_digest(sealed[-TAG_BYTES:], self._tag(payload)):
            raise FrameCorrupt("the seal of a message is broken: somebody else wrote it")
        return payload

    def _tag(self, payload: bytes) -> bytes:
        tag = hashlib.blake2b(
            self._count.to_bytes(8, "little"), digest_size=TAG_BYTES, key=self._key
        )
        tag.update(payload)
        self._count += 1
        return tag.digest()


def _transcript(hello: Hello, nonce: bytes, fingerprint: bytes) -> bytes:
    said = (hello.cluster, hello.node, hello.region, hello.url, hello.token_id)
    parts = (str(hello.version), *said)
    return _digest((*(part.encode() for part in parts), hello.nonce, nonce, fingerprint))


def _digest(parts: Iterable[bytes]) -> bytes:
    """A hash of the parts that keeps them apart."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4, "little"))
        digest.update(part)
    return digest.digest()


def _proof(key: bytes, side: bytes, transcript: bytes) -> bytes:
    return hmac.digest(key, b"d1server link proof of the " + side + b"\0" + transcript, "sha256")


def _keys(key: bytes, transcript: bytes) -> LinkKeys:
    sides = (b"primary", b"replica")
    made = (
        hmac.digest(key, b"d1server link seal of the " + s + b"\0" + transcript, "sha256")
        for s in sides
    )
    return LinkKeys(*made)


def _check(given: bytes, wanted: bytes) -> None:
    if not hmac.compare_digest(given, wanted):
        raise ProofInvalid("the peer does not know the token")
