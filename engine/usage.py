"""What this process uses now: room for temporary files, and memory.

A large sort or a DISTINCT over many rows spills into files that SQLite deletes as soon as
they are open: no folder lists them, and SQLite counts them only after the statement has
ended. The kernel still knows them by the process's descriptors.

Only on Linux; elsewhere nothing is counted.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

_DESCRIPTORS: Final = Path("/proc/self/fd")
_DELETED: Final = " (deleted)"
_MEMORY: Final = Path("/proc/self/statm")  # in pages: size, resident, ...
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def spill_folder() -> Path:
    """Where SQLite puts temporary files, as the environment said when the process began."""
    for folder in (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp"):
        if folder and Path(folder).is_dir():
            return Path(folder).resolve()
    return Path(tempfile.gettempdir()).resolve()


def spilled_bytes() -> int:
    """Bytes in this process's deleted files within the temporary folder."""
    within = f"{spill_folder()}/"
    total = 0
    with contextlib.suppress(OSError):  # no such folder: not Linux
        for descriptor in _DESCRIPTORS.iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                target = str(descriptor.readlink())
                if target.endswith(_DELETED) and target.startswith(within):
                    total += descriptor.stat().st_size
    return total


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    try:
        return int(_MEMORY.read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
