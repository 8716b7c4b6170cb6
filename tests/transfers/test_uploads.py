"""Uploaded files: removed when their time is over, and when there is no room for them."""

import asyncio
import errno
import hashlib
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from d1server.transfers.uploads import KEPT_S, Uploads
from engine.files import Disk
from engine.threads import Threads
from proto.record import Buffer
from tests.waiting import until

DATA = bytes(range(256)) * 20_000  # more than one block
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()


class SmallDisk(Disk):
    """A disk with room for so many bytes."""

    room = 1 << 40
    taken = 0  # of what the file system has free
    is_opening = False

    def __init__(self) -> None:
        self.gate = threading.Event()  # files are opened when it is set
        self.gate.set()
        self.opened: set[int] = set()

    def open(self, path: Path, *, create: bool = False) -> int:
        self.is_opening = True
        self.gate.wait()
        fd = super().open(path, create=create)
        self.opened.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self.opened.discard(fd)
        super().close(fd)

    def check_room(self, folder: Path, count: int) -> None:
        super().check_room(folder, count + self.taken)

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        if offset + len(data) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().pwrite(fd, data, offset)


@pytest.fixture(name="disk")
def a_disk() -> SmallDisk:
    return SmallDisk()


@pytest.fixture(name="uploads")
def some_uploads(tmp_path: Path, disk: SmallDisk) -> Iterator[Uploads]:
    threads = Threads("io", 2)
    uploads = Uploads(tmp_path / "imports", disk, threads)
    uploads.open()
    yield uploads
    threads.close()


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 60_000):
        yield data[at : at + 60_000]


def names(uploads: Uploads) -> set[str]:
    return {path.name for path in uploads.path("x").parent.iterdir()}


async def receive(uploads: Uploads, name: str, data: bytes = DATA, at: int = 0) -> int:
    is_last = at + len(data) == len(DATA)
    return await uploads.receive(name, MD5, pieces(data), at=at, is_last=is_last)


async def test_what_nobody_has_used_for_a_day_goes(uploads: Uploads) -> None:
    """Whole files and parts; not what is younger, nor what is being received now."""
    await receive(uploads, "old")
    await receive(uploads, "old-part", DATA[:1000])
    await receive(uploads, "young")
    await receive(uploads, "receiving", DATA[:1000])
    hanging = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        hanging.set()
        await asyncio.Event().wait()
        yield b""

    sending = asyncio.create_task(uploads.receive("receiving", MD5, slow(), at=1000, is_last=False))
    await hanging.wait()
    long_ago = time.time() - KEPT_S - 1
    for name in ("old", "old-part.part", "receiving.part"):
        os.utime(uploads.path(name), (long_ago, long_ago))
    uploads.sweep()
    assert names(uploads) == {"young", "receiving.part"}
    sending.cancel()
    await asyncio.wait([sending])


async def test_an_upload_that_is_ended_while_its_file_is_opened_leaves_no_descriptor(
    uploads: Uploads, disk: SmallDisk
) -> None:
    disk.gate.clear()
    sending = asyncio.create_task(receive(uploads, "file"))
    await until(lambda: disk.is_opening, "opening the file")
    sending.cancel()
    await asyncio.sleep(0)
    disk.gate.set()
    await asyncio.wait([sending])
    assert sending.cancelled()
    assert not disk.opened


async def test_what_stood_behind_the_file_s_end_is_gone(uploads: Uploads) -> None:
    """Bytes of an earlier try that was longer, and wrong, are no part of the file."""
    longer = DATA + b"DROP TABLE t;"
    await uploads.receive("file", MD5, pieces(longer), at=0, is_last=False)
    assert uploads.bytes_received("file") == len(longer)
    assert await receive(uploads, "file") == len(DATA)
    assert uploads.path("file").read_bytes() == DATA


async def test_an_upload_without_room_gives_back_what_it_took(
    uploads: Uploads, disk: SmallDisk
) -> None:
    """At once, not a day later; and with room again it begins anew."""
    await receive(uploads, "file", DATA[:1000])
    disk.room = len(DATA) // 2
    with pytest.raises(OSError, match="No space"):
        await receive(uploads, "file", DATA[1000:], at=1000)
    assert names(uploads) == set()
    disk.room = 1 << 40
    free = shutil.disk_usage(uploads.path("file").parent).free
    disk.taken = free - len(DATA)
    with pytest.raises(OSError, match="No space"):
        await uploads.receive("file", MD5, pieces(DATA), at=0, is_last=True, announced=len(DATA))
    disk.taken = 0
    assert names(uploads) == set()
    assert await receive(uploads, "file") == len(DATA)
    assert uploads.is_whole("file")
