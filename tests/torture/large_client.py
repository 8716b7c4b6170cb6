"""`d1server execute --file` and `export` as a person runs them: real processes, and their screens.

CommandRun    one command on a terminal of its own, or with pipes; its memory is watched
Progress      which bars a screen has shown, and how far each came
"""

import asyncio
import contextlib
import ctypes
import os
import pty
import re
import signal
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.cluster import PR_SET_PDEATHSIG, REPO, Trouble
from tests.torture.large_file import memory_of

WATCH_EVERY_S = 0.02
SCREEN_CHARS_KEPT = 4000
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ON_SCREEN = re.compile(r"([a-z]+ing) [^0-9\n]*([0-9.,]+)/([0-9.,]+|\?) (bytes|[kMG]B)")
_IN_LOG = re.compile(r"^([a-z]+ing): ([0-9.]+)( of [0-9.]+)? MB", re.MULTILINE)


@dataclass(slots=True)
class Progress:
    """What was shown of each kind of work, as text: "uploading" -> {"1.2 MB", ..}."""

    shown: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _rest: str = ""

    def read_screen(self, text: str) -> None:
        """Take more of what was written to a terminal."""
        text = self._rest + text
        cut = max(text.rfind("\r"), text.rfind("\n")) + 1
        self._rest = text[cut:][-SCREEN_CHARS_KEPT:]
        for label, done, _, unit in _ON_SCREEN.findall(_ESCAPE.sub("", text[:cut])):
            self.shown[label].add(f"{done} {unit}")

    def read_log(self, text: str) -> None:
        """Take all that was written to a pipe."""
        for label, done, _ in _IN_LOG.findall(text):
            self.shown[label].add(done)

    def check_moved(self, label: str, steps: int) -> None:
        """Raise Trouble if less than this was seen of it."""
        if len(self.shown[label]) < steps:
            raise Trouble(f"{label}: the progress did not move: {sorted(self.shown[label])}")


@dataclass(slots=True)
class CommandRun:
    """One command of `d1server`, to its end."""

    words: tuple[str, ...]
    is_on_terminal: bool
    progress: Progress = field(default_factory=Progress)
    peak_mib: int = 0
    took_s: float = 0.0
    errors: str = ""  # the end of what it wrote to standard error, or to the terminal
    process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Run it. Raises Trouble if it fails."""
        started = time.monotonic()
        leader, follower = pty.openpty() if self.is_on_terminal else os.pipe()
        command = (sys.executable, "-m", "d1server", *self.words)
        self.process = await asyncio.create_subprocess_exec(
            *command,
            cwd=REPO,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=follower,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            preexec_fn=_die_with_parent,
        )
        os.close(follower)
        watching = asyncio.create_task(self._watch(self.process.pid))
        try:
            await asyncio.to_thread(self._read, leader)
            code = await self.process.wait()
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
        self.took_s = time.monotonic() - started
        if code != 0:
            raise Trouble(f"d1server {' '.join(self.words)} ended with {code}:\n{self.errors}")

    def _read(self, leader: int) -> None:
        """Read what it shows until it ends; on a thread."""
        with contextlib.closing(open(leader, "rb", buffering=0)) as shown:
            while True:
                try:
                    data = shown.read(65536)
                except OSError:  # Linux says EIO when the last writer of a terminal has closed
                    data = b""
                if not data:
                    break
                text = data.decode("utf-8", "replace")
                self.errors = (self.errors + text)[-SCREEN_CHARS_KEPT:]
                if self.is_on_terminal:
                    self.progress.read_screen(text)
        if not self.is_on_terminal:
            self.progress.read_log(self.errors)

    async def _watch(self, pid: int) -> None:
        with contextlib.suppress(Trouble):  # it has ended
            while True:
                self.peak_mib = max(self.peak_mib, memory_of(pid, "VmHWM"))
                await asyncio.sleep(WATCH_EVERY_S)


def execute(url: str, database: str, path: Path, *, is_on_terminal: bool) -> CommandRun:
    """`d1server execute DATABASE --file PATH`."""
    words = ("execute", database, "--file", str(path), "--url", url)
    return CommandRun(words, is_on_terminal)


def export(url: str, database: str, path: Path, *, is_on_terminal: bool) -> CommandRun:
    """`d1server export DATABASE --output PATH`."""
    words = ("export", database, "--output", str(path), "--url", url)
    return CommandRun(words, is_on_terminal)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
