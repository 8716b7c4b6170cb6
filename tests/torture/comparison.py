"""Whether two SQLite files hold the same pages, wherever those stand: in the file or its WAL.

The files are not touched: each is copied with its `-wal`, the copy is opened and checkpointed
by SQLite, and then compared as bytes. The `-shm` is left behind: SQLite builds it anew from
the WAL, whose checksums are verified on the way. Nobody may have the files open.
"""

import shutil
import tempfile
from pathlib import Path

import apsw


def differing_pages(one: Path, other: Path) -> list[int]:
    """Return the numbers of the pages in which two databases differ, missing ones included."""
    with tempfile.TemporaryDirectory(prefix="d1-compare-") as folder:
        a = checkpointed_copy(one, Path(folder) / "a")
        b = checkpointed_copy(other, Path(folder) / "b")
        if a == b:
            return []
        page_size = int.from_bytes(a[16:18], "big") or 4096
        page_size = 65536 if page_size == 1 else page_size
        pages = range(1, max(len(a), len(b)) // page_size + 1)
        return [
            page
            for page in pages
            if a[(page - 1) * page_size : page * page_size]
            != b[(page - 1) * page_size : page * page_size]
        ]


def checkpointed_copy(source: Path, folder: Path) -> bytes:
    """Return the bytes of the database at `source` with its WAL merged in."""
    folder.mkdir()
    if not source.exists():
        return b""
    copy = folder / source.name
    shutil.copyfile(source, copy)
    wal = source.with_name(f"{source.name}-wal")
    if wal.exists():
        shutil.copyfile(wal, copy.with_name(wal.name))
    connection = apsw.Connection(str(copy))
    try:
        if copy.stat().st_size:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()
    return copy.read_bytes()
