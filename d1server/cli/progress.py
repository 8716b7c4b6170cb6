"""What a person sees while something takes long; nothing of it goes into a pipe."""

import sys
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress


def working(message: str) -> AbstractContextManager[object]:
    """Show a message beside a spinner on a terminal, as long as the context lasts."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(message)


class Bar:
    """A bar that grows with the bytes that are done."""

    def __init__(self, label: str, total: int | None) -> None:
        """`total` None: how much it will be is not known."""
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
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def reach(self, done: int, total: int | None = None) -> None:
        """So many bytes are done in all."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
