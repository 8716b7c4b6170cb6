"""Files that go in and out of a primary: exports and imports, and the URLs that lead to them."""

import asyncio
from typing import Final, NoReturn

from d1server.datadir import DataDir
from d1server.exports import Exports
from d1server.signing import UrlSigner, open_signer
from engine.resources import Resources
from primary.committer import Spawn

_SWEEP_S: Final = 5.0


class Transfers:
    """What HTTP and the administration see of them; `open` before use, `close` after."""

    signer: UrlSigner
    base_url: str
    """Where clients reach this node, without a slash at the end."""

    def __init__(self, data: DataDir, resources: Resources, *, spawn: Spawn, base_url: str) -> None:
        """Keep the files in the node's folder."""
        self._data = data
        self.threads = resources.io
        self._disk = resources.disk
        self._spawn = spawn
        self.base_url = base_url
        self.exports = Exports(
            data.path / "exports", resources, spawn=spawn, signed_url=self._signed_url
        )

    async def open(self) -> None:
        """Take the folders over from an earlier process."""
        call = self.threads.call
        key = self._data.path / "transfer.key"
        self.signer = await call(open_signer, key, self._disk)
        await call(self.exports.open)
        self._spawn(self._sweep(), "transfers")

    async def forget(self, key: bytes) -> None:
        """This database is being deleted."""
        await self.exports.forget(key)

    async def close(self) -> None:
        """Stop what is under way, before the databases are closed."""
        await self.exports.close()

    def _signed_url(self, method: str, path: str, valid_s: float) -> str:
        return self.base_url + self.signer.sign(method, path, valid_s=valid_s)

    async def _sweep(self) -> NoReturn:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.exports.sweep()
