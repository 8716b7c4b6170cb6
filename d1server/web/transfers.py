"""Exports and imports over HTTP: D1's calls, and the signed URLs that they lead to."""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

from d1server.query import Answer, NodeView
from d1server.transfers.exports import EXPORTS_PATH
from d1server.transfers.file_relay import NO_ROOM, NOT_KEPT, FilePiece, FileRelay, received
from d1server.transfers.imports import IMPORTS_PATH
from d1server.transfers.node_transfers import Transfers
from d1server.transfers.signing import UrlRefused
from d1server.transfers.uploads import FILE_BYTES_MAX, UploadRefused
from d1server.web.body import BodySlow
from d1server.web.calls import Calls
from d1server.web.errors import Fault, refuse
from d1server.web.limits import body_s_max
from d1server.web.response import SERVER, to_response
from d1server.web.rest import DATABASES, PREFIXES
from d1server.web.route import Route
from engine.files import is_no_room
from engine.threads import Threads

logger = logging.getLogger(__name__)

_READ_BYTES: Final = 256 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", re.ASCII)
_OWN: Final = "/db/{database}"


class TransferRoutes:
    """See the module's head."""

    def __init__(self, node: NodeView, calls: Calls) -> None:
        """Files are those of `node`; jobs are asked for by `calls`."""
        self._node = node
        self._calls = calls

    def routes(self) -> Iterator[Route]:
        """Everything that is served here."""
        for database in (_OWN, *(prefix + DATABASES + "/{database}" for prefix in PREFIXES)):
            yield Route("POST", database + "/export", self._calls.operation("export"))
            yield Route("POST", database + "/import", self._calls.operation("import"))
        yield Route("GET", EXPORTS_PATH + "{file}", self.download)
        yield Route("PUT", IMPORTS_PATH + "{file}", self.upload, FILE_BYTES_MAX)

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """A file to import, whole or from where an earlier upload broke off."""
        name = request.match_info["file"]
        if isinstance(relay := self._node.transfers, FileRelay):
            return await _relayed_upload(relay, request)
        try:
            uploads = self._transfers("PUT", request).imports.uploads
            at, is_last = _piece(request.headers.get(hdrs.CONTENT_RANGE, ""))
            md5 = name.split(".")[1]
            size = await uploads.receive(
                name,
                md5,
                _chunks(request),
                at=at,
                is_last=is_last,
                announced=request.content_length or 0,
            )
        except UrlRefused as exc:
            return _refused(Fault.URL_REFUSED, str(exc))
        except UploadRefused as exc:
            return _refused(Fault.REQUEST_INVALID, str(exc))
        except OSError as exc:
            if isinstance(exc, ConnectionError):
                raise
            if is_no_room(exc):
                return _refused(Fault.DISK_FULL, NO_ROOM)
            return _refused(Fault.OVERLOADED, f"the file cannot be kept: {exc.strerror}")
        return _uploaded(received(size), request, is_last=is_last)

    async def download(self, request: web.Request) -> web.StreamResponse:
        """The file of an export, streamed."""
        if isinstance(relay := self._node.transfers, FileRelay):
            return await _relayed_download(relay, request)
        try:
            transfers = self._transfers("GET", request)
        except UrlRefused as exc:
            return _refused(Fault.URL_REFUSED, str(exc))
        export = transfers.exports.find(request.match_info["file"])
        if export is None:
            return _refused(Fault.ROUTE_UNKNOWN, NOT_KEPT)
        return await _send_file(request, export.file, f"{export.bookmark}.sql", transfers.threads)

    def _transfers(self, method: str, request: web.Request) -> Transfers:
        """What the signed URL of this request leads to. Raises `UrlRefused`."""
        transfers = self._node.transfers
        if not isinstance(transfers, Transfers):
            raise web.HTTPNotFound
        transfers.signer.check(method, request.path, request.query)
        return transfers


def _refused(fault: Fault, message: str) -> web.StreamResponse:
    return _closing(refuse(fault, message))


def _closing(answer: Answer) -> web.StreamResponse:
    response = to_response(answer)
    response.force_close()  # the request's body may not have been read
    return response


