"""What the two sides of replication need of the connection between them.

The transport itself (`d1server/link.py`) knows sockets; feeds and receivers know this.
"""

from collections.abc import Callable
from typing import Protocol

from proto.messages import Message


class LinkLost(Exception):
    """The connection is gone, or its peer broke the protocol: dial again."""


class Link(Protocol):
    """One connection to a peer; messages arrive in the order in which they were sent."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for people."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were sent here and have not left for the network."""

    @property
    def sent_bytes(self) -> int:
        """Bytes sent since the link was made."""

    def send(self, message: Message) -> int:
        """Queue a message; its size in bytes. On a lost link it does nothing."""

    def close(self) -> None:
        """End the link after what was sent."""


class DialledLink(Link, Protocol):
    """A link as the one who dialled it has it."""

    on_message: Callable[[Message], None] | None

    @property
    def is_private(self) -> bool:
        """Nobody on the way can read or change what is said."""

    @property
    def peer_certificate(self) -> bytes:
        """The fingerprint of the certificate that the peer has shown, empty for none."""

    @property
    def is_cut(self) -> bool:
        """The connection has ended, and nobody has said why."""

    def seal(self, *, sent: bytes, received: bytes) -> None:
        """Tag every message from here on, and ask for tags, with these keys."""

    async def wait_lost(self) -> str:
        """Return why the link ended, once it has."""
