"""What a person sees while something takes long: bars on a terminal, now and then a line in a log.

All of it goes to standard error; what is over within `LINE_EVERY_S` leaves nothing in a pipe.
"""

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S: Final = 10.0
_MB: Final = 1000 * 1000


def working(message: str) -> AbstractContextManager[object]:
    """Show a message beside a spinner on a terminal, as long as the context lasts."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(message)


class Bar:
    """Bytes that are done, of those that there are; a context while it is to be seen."""

    def __init__(self, label: str, total: int | None) -> None:
        """`total` None: how much it will be is not known."""
        self._label = label
        self._done = 0
        self._total = total
        self._next_line_at = time.monotonic() + LINE_EVERY_S
        self._bar: Progress | None = None
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
        )
        self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(label, total=total)

    def __call__(self, count: int) -> None:
        """So many bytes more are done."""
        self.reach(self._done + count, self._total)

    def reach(self, done: int, total: int | None = None) -> None:
        """So many bytes are done in all, of `total`."""
        self._done, self._total = done, total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif (now := time.monotonic()) >= self._next_line_at:
            self._next_line_at = now + LINE_EVERY_S
            click.echo(self._line(), err=True)

    def _line(self) -> str:
        done = f"{self._label}: {self._done / _MB:.1f}"
        if not self._total:
            return f"{done} MB"
        percent = 100 * self._done // self._total
        return f"{done} of {self._total / _MB:.1f} MB ({percent} %)"

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        if self._bar is not None:
            self._bar.stop()
