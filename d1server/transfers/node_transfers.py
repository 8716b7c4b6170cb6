"""Files that go in and out of a primary: exports and imports, and the URLs that lead to them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NoReturn

from d1server.catalog import CatalogEntry
from d1server.datadir import DataDir
from d1server.nodedb import NodeDb
from d1server.transfers.exports import Exports
from d1server.transfers.imports import Imports
from d1server.transfers.signing import UrlSigner, open_signer
from d1server.transfers.uploads import Uploads
from engine.resources import Resources
from primary.committer import Spawn
from proto.api import ServedBy

logger = logging.getLogger(__name__)

_SWEEP_S: Final = 5.0


class Transfers:
    """What HTTP and the administration see of them, while they are `open`."""

    signer: UrlSigner
    base_url: str
    """Where clients reach this node, without a slash at the end."""

    def __init__(
        self,
        data: DataDir,
        resources: Resources,
        served: ServedBy,
        *,
        spawn: Spawn,
        base_url: str,
    ) -> None:
        """Keep the files in the node's folder."""
        self.threads = resources.io
        self._disk = resources.disk
        self._key_path = data.path / "transfer.key"
        self._spawn = spawn
        self.base_url = base_url
        sign_url = self._sign_url
        self.exports = Exports(data.path / "exports", resources, spawn=spawn, sign_url=sign_url)
        uploads = Uploads(data.path / "imports", resources.disk, resources.io)
        self.imports = Imports(uploads, served, spawn=spawn, sign_url=sign_url)

    @asynccontextmanager
    async def opened(self, db: NodeDb) -> AsyncIterator[None]:
        """Within this they run; the databases are open before and closed after."""
        call = self.threads.call
        self.signer = await call(open_signer, self._key_path, self._disk)
        await call(self.exports.open)
        await call(self.imports.uploads.open)
        self.imports.db = db
        sweeping = self._spawn(self._sweep(), "transfers")
        try:
            yield
        finally:
            sweeping.cancel()
            await self.exports.close()
            await self.imports.close()

    async def forget(self, entry: CatalogEntry) -> None:
        """This database is being deleted."""
        await self.exports.forget(entry.uuid)
        await self.imports.forget(entry)

    def _sign_url(self, method: str, path: str, valid_s: float) -> str:
        return self.base_url + self.signer.sign(method, path, valid_s=valid_s)

    async def _sweep(self) -> NoReturn:
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                self.exports.sweep()
                await self.threads.call(self.imports.uploads.sweep)
            except OSError as exc:
                logger.warning("old files cannot be removed: %s", exc)
