"""Files on their way in: received in pieces, checked against their MD5, kept until used.

    <name>.part   bytes received so far; an upload that broke off goes on there
    <name>        all of them, and the MD5 is right

Invariants:

1. Memory: one block per upload.
2. One upload of a name at a time: a later one ends the earlier, whose client may be long
   gone without a word. At most `FILES_MAX` files.
3. What nobody uses goes a day after it was last written to. An upload for which there is no
   room goes at once: the disk is the commits' before it is an upload's.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from engine.files import Disk, is_no_room
from engine.threads import Threads

FILE_BYTES_MAX: Final = 5 * 1024**3  # D1's own limit
FILES_MAX: Final = 64
_TOO_LARGE: Final = f"the file is larger than {FILE_BYTES_MAX} bytes"
KEPT_S: Final = 24 * 3600.0
_BLOCK_BYTES: Final = 1024 * 1024
_PART: Final = ".part"


class UploadRefused(Exception):
    """Bytes that are not what was announced, or come out of turn. The message says which."""


class Uploads:
    """The files of one folder; on the event loop, with blocking work on threads."""

    def __init__(self, folder: Path, disk: Disk, threads: Threads) -> None:
        """Keep them in `folder`."""
        self._folder = folder
        self._disk = disk
        self._threads = threads
        self._receiving: dict[str, _Turn] = {}

    def open(self) -> None:
        """Make the folder; blocking."""
        self._disk.make_folder(self._folder)

    def path(self, name: str) -> Path:
        """Where the whole file is, or will be."""
        return self._folder / name

    def is_whole(self, name: str) -> bool:
        """All of it is here."""
        return self.path(name).exists()

    def bytes_received(self, name: str) -> int:
        """How much of an unfinished upload is here."""
        return _size(self._part(name))

    def remove(self, name: str) -> None:
        """Forget the file."""
        self._disk.remove(self.path(name))
        self._disk.remove(self._part(name))

    def sweep(self) -> None:
        """Remove what nobody has used for a day."""
        oldest = time.time() - KEPT_S
        for name in self._disk.list(self._folder):
            if name.removesuffix(_PART) in self._receiving:
                continue
            path = self._folder / name
            with suppress(FileNotFoundError):  # imported and removed meanwhile
                if path.stat().st_mtime < oldest:
                    self._disk.remove(path)

    def remove_all(self, prefix: str) -> None:
        """Forget all files whose names begin so."""
        for name in self._disk.list(self._folder):
            if name.startswith(prefix):
                self._disk.remove(self._folder / name)

    async def receive(
        self,
        name: str,
        md5: str,
        chunks: AsyncIterator[bytes],
        *,
        at: int,
        is_last: bool,
        announced: int = 0,
    ) -> int:
        """Write the chunks from byte `at` on, and if they are the last, check the whole.

        How many bytes of the file are here then. Raises `UploadRefused`, and what `chunks`
        does: what came before stays. Raises `OSError` if there is no room for the `announced`
        bytes, or was none for those that came: then nothing stays of what was received.
        """
        if announced > FILE_BYTES_MAX:
            raise UploadRefused(_TOO_LARGE)
        await self._threads.call(self._disk.check_room, self._folder, announced)
        async with self._turn(name):
            writing = _Writing(self._disk, self._part(name))
            try:
                await self._threads.call(writing.open, at)
                await self._write(writing, chunks)
                if is_last:
                    await self._finish(writing, name, md5)
                return writing.size
            except OSError as exc:
                if is_no_room(exc):
                    self._disk.remove(self._part(name))
                raise
            finally:
                await self._threads.call(writing.close)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        while (earlier := self._receiving.get(name)) is not None:
            earlier.task.cancel()
            await earlier.ended.wait()
        if not self.bytes_received(name) and len(self._disk.list(self._folder)) >= FILES_MAX:
            raise UploadRefused(f"{FILES_MAX} uploaded files wait already: import them first")
        task = asyncio.current_task()
        assert task is not None
        self._receiving[name] = turn = _Turn(task, asyncio.Event())
        try:
            yield
        finally:
            del self._receiving[name]
            turn.ended.set()

    async def _write(self, writing: "_Writing", chunks: AsyncIterator[bytes]) -> None:
        waiting: list[bytes] = []
        size = 0
        try:
            async for chunk in chunks:
                waiting.append(chunk)
                size += len(chunk)
                if writing.size + size > FILE_BYTES_MAX:
                    raise UploadRefused(_TOO_LARGE)
                if size >= _BLOCK_BYTES:
                    block, size = b"".join(waiting), 0
                    waiting.clear()
                    await self._threads.call(writing.append, block)
        finally:  # also of an upload that breaks off: what is here need not be sent again
            if waiting:
                await self._threads.call(writing.append, b"".join(waiting))

    async def _finish(self, writing: "_Writing", name: str, md5: str) -> None:
        found = await self._threads.call(writing.md5)
        if found != md5:
            self._disk.remove(self._part(name))
            raise UploadRefused(f"the MD5 of the {writing.size} bytes is {found}, not {md5}")
        await self._threads.call(writing.sync)
        self._disk.rename(self._part(name), self.path(name))

    def _part(self, name: str) -> Path:
        return self._folder / (name + _PART)


class _Turn(NamedTuple):
    """A request that receives a file."""

    task: "asyncio.Task[object]"
    ended: asyncio.Event


class _Writing:
    """One open `.part` file; blocking.

    Its MD5 is counted while it is written, if that is from its beginning; else at the end.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hashed = 0  # bytes that are in it
        self._fd = -1
        self.size = 0

    def open(self, at: int) -> None:
        """Go on at byte `at`; `close` gives the descriptor back, also after an error."""
        have = _size(self._path)
        if at > have:
            raise UploadRefused(f"only {have} bytes are here: go on from there")
        self._fd = self._disk.open(self._path, create=True)
        self._disk.truncate(self._fd, at)
        self.size = at

    def md5(self) -> str:
        """Of all that is in the file."""
        while self._hashed < self.size:
            count = min(_BLOCK_BYTES, self.size - self._hashed)
            self._md5.update(self._disk.pread(self._fd, count, self._hashed))
            self._hashed += count
        return self._md5.hexdigest()

    def append(self, block: bytes) -> None:
        self._disk.check_room(self._path.parent, len(block))
        self._disk.pwrite(self._fd, block, self.size)
        if self._hashed == self.size:
            self._md5.update(block)
            self._hashed += len(block)
        self.size += len(block)

    def sync(self) -> None:
        self._disk.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            self._disk.close(self._fd)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
