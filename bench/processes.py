"""What a process has used. Reads /proc: Linux only."""

import os
from collections.abc import Sequence
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds (user and system, all threads) that `pid` has used."""
    return _cpu_s_of_stat((_PROC / str(pid) / "stat").read_text())


def _cpu_s_of_stat(text: str) -> float:
    fields = text[text.rindex(")") + 2 :].split()  # the command may hold spaces and brackets
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def cores_busy_s(cores: Sequence[int]) -> float:
    """Return the seconds that `cores` have spent on anything but idling, since boot."""
    return _busy_s_of_stat((_PROC / "stat").read_text(), cores)


def _busy_s_of_stat(text: str, cores: Sequence[int]) -> float:
    wanted = {f"cpu{core}" for core in cores}
    busy = 0
    for line in text.splitlines():
        name, *ticks = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            busy += user + nice + system + irq + softirq + steal
    return busy / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Return the memory of `pid` that is in RAM now."""
    return _status_bytes(pid, "VmRSS")


def peak_rss_bytes(pid: int) -> int:
    """Return the most RAM that `pid` has held since it started."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no {name}: it has ended")


def open_files_below(pid: int, folder: Path) -> int:
    """Return how many file descriptors of `pid` are files in `folder` or below."""
    count = 0
    for link in (_PROC / str(pid) / "fd").iterdir():
        try:
            target = link.readlink()
        except FileNotFoundError:  # closed while we looked
            continue
        count += target.is_relative_to(folder)
    return count


def filesystem_of(path: Path) -> str:
    """Return the type of the file system that holds `path` ("ext4", "tmpfs", ...)."""
    best, kind = "", "unknown"
    resolved = f"{path.resolve()}/"
    for line in (_PROC / "mounts").read_text().splitlines():
        _device, mount, name, *_ = line.split()
        prefix = mount if mount.endswith("/") else f"{mount}/"
        if resolved.startswith(prefix) and len(prefix) > len(best):
            best, kind = prefix, name
    return kind
