"""A small file system (tmpfs) for the data of one node, to be filled to its last byte."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.torture.cluster import Cluster

MIB = 1024 * 1024


@contextmanager
def small_disk(at: Path, mib: int) -> Iterator["SmallDisk"]:
    """Mount one there; skips the test where nobody may mount."""
    at.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(at)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(at)
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


class SmallDisk:
    """What is mounted."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self._ballast = at / "ballast"

    @property
    def free_bytes(self) -> int:
        """The room that is left."""
        found = os.statvfs(self.at)
        return found.f_bavail * found.f_frsize

    def fill(self, *, leave: int = 0) -> None:
        """Take all the room but about `leave` bytes."""
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while self.free_bytes > leave:
                file.write(bytes(min(MIB, max(4096, self.free_bytes - leave))))

    def empty(self) -> None:
        """Give it back."""
        self._ballast.unlink()


async def call(cluster: Cluster, path: str, body: object) -> tuple[int, Any]:
    """POST to the primary; the status and the answer."""
    async with cluster.http.post(f"{cluster.primary.url}/db/shop/{path}", json=body) as response:
        return response.status, await response.json()


async def run(cluster: Cluster, sql: str, *params: object) -> list[list[Any]]:
    """Run SQL that must work; the rows."""
    status, answer = await call(cluster, "raw", {"sql": sql, "params": params})
    assert status == 200, answer
    rows: list[list[Any]] = answer["result"][0]["results"]["rows"]
    return rows
