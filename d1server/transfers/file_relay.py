"""Signed URLs at a replica: files go through it to and from its primary, piece by piece.

    client --PUT--> replica --FILE_PUT--> primary: `Uploads.receive`
    client <--GET-- replica <--FILE_GET-- primary: the file of an export

Only the primary can judge a signature, so it is asked before the first byte is taken, and
with each piece again.

Invariant: a transfer holds one piece, and the next is sent when it was answered: commits on
the same link wait for no more than that. At most `_RUNNING_MAX` transfers.
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import orjson

from d1server.query import Answer
from d1server.refusals import answer_refusal
from d1server.results import to_reply_answer
from d1server.transfers.node_transfers import Transfers
from d1server.transfers.signing import SIGNED_PREFIX, UrlRefused
from d1server.transfers.uploads import UploadRefused
from d1server.web.errors import Fault, refuse
from engine.files import is_no_room
from proto.messages import Forward
from replica.errors import ForwardFailed, OutcomeUnknown
from replica.forward import Forwarder

FILE_PUT: Final = "file-put"
FILE_GET: Final = "file-get"
PIECE_BYTES: Final = 1024 * 1024
NO_ROOM: Final = "the disk has no room for this file: free some space and upload it again"
NOT_KEPT: Final = "this export is not kept any more: make a new one"
_RUNNING_MAX: Final = 8
_ANSWER_S_MAX: Final = 600.0  # the last piece of 5 GiB: all of it is read for its MD5


class PutPiece(msgspec.Struct, frozen=True):
    """Bytes of a file that a client sends."""

    path: str
    query: dict[str, str]
    at: int
    data: bytes
    is_last: bool


class GetPiece(msgspec.Struct, frozen=True):
    """Wanted: the bytes of a file from `at` on."""

    path: str
    query: dict[str, str]
    at: int


class FilePiece(msgspec.Struct, frozen=True):
    """Bytes of a file that a client fetches."""

    size: int  # of the file
    shown_name: str
    data: bytes


class FileRelay:
    """The replica's side; `base_url` is where its clients reach it."""

    def __init__(self, forwarder: Forwarder, base_url: str) -> None:
        """Ask the primary through `forwarder`."""
        self.base_url = base_url
        self._forwarder = forwarder
        self._running = 0

    async def put(
        self,
        path: str,
        query: dict[str, str],
        chunks: AsyncIterator[bytes],
        *,
        at: int,
        is_last: bool,
    ) -> Answer:
        """Hand an upload through; the primary's last answer. Raises what `chunks` does."""

        async def piece(data: bytes, *, is_last: bool = False) -> Answer:
            asked = PutPiece(path, query, at, data, is_last)
            return await self._answer(FILE_PUT, asked)

        if self._running >= _RUNNING_MAX:
            return _too_many()
        with self._counted():
            answer = await piece(b"")  # may this be sent at all?
            waiting = bytearray()
            async for chunk in chunks:
                if answer.status != 200:
                    return answer
                waiting += chunk
                while len(waiting) > PIECE_BYTES:
                    data = bytes(waiting[:PIECE_BYTES])
                    del waiting[:PIECE_BYTES]
                    answer = await piece(data)
                    if answer.status != 200:
                        return answer
                    at += len(data)
            if answer.status != 200:
                return answer
            return await piece(bytes(waiting), is_last=is_last)

    async def get(self, path: str, query: dict[str, str], at: int) -> FilePiece | Answer:
        """The bytes from `at` on, or the primary's refusal."""
        if self._running >= _RUNNING_MAX:
            return _too_many()
        with self._counted():
            answer = await self._answer(FILE_GET, GetPiece(path, query, at))
        return (
            msgspec.msgpack.decode(answer.body, type=FilePiece) if answer.status == 200 else answer
        )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _answer(self, operation: str, asked: PutPiece | GetPiece) -> Answer:
        forward = Forward(0, operation, "", msgspec.msgpack.encode(asked))
        try:
            return to_reply_answer(await self._forwarder.ask(forward, timeout_s=_ANSWER_S_MAX))
        except ForwardFailed as exc:
            return answer_refusal(exc)
        except OutcomeUnknown as exc:  # what has arrived is asked for before anything is sent again
            return refuse(Fault.PRIMARY_AWAY, str(exc))

    def rebased(self, answer: Answer) -> Answer:
        """The primary's answer to an export or import, with URLs that lead through this node."""
        told = orjson.loads(answer.body).get("result")
        if answer.status != 200 or not isinstance(told, dict):
            return answer
        changed = False
        for place, name in ((told, "upload_url"), (told.get("result"), "signed_url")):
            if isinstance(place, dict) and SIGNED_PREFIX in (url := str(place.get(name, ""))):
                place[name] = self.base_url + url[url.index(SIGNED_PREFIX) :]
                changed = True
        if changed:
            answer.body = orjson.dumps(orjson.loads(answer.body) | {"result": told})
        return answer


def received(size: int) -> bytes:
    """What a client is told when so many bytes of its file are here."""
    return b'{"success": true, "uploaded_bytes": %d}' % size


def _too_many() -> Answer:
    text = f"{_RUNNING_MAX} files go through this replica already: try again in a moment"
    return refuse(Fault.OVERLOADED, text)


async def answer_piece(transfers: Transfers, operation: str, body: bytes) -> Answer:
    """The primary's side: take or give a piece."""
    try:
        if operation == FILE_PUT:
            return await _take(transfers, msgspec.msgpack.decode(body, type=PutPiece))
        return await _give(transfers, msgspec.msgpack.decode(body, type=GetPiece))
    except UrlRefused as exc:
        return refuse(Fault.URL_REFUSED, str(exc))
    except (UploadRefused, msgspec.MsgspecError) as exc:
        return refuse(Fault.REQUEST_INVALID, str(exc))
    except OSError as exc:
        if is_no_room(exc):
            return refuse(Fault.DISK_FULL, NO_ROOM)
        return refuse(Fault.OVERLOADED, f"the file cannot be kept or read: {exc.strerror}")


async def _take(transfers: Transfers, piece: PutPiece) -> Answer:
    transfers.signer.check("PUT", piece.path, piece.query)
    name = piece.path.rpartition("/")[2]

    async def only() -> AsyncIterator[bytes]:
        if piece.data:
            yield piece.data

    size = await transfers.imports.uploads.receive(
        name,
        name.split(".")[1],
        only(),
        at=piece.at,
        is_last=piece.is_last,
        announced=len(piece.data),
    )
    return Answer(200, received(size), None)


async def _give(transfers: Transfers, piece: GetPiece) -> Answer:
    transfers.signer.check("GET", piece.path, piece.query)
    export = transfers.exports.find(piece.path.rpartition("/")[2])
    if export is None:
        return refuse(Fault.ROUTE_UNKNOWN, NOT_KEPT)
    size, data = await transfers.threads.call(_read, export.file, piece.at)
    told = FilePiece(size, f"{export.bookmark}.sql", data)
    return Answer(200, msgspec.msgpack.encode(told), None)


def _read(path: Path, at: int) -> tuple[int, bytes]:
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, os.pread(file.fileno(), PIECE_BYTES, at)
