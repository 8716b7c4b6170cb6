"""A client that sends exactly the bytes it is told to, and reads whole responses."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import orjson

from tests.waiting import EVENT_S_MAX, until


class Response(NamedTuple):
    """One response as it stood on the wire."""

    status: int
    headers: dict[str, str]  # lower-case names; the last one of equal names
    body: bytes

    def json(self) -> dict[str, object]:
        value = orjson.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def message(self) -> str:
        """The text of the first error in a D1 envelope."""
        value = self.json()
        assert value["success"] is False
        errors = value["errors"]
        assert isinstance(errors, list)
        return str(errors[0]["message"])


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))

    async def response(self) -> Response:
        """Read one response; it must have a Content-Length."""
        async with asyncio.timeout(EVENT_S_MAX):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status_line, *lines = head[:-4].decode("latin-1").split("\r\n")
            pairs = (line.split(": ", 1) for line in lines)
            headers = {name.lower(): value for name, value in pairs}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Response(int(status_line.split(" ")[1]), headers, body)

    async def exchange(self, *pieces: bytes) -> Response:
        self.send(*pieces)
        return await self.response()

    async def is_closed(self) -> bool:
        """Wait until the server closes, with nothing more sent before."""
        async with asyncio.timeout(EVENT_S_MAX):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def connected(address: tuple[str, int], receive_bytes: int = 0) -> AsyncIterator[RawClient]:
    """Open a connection; `receive_bytes` makes its receive buffer small."""
    sock = socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except OSError:
        sock.close()
        raise
    limit = receive_bytes or 2**16
    reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    client = RawClient(reader, writer)
    try:
        yield client
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass  # the server was first


def query(
    sql: str,
    *headers: str,
    params: tuple[object, ...] = (),
    path: str = "/db/shop/query",
    body: bytes | None = None,
) -> bytes:
    """Return the bytes of a plain query request."""
    if body is None:
        body = orjson.dumps({"sql": sql, "params": params})
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def rows(response: Response) -> object:
    """Return the rows of the first result."""
    result = response.json()["result"]
    assert isinstance(result, list)
    return result[0]["results"]


async def wait_until(condition: Callable[[], object]) -> None:
    """Turn the loop until `condition` holds."""
    await until(condition, "what a socket does")
