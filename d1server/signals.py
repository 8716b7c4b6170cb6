"""Runs a coroutine as the whole of a process, until it ends or a signal asks it to.

SIGINT, SIGTERM and SIGHUP cancel it; it cleans up in its `finally`s. A second signal does
not wait for that: it calls `on_second`, by default the end of the process on the spot. Signals
within `SAME_REQUEST_S` are one: `timeout` and some terminals' wrappers signal both a process
and its group. SIGHUP stays ignored where it is (`nohup`).

A process that has something to read anew says so with `on_hangup`: then SIGHUP means that, as it
does with other servers, also under `nohup`. It still stops a process whose terminal is gone.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Final

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_REQUEST_S: Final = 0.5
EXIT_IMPATIENT: Final = 130  # what shells report after Ctrl-C


def leave_at_once() -> None:
    """End this process without cleaning up."""
    os._exit(EXIT_IMPATIENT)


def run_until_signalled(
    main: Coroutine[object, object, None],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    on_second: Callable[[], None] = leave_at_once,
    on_hangup: Callable[[], None] | None = None,
) -> None:
    """Run `main`; return when it ended or was stopped by a signal, raise what it raised."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_obey_signals(main, on_second, on_hangup))


async def _obey_signals(
    main: Coroutine[object, object, None],
    on_second: Callable[[], None],
    on_hangup: Callable[[], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main)
    first_at: float | None = None

    def on_signal() -> None:
        nonlocal first_at
        if first_at is None:
            first_at = loop.time()
            task.cancel()
        elif loop.time() - first_at >= SAME_REQUEST_S:
            on_second()

    is_nohup = is_left_ignored(signal.SIGHUP)
    has_terminal = _has_terminal()

    def on_sighup() -> None:
        if on_hangup is None or (has_terminal and not is_nohup and not _has_terminal()):
            on_signal()
        else:
            on_hangup()

    heard = [n for n in STOP_SIGNALS if on_hangup is not None or not is_left_ignored(n)]
    for number in heard:
        loop.add_signal_handler(number, on_sighup if number is signal.SIGHUP else on_signal)
    try:
        await task
    except asyncio.CancelledError:
        if first_at is None:
            raise
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


def is_left_ignored(number: signal.Signals) -> bool:
    """Tell whether whoever started us wants a signal to have no effect."""
    return number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _has_terminal() -> bool:
    """Whether this process is at a terminal that is still there."""
    return any(os.isatty(number) for number in (0, 1, 2))


async def end_of_input() -> None:
    """Return when standard input ends: whoever held its other side is gone."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def on_readable() -> None:
        if not os.read(0, 4096) and not ended.done():
            ended.set_result(None)

    loop.add_reader(0, on_readable)
    try:
        await ended
    finally:
        loop.remove_reader(0)
