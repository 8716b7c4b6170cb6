"""Exports and imports over HTTP: D1's calls, and the signed URLs that they lead to."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

from d1server.exports import EXPORTS_PATH
from d1server.query import AdminRequest, NodeView
from d1server.signing import UrlRefused
from d1server.transfers import Transfers
from d1server.web.admission import grant_of
from d1server.web.body import Body
from d1server.web.errors import Fault, refuse
from d1server.web.front import Front
from d1server.web.limits import ADMIN_BODY_BYTES_MAX
from d1server.web.response import SERVER, to_response
from d1server.web.rest import DATABASES, PREFIXES
from d1server.web.route import Route
from engine.threads import Threads

logger = logging.getLogger(__name__)

_READ_BYTES: Final = 256 * 1024
_OWN: Final = "/db/{database}"


class TransferRoutes:
    """See the module's head."""

    def __init__(self, node: NodeView, front: Front) -> None:
        self._node = node
        self._room = front.room

    def routes(self) -> Iterator[Route]:
        """Everything that is served here."""
        for database in (_OWN, *(prefix + DATABASES + "/{database}" for prefix in PREFIXES)):
            yield Route("POST", database + "/export", self.export)
        yield Route("GET", EXPORTS_PATH + "{file}", self.download)

    async def export(self, request: web.Request) -> web.StreamResponse:
        return await self._administer("export", request)

    async def download(self, request: web.Request) -> web.StreamResponse:
        """The file of an export, streamed."""
        transfers = self._transfers()
        try:
            transfers.signer.check("GET", request.path, request.query)
        except UrlRefused as exc:
            return to_response(refuse(Fault.URL_REFUSED, str(exc)))
        export = transfers.exports.find(request.match_info["file"])
        if export is None:
            text = "this export is not kept any more: make a new one"
            return to_response(refuse(Fault.ROUTE_UNKNOWN, text))
        return await _send_file(request, export.file, f"{export.bookmark}.sql", transfers.threads)

    def _transfers(self) -> Transfers:
        if self._node.transfers is None:
            raise web.HTTPNotFound
        return self._node.transfers

    async def _administer(self, op: str, request: web.Request) -> web.StreamResponse:
        body = await Body(request, self._room, ADMIN_BODY_BYTES_MAX).read()
        name = request.match_info["database"]
        answer = await self._node.administer(
            AdminRequest(op=op, database=name, body=body, hops=0, grant=grant_of(request))
        )
        return to_response(answer)


async def _send_file(
    request: web.Request, path: Path, shown_name: str, threads: Threads
) -> web.StreamResponse:
    """Stream a file, or the rest of it from the first byte that `Range` names."""
    with await threads.call(path.open, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = _first_byte(request, size)
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
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
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


def _first_byte(request: web.Request, size: int) -> int:
    """Where `Range: bytes=N-` begins; any other form gets the whole file, as is allowed."""
    try:
        wanted = request.http_range
    except ValueError:
        return 0
    start: int = wanted.start or 0
    return start if wanted.stop is None and 0 <= start < size else 0
