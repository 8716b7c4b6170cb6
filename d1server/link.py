"""The replication link's transport: messages over one TCP connection, on both sides.

`PeerLink` is the `proto.link.Link` that feeds and receivers use. It decodes what arrives
and hands each message to `on_message` at once, in order, inside the event loop's turn.

Bounds: the peer's window (`primary/feed.py`) bounds what is under way; a peer that stays
silent for `SILENCE_S_MAX` is given up, both sides say something at least every second. A
caller whom nobody knows yet (`frame_bytes_max`) may send a greeting, not a commit.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from d1server import listener
from d1server.listener import Listener
from d1server.node_tls import Shown
from d1server.tls import handshake_reason, peer_fingerprint
from d1server.web.failures import FailureBook
from proto.errors import FrameCorrupt, MessageInvalid
from proto.framing import FRAME_BYTES_MAX, FrameDecoder, encode_frame
from proto.handshake import Seal
from proto.link import LinkLost
from proto.messages import Message, decode_message, encode_message

logger = logging.getLogger(__name__)

SILENCE_S_MAX: Final = 5.0
DIAL_S_MAX: Final = 5.0
GREETING_BYTES_MAX: Final = 64 * 1024

_TLS_BEGINS: Final = b"\x16\x03"
_TLS_SAID: Final = "that is TLS, which this end has not: both ends need it, or neither"
_HTTP_SAID: Final = "that is an HTTP address: --primary names the primary's --replication address"


class PeerLink(asyncio.Protocol):
    """See the module's head."""

    def __init__(
        self,
        on_made: Callable[["PeerLink"], None] | None = None,
        own_certificate: bytes = b"",
    ) -> None:
        """Messages are dropped until `on_message` is set, which `on_made` may do."""
        self.on_message: Callable[[Message], None] | None = None
        self.sent_bytes = 0
        self.received_bytes = 0
        self.last_heard = 0.0
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.peer = "a peer that has not said its name"
        self.is_private = False  # TLS
        self.is_cut = False  # ended without a word
        self.own_certificate = own_certificate  # the fingerprint of what we have shown, if any
        self.peer_certificate = b""  # its fingerprint; empty: none was shown, or none asked for
        self._closer: Seal | None = None
        self._opener: Seal | None = None
        self._on_made = on_made
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)
        self.last_heard = asyncio.get_running_loop().time()
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.is_private = True
            self.peer_certificate = peer_fingerprint(tls)
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came: hand the messages in them on."""
        self.received_bytes += len(data)
        self.last_heard = asyncio.get_running_loop().time()
        try:
            for payload in self._decoder.feed(data):
                opened = payload if self._opener is None else self._opener.open(payload)
                message = decode_message(opened)
                if self.on_message is not None and not self.lost.done():
                    self.on_message(message)
        except (FrameCorrupt, MessageInvalid) as exc:
            if data.startswith(_TLS_BEGINS):
                self.abort(_TLS_SAID)
            else:
                self.abort(_HTTP_SAID if data.startswith(b"HTTP/") else str(exc))
        except Exception as exc:
            logger.exception("link with %s: a message could not be handled", self.peer)
            self.abort(f"a message could not be handled: {exc}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._transport = None
        if not self.lost.done():
            self.is_cut = True
            self.lost.set_result(str(exc) if exc else "the peer closed the connection")

    def seal(self, *, sent: bytes, received: bytes) -> None:
        """Tag every message from here on, and ask for tags, with these keys."""
        self._closer, self._opener = Seal(sent), Seal(received)

    def bound_frames(self, bytes_max: int = FRAME_BYTES_MAX) -> None:
        """Take no longer messages than this from the peer."""
        self._decoder.bytes_max = bytes_max

    @property
    def host(self) -> str:
        """The peer's address."""
        peer = self._transport.get_extra_info("peername") if self._transport else None
        return str(peer[0]) if peer else ""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that have not left for the network."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, message: Message) -> int:
        """Queue a message; its size on the wire. On a lost link it does nothing."""
        if self._transport is None or self._transport.is_closing():
            return 0
        payload = encode_message(message)
        frame = encode_frame(payload if self._closer is None else self._closer.close(payload))
        self._transport.write(frame)
        self.sent_bytes += len(frame)
        return len(frame)

    def close(self) -> None:
        """End the link after what was sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """End the link now."""
        if not self.lost.done():
            self.lost.set_result(reason)
        if self._transport is not None:
            self._transport.abort()

    async def wait_lost(self) -> str:
        """Return why the link ended, once it has; a silent peer ends it."""
        loop = asyncio.get_running_loop()
        while not self.lost.done():
            quiet = loop.time() - self.last_heard
            if quiet >= SILENCE_S_MAX:
                self.abort(f"nothing heard for {quiet:.1f} s")
                break
            await asyncio.wait([self.lost], timeout=SILENCE_S_MAX - quiet)
        return self.lost.result()


async def dial(host: str, port: int, context: ssl.SSLContext | None = None) -> PeerLink:
    """Connect to a primary's replication address. Raises `LinkLost`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(DIAL_S_MAX):
            _, link = await loop.create_connection(
                PeerLink, host, port, ssl=context, server_hostname=host if context else None
            )
    except ssl.SSLError as exc:  # also of a certificate that is not the primary's
        raise LinkLost(f"{host}:{port}: no TLS with it: {handshake_reason(exc)}") from exc
    except (OSError, TimeoutError) as exc:
        reason = "it takes too long" if isinstance(exc, TimeoutError) else exc.strerror or repr(exc)
        if context is not None and isinstance(exc, ConnectionResetError):
            reason = "it ended the connection: does it have TLS (--tls-cert, --tls-key)?"
        raise LinkLost(f"{host}:{port} does not answer: {reason}") from exc
    return link


async def listen(
    host: str,
    port: int,
    on_made: Callable[[PeerLink], None],
    *,
    shown: Callable[[], Shown | None] = lambda: None,
    strangers: FailureBook | None = None,
) -> Listener:
    """Take links at this address; `strangers` counts handshakes that fail. Raises `OSError`."""
    return await listener.listen(
        lambda shown: PeerLink(on_made, b"" if shown is None else shown.fingerprint),
        host,
        port,
        shown=shown,
        failures=strangers or FailureBook(),
        handshake_s_max=DIAL_S_MAX,
    )
