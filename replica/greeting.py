"""The first words on a link, as the replica sees them: who we are, who answers, `Welcome`.

A replica that has a token takes a welcome only from a primary that has proved to know it,
and nothing else from anybody before that.
"""

import asyncio

from proto.errors import ProofInvalid
from proto.handshake import LinkCredential, ReplicaHandshake
from proto.link import DialledLink
from proto.messages import PROTOCOL_VERSION, Challenge, Goodbye, Hello, Message, Refuse, Welcome
from replica.errors import PeerRefused


class Greeting:
    """The greeting of one link; on the event loop."""

    def __init__(self, link: DialledLink, hello: Hello, credential: LinkCredential | None) -> None:
        """Say hello."""
        self._link = link
        self._handshake: ReplicaHandshake | None = None
        self._is_proven = credential is None
        self.is_welcome = False
        if credential is not None:
            self._handshake = ReplicaHandshake(credential, hello, link.peer_certificate)
            hello = self._handshake.hello
        self.welcome: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        """Set once the primary takes us; to `PeerRefused` if it does not, or we do not take it."""
        link.send(hello)

    def take(self, message: Message) -> None:
        """Take a message that came before the welcome."""
        if self.welcome.done():
            return
        if isinstance(message, Challenge):
            self._prove(message)
        elif isinstance(message, Welcome):
            self._welcomed(message)
        elif isinstance(message, Refuse):
            self._refuse(f"the primary refused this replica: {message.reason}")
        elif isinstance(message, Goodbye):
            self._link.close()
        else:
            self._refuse(f"the primary greets with {type(message).__name__}")

    def _prove(self, challenge: Challenge) -> None:
        if self._handshake is None or self._is_proven:
            self._refuse("the primary asks for a proof that this replica has not offered")
            return
        try:
            proof, keys = self._handshake.answer(challenge)
        except ProofInvalid:
            self._refuse(
                "whoever answers there does not know this replica's token: it is not the primary, "
                "or TLS ends in between"
            )
            return
        self._is_proven = True
        if not self._link.is_private:
            self._link.seal(sent=keys.of_replica, received=keys.of_primary)
        self._link.send(proof)

    def _welcomed(self, welcome: Welcome) -> None:
        if not self._is_proven:
            self._refuse("whoever answers there has not proved to know this replica's token")
        elif welcome.version != PROTOCOL_VERSION:
            self._refuse(f"the primary speaks version {welcome.version} of the link")
        else:
            self.is_welcome = True
            self.welcome.set_result(welcome)

    def _refuse(self, reason: str) -> None:
        self.welcome.set_exception(PeerRefused(reason))
