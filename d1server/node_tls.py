"""The TLS of a running node: what its certificate files held when they last could be used.

Certificates are renewed while nodes run. The files are read anew when somebody asks for it
(SIGHUP), and when they have changed, which is looked at every `LOOK_S`. Handshakes that begin
then use what was read; connections that stand keep what they began with. Files that cannot be
used change nothing: that is an error in the log, and what there was goes on.

Owned by the node, on the event loop; files are read on a thread.
"""

import asyncio
import contextlib
import logging
import ssl
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from d1server.tls import TlsFiles, TlsInvalid

logger = logging.getLogger(__name__)

LOOK_S: Final = 60.0
_READS_MAX: Final = 3  # of files that change while they are read

_Stamp = tuple[int, int, int] | None  # of one file: which one, when written, how long


class Shown(NamedTuple):
    """What one handshake is made with."""

    context: ssl.SSLContext
    fingerprint: bytes
    """Of the certificate that we show, empty without one."""


class _Read(NamedTuple):
    """What the files held at one time."""

    http: Shown | None
    link: Shown | None
    stamps: tuple[_Stamp, ...]


class NodeTls:
    """See the module's head."""

    def __init__(self, files: TlsFiles, *, is_primary: bool) -> None:
        """Read the files. Raises `TlsInvalid`."""
        self._files = files
        self._is_primary = is_primary
        self._read = self._read_files()
        self._tried = self._read.stamps

    @property
    def http(self) -> Shown | None:
        """What HTTP clients are served with; None: without TLS, for the node's whole life."""
        return self._read.http

    @property
    def link(self) -> Shown | None:
        """What a primary takes links with, or a replica dials with; None: as above."""
        return self._read.link

    async def keep_renewed(self, asked: asyncio.Event) -> NoReturn:
        """Read the files whenever `asked` is set, and when they have changed."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self._files else None):
                    await asked.wait()
            is_asked = asked.is_set()
            asked.clear()
            if self._files:
                await self._renew(is_asked)
            elif is_asked:
                logger.info("asked to read certificates anew: this node has none")

    async def _renew(self, is_asked: bool) -> None:
        stamps = await asyncio.to_thread(self._stamps)
        if stamps == self._tried and not is_asked:
            return
        self._tried = stamps
        try:
            self._read = await asyncio.to_thread(self._read_files)
        except TlsInvalid as exc:
            logger.error("%s: the certificates from before stay in use", exc)
            return
        self._tried = self._read.stamps
        logger.info("certificates read anew: connections from now on use them")

    def _read_files(self) -> _Read:
        """What the files hold, all at the same time. Raises `TlsInvalid`. Blocking."""
        files = self._files
        for _ in range(_READS_MAX):
            stamps = self._stamps()
            http = files.for_http()
            link = files.for_replicas() if self._is_primary else files.for_primary()
            shown = files.fingerprint()
            if self._stamps() == stamps:
                return _Read(
                    None if http is None else Shown(http, shown),
                    None if link is None else Shown(link, shown),
                    stamps,
                )
        raise TlsInvalid("the certificate files change while they are read")

    def _stamps(self) -> tuple[_Stamp, ...]:
        files = (self._files.cert, self._files.key, self._files.ca)
        return tuple(_stamp(file) for file in files if file is not None)


def _stamp(file: Path) -> _Stamp:
    try:
        found = file.stat()  # of what links lead to: they are turned to new files
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