def _uploaded(body: bytes, request: web.Request, *, is_last: bool) -> web.StreamResponse:
    response = web.Response(
        body=body, status=200 if is_last else 202, content_type="application/json"
    )
    if is_last:
        response.headers[hdrs.ETAG] = f'"{request.match_info["file"].split(".")[1]}"'
    return response


async def _relayed_upload(relay: FileRelay, request: web.Request) -> web.StreamResponse:
    try:
        at, is_last = _piece(request.headers.get(hdrs.CONTENT_RANGE, ""))
        answer = await relay.put(
            request.path, dict(request.query), _chunks(request), at=at, is_last=is_last
        )
    except UploadRefused as exc:
        return _refused(Fault.REQUEST_INVALID, str(exc))
    if answer.status != 200:
        return _closing(answer)
    return _uploaded(answer.body, request, is_last=is_last)


async def _relayed_download(relay: FileRelay, request: web.Request) -> web.StreamResponse:
    path, query = request.path, dict(request.query)
    at = _first_byte(request, FILE_BYTES_MAX)
    piece = await relay.get(path, query, at)
    if isinstance(piece, FilePiece) and at >= piece.size:  # the whole file, as is allowed
        at, piece = 0, await relay.get(path, query, 0)
    if not isinstance(piece, FilePiece):
        return _closing(piece)
    size = piece.size
    response = _file_response(at, size, piece.shown_name)
    await response.prepare(request)
    while isinstance(piece, FilePiece) and piece.data:
        await response.write(piece.data)
        at += len(piece.data)
        if at >= size:
            break
        piece = await relay.get(path, query, at)
    if at < size:  # the head is out: only a connection cut short can tell the client
        raise ConnectionResetError("the download broke off")
    await response.write_eof()
    return response


def _piece(content_range: str) -> tuple[int, bool]:
    """Where the bytes belong, and whether they are the last. Raises `UploadRefused`."""
    if not content_range:
        return 0, True
    found = _CONTENT_RANGE.fullmatch(content_range)
    if found is None:
        raise UploadRefused("Content-Range: send bytes <first>-<last>/<size>")
    first, last, size = map(int, found.groups())
    return first, last + 1 == size


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    """The body in pieces. Raises `BodySlow`, `UploadRefused`."""
    started, size = asyncio.get_running_loop().time(), 0
    try:
        while True:
            async with asyncio.timeout_at(started + body_s_max(size)):
                chunk = await request.content.readany()
            if not chunk:
                return
            size += len(chunk)
            yield chunk
    except TimeoutError as exc:
        raise BodySlow(f"only {size} bytes came in time: go on from there") from exc
    except web.RequestPayloadError as exc:
        raise UploadRefused(f"the body cannot be read: {exc}") from exc


async def _send_file(
    request: web.Request, path: Path, shown_name: str, threads: Threads
) -> web.StreamResponse:
    """Stream a file, or the rest of it from the first byte that `Range` names."""
    with await threads.call(path.open, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = _first_byte(request, size)
        response = _file_response(start, size, shown_name)
        await response.prepare(request)
        try:
            for at in range(start, size, _READ_BYTES):
                await response.write(await threads.call(os.pread, file.fileno(), _READ_BYTES, at))
        except OSError as exc:
            if not isinstance(exc, ConnectionError):
                logger.error("%s cannot be sent to its end: %s", path, exc)
            # The head is out: only a connection cut short can tell the client.
            raise ConnectionResetError("the download broke off") from exc
        await response.write_eof()
        return response


def _file_response(start: int, size: int, shown_name: str) -> web.StreamResponse:
    headers = {
        "server": SERVER,
        hdrs.CONTENT_TYPE: "application/sql",
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="{shown_name}"',
        hdrs.CONTENT_LENGTH: str(size - start),
        hdrs.ACCEPT_RANGES: "bytes",
        "x-content-type-options": "nosniff",
    }
    if start:
        headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{size - 1}/{size}"
    return web.StreamResponse(status=206 if start else 200, headers=headers)


def _first_byte(request: web.Request, size: int) -> int:
    """Where `Range: bytes=N-` begins; any other form gets the whole file, as is allowed."""
    try:
        wanted = request.http_range
    except ValueError:
        return 0
    start: int = wanted.start or 0
    return start if wanted.stop is None and 0 <= start < size else 0
