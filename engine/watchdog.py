"""Stops statements that run on threads and take too long or too much.

SQLite can look at the clock itself between instructions of its virtual machine, but one
instruction may take a tenth of a second and add a megabyte, and the look needs Python's
interpreter lock. So one thread of the process looks at all statements that run on threads,
every `_LOOK_S` seconds, and interrupts the one that is over a bound. The event loop's own
statements are short and are not watched here.

The thread begins with the first statement and sleeps while there is none.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import apsw

from engine.usage import resident_bytes, spilled_bytes

TIME: Final = "time"
_LOOK_S: Final = 0.05
_LOOKS_PER_SPILL_COUNT: Final = 4


@dataclass(slots=True, eq=False, kw_only=True)
class Watch:
    """One request's bounds. Once `stopped_for` is set, the watchdog interrupts until removed."""

    interrupt: Callable[[], None]  # from any thread
    stop_at: float  # by time.monotonic()
    memory_bytes_max: int  # what it may add to SQLite's memory; twice that to the process's
    spill_bytes_max: int  # in temporary files of the whole process
    memory_at_start: int = 0  # SQLite's, of the whole process
    resident_at_start: int = 0
    stopped_for: str = ""  # TIME, or what it needed too much of


class Watchdog:
    """Watches any number of requests from one thread; see the module's head."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._changed = threading.Condition()
        self._watched: set[Watch] = set()
        self._thread: threading.Thread | None = None

    def add(self, watch: Watch) -> None:
        """Watch a request from now on."""
        watch.memory_at_start = apsw.memory_used()
        watch.resident_at_start = resident_bytes()
        with self._changed:
            self._watched.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sql-watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, watch: Watch) -> None:
        """Watch it no longer: after this it is not interrupted."""
        with self._changed:
            self._watched.discard(watch)

    def _run(self) -> None:
        looks = 0
        with self._changed:
            while True:
                if not self._watched:
                    self._changed.wait()
                now = time.monotonic()
                earliest = min((watch.stop_at for watch in self._watched), default=now)
                self._changed.wait(min(max(earliest - now, 0.001), _LOOK_S))
                looks += 1
                spilled = spilled_bytes() if looks % _LOOKS_PER_SPILL_COUNT == 0 else 0
                resident = resident_bytes()
                for watch in self._watched:
                    _look_at(watch, spilled, resident)


def _look_at(watch: Watch, spilled: int, resident: int) -> None:
    if not watch.stopped_for:
        watch.stopped_for = _excess(watch, spilled, resident)
    if watch.stopped_for:  # again each time: the next statement of the request may have begun
        watch.interrupt()


def _excess(watch: Watch, spilled: int, resident: int) -> str:
    if time.monotonic() >= watch.stop_at:
        return TIME
    memory = apsw.memory_used() - watch.memory_at_start
    # The rows read so far are Python's. Others' memory counts here too, hence the slack.
    if max(memory, (resident - watch.resident_at_start) // 2) > watch.memory_bytes_max:
        return f"more than {watch.memory_bytes_max} bytes of memory"
    if spilled > watch.spill_bytes_max:
        return "more room for temporary files than there is"
    return ""


WATCHDOG: Final = Watchdog()
"""The process's one; interrupting needs no more than one thread."""
