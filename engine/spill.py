"""How much the temporary files of SQLite hold, and where they are.

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
