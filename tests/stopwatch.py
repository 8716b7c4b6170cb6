"""How tests tell slow code from a slow machine: they count the time that a process has had."""

import time

import psutil


class Stopwatch:
    """How long a process, this one unless another is named, has been at work since now.

    That is the wall clock, or its CPU time if that is less: what waits for a processor that others
    use is not slow. It tells of work that goes on for too long, not of sleep.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._process = psutil.Process(pid) if pid is not None else None
        self._began = time.monotonic()
        self._cpu_s = self._cpu_now_s()

    @property
    def seconds(self) -> float:
        return min(time.monotonic() - self._began, self._cpu_now_s() - self._cpu_s)

    def _cpu_now_s(self) -> float:
        if self._process is None:
            return time.process_time()
        times = self._process.cpu_times()
        return float(times.user + times.system)
