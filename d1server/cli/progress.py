"""What a person sees while something takes long; nothing of it goes into a pipe."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self


def working(message: str) -> AbstractContextManager[object]:
    """Show a message beside a spinner on a terminal, as long as the context lasts."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(message)


class ReadProgress:
    """A bar that grows with the bytes read of a file; call it with each number of bytes."""

    def __init__(self, path: str) -> None:
        self._bar = None
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._bar = Progress("loading", *columns, console=console, transient=True)
        total = None if path == "-" else Path(path).stat().st_size
        self._task = self._bar.add_task("loading", total=total)

    def __call__(self, bytes_read: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._task, bytes_read)

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
