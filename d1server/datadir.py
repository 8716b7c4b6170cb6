"""A node's folder: who has it, what is in it.

    node.toml     format, cluster, node: who this folder belongs to
    lock          held (flock) by the one process that uses the folder
    databases/    a folder per database, named by its uuid

The lock is the kernel's and ends with the process, however it ends.
"""

import fcntl
import os
import secrets
import shutil
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from engine.files import Disk

FORMAT: Final = 1
"""Of the folder as a whole; a folder with a greater one was made by a newer program."""

_DELETED: Final = ".deleted"


class DataDirRefused(Exception):
    """The folder cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What `node.toml` says. `cluster` is empty on a replica that has not met its primary."""

    format: int
    role: str
    node: str
    cluster: str


class DataDir:
    """An opened and locked folder; made by `open_data_dir`."""

    def __init__(self, path: Path, disk: Disk, identity: Identity) -> None:
        """Use `open_data_dir`."""
        self.path = path
        self.disk = disk
        self.identity = identity

    @property
    def databases(self) -> Path:
        """Where the databases' folders are."""
        return self.path / "databases"

    def folder(self, database: bytes) -> Path:
        """The folder of the database with this uuid."""
        return self.databases / str(uuid.UUID(bytes=database))

    def delete(self, database: bytes) -> None:
        """Remove a database's folder; blocking. Cut short, `finish_deletions` ends it."""
        folder = self.folder(database)
        if folder.exists():
            marked = folder.with_name(folder.name + _DELETED)
            self.disk.rename(folder, marked)
            self.disk.sync_folder(self.databases)
            shutil.rmtree(marked, ignore_errors=True)

    def set_aside(self, database: bytes, suffix: str) -> Path | None:
        """Keep a database's folder under another name, for people; where, if any. Blocking."""
        folder = self.folder(database)
        if not folder.exists():
            return None
        aside = folder.with_name(folder.name + suffix)
        self.disk.rename(folder, aside)
        self.disk.sync_folder(self.databases)
        return aside

    def finish_deletions(self) -> None:
        """Remove what a crash left of deleted databases; blocking."""
        for marked in self.databases.glob(f"*{_DELETED}"):
            shutil.rmtree(marked, ignore_errors=True)

    def join(self, cluster: str) -> None:
        """Remember the cluster this node belongs to from now on."""
        self.identity = replace(self.identity, cluster=cluster)
        _write(self.path, self.identity, self.disk)


@contextmanager
def open_data_dir(path: Path, role: str, disk: Disk) -> Iterator[DataDir]:
    """Lock the folder for this process; make it if it is not there.

    Raises `DataDirRefused` if another process has it, or it is not ours to use.
    """
    try:
        disk.make_folder(path)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise DataDirRefused(f"{path} cannot be used: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise DataDirRefused(
                f"{path} is in use by another process{_holder(lock)}; "
                "stop it, or give this node a --data-dir of its own"
            ) from exc
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        identity = _identity(path, role, disk)
        opened = DataDir(path, disk, identity)
        disk.make_folder(opened.databases)
        yield opened
    finally:
        os.close(lock)


@contextmanager
def private_files() -> Iterator[None]:
    """What this process makes in the block is its user's alone; for the whole process.

    A node's folder holds the databases, the hashes of the access tokens (which are the keys of
    the replication link) and the key of signed URLs.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _holder(lock: int) -> str:
    text = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
    return f" (pid {text})" if text.isdigit() else ""


def _identity(path: Path, role: str, disk: Disk) -> Identity:
    file = path / "node.toml"
    if not file.exists():
        if role == "primary" and any((path / "databases").glob("*")):
            # A new cluster would serve none of them, and have every replica start empty.
            raise DataDirRefused(
                f"{file} is missing, and {path} holds databases: restore it (the cluster's id "
                "stands in the node.toml of every replica), or give an empty --data-dir"
            )
        cluster = str(uuid.uuid4()) if role == "primary" else ""
        made = Identity(FORMAT, role, secrets.token_hex(8), cluster)
        _write(path, made, disk)
        return made
    try:
        fields = tomllib.loads(file.read_text("utf-8"))
        found = Identity(
            int(fields["format"]), str(fields["role"]), str(fields["node"]), str(fields["cluster"])
        )
        if found.cluster or role == "primary":
            uuid.UUID(found.cluster)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise DataDirRefused(f"{file} cannot be read ({exc!r}); restore it or this folder") from exc
    if found.format > FORMAT:
        raise DataDirRefused(
            f"{path} was made by a newer d1server (format {found.format}, this program knows up to "
            f"{FORMAT}); use that version"
        )
    if found.role != role:
        raise DataDirRefused(
            f"{path} is the folder of a {found.role}; start it as one, or give another --data-dir"
        )
    return found


def _write(path: Path, identity: Identity, disk: Disk) -> None:
    text = (
        f"format = {identity.format}\n"
        f'role = "{identity.role}"\n'
        f'node = "{identity.node}"\n'
        f'cluster = "{identity.cluster}"\n'
    )
    disk.replace_file(path / "node.toml", text.encode())
