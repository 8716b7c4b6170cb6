"""Runs one measuring process: a job as JSON on its stdin, a result as JSON in its last line."""

import subprocess
import sys
from types import TracebackType
from typing import Protocol, TypeVar

import msgspec

CHILD_S_MAX = 300.0
ResultT = TypeVar("ResultT")


class MeasurementFailed(Exception):
    """A run ended with an error or a wrong answer; there is no figure to report."""


class Job(Protocol):
    """Any job: all that is asked of it here is that msgspec can encode it."""

    @property
    def cores(self) -> tuple[int, ...]:
        """Where the child pins itself; empty: anywhere."""


class Child:
    """A running `python -m <module>`; leaving the context ends it."""

    def __init__(self, module: str, job: Job) -> None:
        self._module = module
        # bufsize=0: `wait_line` must take no byte that `result` would then miss.
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(job))
        self._process.stdin.close()
        self._process.stdin = None  # `communicate` must not flush it again

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def wait_line(self, text: str) -> None:
        """Return when the child has printed the line `text`."""
        assert self._process.stdout is not None
        if self._process.stdout.readline().decode().strip() != text:
            self._fail()

    def result(self, kind: type[ResultT]) -> ResultT:
        """Wait for the end of the child and return what its last line holds."""
        try:
            output, errors = self._process.communicate(timeout=CHILD_S_MAX)
        except subprocess.TimeoutExpired as exc:
            raise MeasurementFailed(f"{self._module} did not end in {CHILD_S_MAX} s") from exc
        if self._process.returncode != 0:
            raise MeasurementFailed(errors.decode(errors="replace").strip()[-4000:])
        return msgspec.json.decode(output.splitlines()[-1], type=kind)

    def _fail(self) -> None:
        _output, errors = self._process.communicate(timeout=CHILD_S_MAX)
        raise MeasurementFailed(errors.decode(errors="replace").strip()[-4000:])


def run_child(module: str, job: Job, kind: type[ResultT]) -> ResultT:
    """Run `python -m <module>` with `job` and return its result."""
    with Child(module, job) as child:
        return child.result(kind)
