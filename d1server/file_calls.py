"""Files to and from the signed URLs of a node, for the command line; streamed both ways.

Synchronous, like `call.py`. No token is sent: the URL is one.
"""

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias
from urllib.parse import urlsplit

from d1server.call import NodeUnreachable, describe, refusal
from d1server.tls import client_context

_BLOCK_BYTES: Final = 256 * 1024
_STALL_S_MAX: Final = 60.0

OnBytes: TypeAlias = Callable[[int], None]
"""Told how many bytes were moved since it was told last."""
OnReached: TypeAlias = Callable[[int, int], None]
"""Told how many bytes are here, and how many the file has."""


class FileUrl:
    """A signed URL."""

    def __init__(self, url: str, ca: Path | None) -> None:
        """`ca`: certificates to trust, if others than the system's."""
        self._parts = urlsplit(url)
        self._ca = ca

    def send(self, file: BinaryIO, size: int, start: int, on_sent: OnBytes) -> None:
        """PUT the file from byte `start` on. Raises `NodeUnreachable`, `NodeRefused`."""
        headers = {"Content-Length": str(size - start), "Content-Type": "application/sql"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        with self._connected() as connection:
            try:
                connection.request("PUT", self._target, _blocks(file, start, on_sent), headers)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before the end: the answer says why
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise refusal(response.status, content, _lower(response))

    def receive(self, file: BinaryIO, start: int, on_received: OnReached) -> bool:
        """GET the file from byte `start` on and write it; whether it is all here.

        Raises `NodeUnreachable` if nothing came, `NodeRefused`, `OSError` of the file.
        """
        with self._connected() as connection:
            headers = {"Range": f"bytes={start}-"} if start else {}
            connection.request("GET", self._target, headers=headers)
            response = connection.getresponse()
            if response.status not in (200, 206):
                raise refusal(response.status, response.read(), _lower(response))
            here = file.seek(start if response.status == 206 else 0)
            file.truncate()
            missing = int(response.headers["Content-Length"])
            size = here + missing
            while missing and (block := _next_block(response)):
                file.write(block)
                missing -= len(block)
                on_received(size - missing, size)
        return missing == 0

    @property
    def _target(self) -> str:
        return f"{self._parts.path}?{self._parts.query}"

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        """A connection to the URL's node; errors of it become `NodeUnreachable`."""
        host, port = self._parts.hostname or "", self._parts.port
        connection: http.client.HTTPConnection
        if self._parts.scheme == "https":
            context = client_context(self._ca)
            connection = http.client.HTTPSConnection(
                host, port, timeout=_STALL_S_MAX, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_STALL_S_MAX)
        try:
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection
        except (ConnectionError, TimeoutError, socket.gaierror, http.client.HTTPException) as exc:
            where = f"{self._parts.scheme}://{self._parts.netloc}"
            raise NodeUnreachable(
                f"the transfer with {where} broke off: {describe(exc)}; if that is no address that "
                "can be reached from here, start the primary with --public-url",
                was_sent=True,
            ) from exc
        finally:
            connection.close()


def _next_block(response: http.client.HTTPResponse) -> bytes:
    """The next bytes; none if the connection broke off."""
    try:
        return response.read(_BLOCK_BYTES)
    except (OSError, http.client.HTTPException):
        return b""


def _blocks(file: BinaryIO, start: int, on_sent: OnBytes) -> Iterator[bytes]:
    file.seek(start)
    while block := file.read(_BLOCK_BYTES):
        yield block
        on_sent(len(block))


def _lower(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}
