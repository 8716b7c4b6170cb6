"""From a folder to an open log and a live database, on a thread."""

from pathlib import Path

from engine.live import LiveDatabase, Role
from engine.log import CommitLog
from engine.recovery import LOG_NAME
from engine.resources import Resources


async def open_recovered(
    folder: Path, uuid: bytes, role: Role, resources: Resources
) -> tuple[CommitLog, LiveDatabase]:
    """Open the log, recover the file from it, open that; both are the caller's to close.

    Raises `LogCorrupt`, `LogFailed`, `DatabaseDamaged`, `OSError`; then nothing is open.
    """
    return await resources.io.call(_open, folder, uuid, role, resources)


def _open(
    folder: Path, uuid: bytes, role: Role, resources: Resources
) -> tuple[CommitLog, LiveDatabase]:
    disk = resources.disk
    log = CommitLog.open(folder / LOG_NAME, uuid, disk, bytes_max=resources.log_bytes_max)
    try:
        live = LiveDatabase.open(folder, uuid, log, role=role, disk=disk, limits=resources.limits)
    except BaseException:
        log.close()
        raise
    return log, live
