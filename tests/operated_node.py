"""A node as a process of its own, the way an operator runs and signals it; its log is read."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Final

from d1server.config import Address
from tests.waiting import EVENT_S_MAX

LOOK_S: Final = 0.02
PROGRAM: Final = (sys.executable, "-m", "d1server")


class OperatedNode:
    """One process of `d1server`, and what it has said."""

    def __init__(self, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
        self.process = process
        self._log_path = log_path

    @property
    def log(self) -> str:
        """Everything that it has written."""
        return self._log_path.read_text(errors="replace")

    def wait_for(self, text: str, *, times: int = 1) -> None:
        """Return when the log has this text so often."""
        eventually(lambda: self.log.count(text) >= times, lambda: f"{text!r} in:\n{self.log}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        if self.process.poll() is None:
            self.send(number)
        return self.process.wait(EVENT_S_MAX)


@contextlib.contextmanager
def started(
    log_path: Path, *words: str, env: Mapping[str, str] | None = None, **more: Any
) -> Iterator[OperatedNode]:
    """Run `d1server` with these words until the block ends."""
    output: IO[bytes]
    with (
        log_path.open("wb") as output,
        subprocess.Popen(
            [*PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            **more,
        ) as process,
    ):
        node = OperatedNode(process, log_path)
        try:
            yield node
        finally:
            if process.poll() is None:
                process.kill()


def primary(
    folder: Path, listen: Address, link: Address, *flags: str, **more: Any
) -> AbstractContextManager[OperatedNode]:
    """Run a primary in `folder`; it serves when the block begins."""
    return _serving("primary", folder, listen, "--replication", str(link), *flags, **more)


def replica(
    folder: Path, listen: Address, link: Address, *flags: str, **more: Any
) -> AbstractContextManager[OperatedNode]:
    """Run a replica in `folder`; it serves when the block begins."""
    return _serving("replica", folder, listen, "--primary", str(link), *flags, **more)


@contextlib.contextmanager
def _serving(
    role: str, folder: Path, listen: Address, *flags: str, **more: Any
) -> Iterator[OperatedNode]:
    words = [role, "--data-dir", str(folder), "--listen", str(listen), "--name", folder.name]
    with started(folder.with_suffix(".log"), *words, *flags, **more) as node:
        node.wait_for(" serves ")
        yield node


def eventually(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Return when what another process brings about has come."""
    ends = time.monotonic() + EVENT_S_MAX
    while not condition():
        assert time.monotonic() < ends, f"not within {EVENT_S_MAX} s: {what()}"
        time.sleep(LOOK_S)
