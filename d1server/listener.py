"""Taking connections one by one: each is shown the newest certificate, who fails is told of.

asyncio's own servers keep one certificate for their life, say nothing of handshakes that
fail, and lose a connection that comes while they close. HTTP without TLS has no need of this.

Bounds: `HANDSHAKES_MAX` under way, then the oldest has to leave; each for a time; lines in the
log by address (`FailureBook`). Who hangs up without a word is no failure: health checks do that.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Final, NoReturn

from d1server.node_tls import Shown
from d1server.tls import handshake_reason
from d1server.web.failures import FailureBook

logger = logging.getLogger(__name__)

HANDSHAKES_MAX: Final = 1024
_PAUSE_S: Final = 1.0  # after an accept for which the system has no room
_BACKLOG: Final = 1024


class Listener:
    """See the module's head; made by `listen`. Ended with `close`, like asyncio's servers."""

    def __init__(
        self,
        sockets: list[socket.socket],
        open_protocol: Callable[[Shown | None], asyncio.Protocol],
        shown: Callable[[], Shown | None],
        failures: FailureBook,
        handshake_s_max: float,
    ) -> None:
        """Use `listen`."""
        self.sockets = sockets
        self._open_protocol = open_protocol
        self._shown = shown
        self._failures = failures
        self._handshake_s_max = handshake_s_max
        self._handshakes: dict[asyncio.Task[None], socket.socket] = {}  # the oldest first
        loop = asyncio.get_running_loop()
        self._accepting = [loop.create_task(self._accept(one), name="accept") for one in sockets]

    def close(self) -> None:
        """Take nobody any more, and end handshakes that are under way."""
        for task in (*self._accepting, *self._handshakes):
            task.cancel()

    async def _accept(self, listening: socket.socket) -> NoReturn:
        loop = asyncio.get_running_loop()
        is_told = False
        try:
            while True:
                try:
                    sock, peer = await loop.sock_accept(listening)
                except OSError as exc:
                    if not is_told:
                        logger.error("no connection can be accepted: %s", exc.strerror or exc)
                    is_told = True
                    await asyncio.sleep(_PAUSE_S)
                else:
                    is_told = False
                    self._begin(sock, str(peer[0]))
                    await asyncio.sleep(0)  # a crowd at the door is not the only one to serve
        finally:
            listening.close()

    def _begin(self, sock: socket.socket, host: str) -> None:
        if len(self._handshakes) >= HANDSHAKES_MAX:  # the newest may be one of ours
            next(iter(self._handshakes)).cancel()
        handshake = asyncio.get_running_loop().create_task(
            self._shake_hands(sock, host), name="handshake"
        )
        self._handshakes[handshake] = sock
        handshake.add_done_callback(self._on_done)

    def _on_done(self, handshake: asyncio.Task[None]) -> None:
        sock = self._handshakes.pop(handshake)
        if handshake.cancelled():
            sock.close()
        elif (exc := handshake.exception()) is not None:
            logger.error("a connection could not be taken", exc_info=exc)

    async def _shake_hands(self, sock: socket.socket, host: str) -> None:
        shown = self._shown()
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._open_protocol(shown),
                sock,
                ssl=None if shown is None else shown.context,
                ssl_handshake_timeout=None if shown is None else self._handshake_s_max,
            )
        except (ConnectionResetError, BrokenPipeError):
            logger.debug("%s hung up in the TLS handshake", host)
        except OSError as exc:  # also of TLS
            is_told = not self._failures.note(host, monotonic())
            level = logging.INFO if is_told else logging.DEBUG
            logger.log(level, "no TLS with %s: %s", host, handshake_reason(exc))


async def listen(
    open_protocol: Callable[[Shown | None], asyncio.Protocol],
    host: str,
    port: int,
    *,
    shown: Callable[[], Shown | None],
    failures: FailureBook,
    handshake_s_max: float,
) -> Listener:
    """Take connections at this address, each with what `shown` gives; None: without TLS.

    Raises `OSError`.
    """
    loop = asyncio.get_running_loop()
    bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    sockets = [one.dup() for one in bound.sockets]
    bound.close()
    try:
        for one in sockets:
            one.setblocking(False)
            one.listen(_BACKLOG)
    except OSError:
        for one in sockets:
            one.close()
        raise
    return Listener(sockets, open_protocol, shown, failures, handshake_s_max)
