"""How a process obeys signals: once politely, the second time at once."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from d1server import signals
from d1server.signals import STOP_SIGNALS, run_until_signalled
from tests.waiting import EVENT_S_MAX


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """The tests themselves may run under nohup, which a process is to respect."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_cancels_main_which_may_clean_up(number: signal.Signals) -> None:
    steps: list[str] = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    run_until_signalled(main())
    assert steps == ["cleaned up"]


def test_a_second_signal_does_not_wait_for_the_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SAME_REQUEST_S", 0.0)
    second: list[str] = []
    enough = asyncio.Event()

    def on_second() -> None:
        second.append("now")
        enough.set()

    async def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.get_running_loop().create_future()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await enough.wait()

    run_until_signalled(main(), on_second=on_second)
    assert second == ["now"]


def test_two_signals_at_once_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` signals the process and its group: that is not impatience."""
    monkeypatch.setattr(signals, "SAME_REQUEST_S", EVENT_S_MAX)  # a machine may take its time
    second: list[str] = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.get_running_loop().create_future()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)

    run_until_signalled(main(), on_second=lambda: second.append("now"))
    assert second == []


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ended: list[bool] = []

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.01)
        ended.append(True)

    try:
        run_until_signalled(main())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended == [True]


def test_an_error_of_main_comes_out() -> None:
    async def main() -> None:
        raise LookupError("as it is")

    with pytest.raises(LookupError, match="as it is"):
        run_until_signalled(main())


def test_main_that_ends_by_itself_ends_the_run() -> None:
    ended: list[bool] = []

    async def main() -> None:
        ended.append(True)

    run_until_signalled(main())
    assert ended == [True]
