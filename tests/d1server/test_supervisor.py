"""The supervisor, on small stand-in programs that die, hang, refuse or talk as a node might."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from d1server import supervisor as supervisor_module
from d1server.logs import is_quiet
from d1server.supervisor import (
    PAUSE_S_MAX,
    PAUSE_S_MIN,
    ChildFailed,
    ChildLog,
    ChildNode,
    ChildPlan,
    RestartPause,
    Supervisor,
)
from tests.waiting import EVENT_S_MAX, block_until, until

Start = Callable[[str], None]

WAITS = "import sys; print('up', flush=True); sys.stdin.read()"
DEAF = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"  # noqa: E501
REFUSES = "import sys; print('Error: the folder is in use', file=sys.stderr); sys.exit(1)"


def stops_into(path: Path, name: str) -> str:
    """Return a program that writes its name to a file when it is asked to stop."""
    return textwrap.dedent(f"""
        import signal, sys
        def on_term(*_):
            with open({str(path)!r}, "a") as file:
                file.write({name!r} + "\\n")
            sys.exit(0)
        signal.signal(signal.SIGTERM, on_term)
        print("up", flush=True)
        signal.pause()
    """)


def plan(folder: Path, name: str, program: str, rank: int = 0) -> ChildPlan:
    return ChildPlan(name, (sys.executable, "-c", program), folder / f"{name}.log", rank)


def is_up(folder: Path, name: str, times: int = 1) -> Callable[[], bool]:
    log_path = folder / f"{name}.log"
    return lambda: log_path.exists() and log_path.read_text().count("up\n") >= times


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    """A child that dies runs again soon, and somebody is told."""
    said: list[str] = []
    supervisor = Supervisor([plan(tmp_path, "weur", WAITS)], said.append)

    async def main(start: Start) -> None:
        start("weur")
        await until(is_up(tmp_path, "weur"), "its start")
        child = supervisor.children["weur"]
        child.mark_ready()
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(is_up(tmp_path, "weur", times=2), "its second start")
        assert child.pid not in (None, first)

    await supervisor.run(main)
    assert "weur was killed by SIGKILL; starting it again in 0.25 s" in said


async def test_a_child_that_never_gets_ready_ends_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it is told what is wrong, and where to look."""
    monkeypatch.setattr(supervisor_module, "READY_S_MAX", 0.0)
    supervisor = Supervisor([plan(tmp_path, "weur", WAITS)], lambda _: None)

    async def main(start: Start) -> None:
        start("weur")
        await supervisor.wait_ready("weur", lambda: "it sulks")

    with pytest.raises(
        ChildFailed, match=r"weur is not ready after 0 s: it sulks; see .*weur\.log"
    ):
        await supervisor.run(main)
    assert supervisor.children["weur"].pid is None


async def test_children_stop_in_order_of_rank(tmp_path: Path) -> None:
    """The primary stops after the replicas, so that it misses none of them."""
    order = tmp_path / "order"
    plans = [
        plan(tmp_path, "primary", stops_into(order, "primary"), rank=1),
        plan(tmp_path, "weur", stops_into(order, "weur")),
        plan(tmp_path, "apac", stops_into(order, "apac")),
    ]
    supervisor = Supervisor(plans, lambda _: None)

    async def main(start: Start) -> None:
        for child in plans:
            start(child.name)
            await until(is_up(tmp_path, child.name), "its start")

    await supervisor.run(main)
    *replicas, last = order.read_text().split()
    assert sorted(replicas) == ["apac", "weur"]
    assert last == "primary"


def test_everything_stops_within_five_seconds() -> None:
    """What `d1server dev` promises: the replicas take their time, and then the primary its own."""
    assert 2 * supervisor_module.STOP_S_MAX < 5


async def test_cancelling_stops_children_that_ignore_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are killed, each group of them after its time."""
    monkeypatch.setattr(supervisor_module, "STOP_S_MAX", 0.5)
    plans = [plan(tmp_path, "primary", DEAF, rank=1), plan(tmp_path, "weur", DEAF)]
    said: list[str] = []
    supervisor = Supervisor(plans, said.append)
    up = asyncio.Event()

    async def main(start: Start) -> None:
        for child in plans:
            start(child.name)
            await until(is_up(tmp_path, child.name), "its start")
        up.set()
        await asyncio.get_running_loop().create_future()

    running = asyncio.create_task(supervisor.run(main))
    await up.wait()
    pids = [child.pid for child in supervisor.children.values()]
    running.cancel()
    async with asyncio.timeout(EVENT_S_MAX):
        with pytest.raises(asyncio.CancelledError):
            await running
    await until(lambda: not any(pid and psutil.pid_exists(pid) for pid in pids), "their end")
    assert "primary does not stop; killing it" in said


async def test_a_child_that_refuses_at_the_start_fails_with_its_words(tmp_path: Path) -> None:
    """No use in restarting what says no: its own last lines are the message."""
    plans = [plan(tmp_path, "primary", WAITS, rank=1), plan(tmp_path, "weur", REFUSES)]
    supervisor = Supervisor(plans, lambda _: None)

    async def main(start: Start) -> None:
        for child in plans:
            start(child.name)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ChildFailed, match=r"(?s)weur ended with exit code 1.*folder is in use"):
        await supervisor.run(main)
    assert supervisor.children["primary"].pid is None


async def test_an_error_of_main_stops_the_children_and_comes_out_as_it_is(tmp_path: Path) -> None:
    supervisor = Supervisor([plan(tmp_path, "weur", WAITS)], lambda _: None)

    async def fail(start: Start) -> None:
        start("weur")
        raise LookupError("no shop")

    with pytest.raises(LookupError, match="no shop"):
        await supervisor.run(fail)
    assert supervisor.children["weur"].pid is None


async def test_a_child_that_dies_again_and_again_at_the_start_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "PAUSE_S_MAX", 0.01)
    child = ChildNode(plan(tmp_path, "weur", "import os; os.kill(os.getpid(), 9)"), lambda _: None)
    with pytest.raises(ChildFailed, match="killed by SIGKILL"):
        await child.keep_running()
    assert child.starts == 3
    await child.stop()


async def test_kill_all_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C ends what ignores the first at once."""
    monkeypatch.setattr(supervisor_module, "STOP_S_MAX", 10 * EVENT_S_MAX)
    supervisor = Supervisor([plan(tmp_path, "weur", DEAF)], lambda _: None)

    async def main(start: Start) -> None:
        start("weur")
        await until(is_up(tmp_path, "weur"), "its start")
        asyncio.get_running_loop().call_later(0.1, supervisor.kill_all)

    async with asyncio.timeout(EVENT_S_MAX):
        await supervisor.run(main)


def test_pause_doubles_is_bounded_and_forgets_after_a_good_life() -> None:
    pause = RestartPause()
    pauses = [pause.next_s(lived_s=0.1) for _ in range(12)]
    assert pauses[:3] == [PAUSE_S_MIN, 2 * PAUSE_S_MIN, 4 * PAUSE_S_MIN]
    assert max(pauses) == pauses[-1] == PAUSE_S_MAX
    assert pause.next_s(lived_s=60) == PAUSE_S_MIN


def test_log_keeps_everything_and_tells_the_loud_lines(tmp_path: Path) -> None:
    """Lines arrive in any pieces; a traceback is as loud as the warning before it."""
    said: list[str] = []
    path = tmp_path / "node.log"
    log = ChildLog(path, said.append)
    text = (
        "2026-01-05T09:00:00.1Z INFO d1server: quiet\n"
        "2026-01-05T09:00:00.2Z WARNING d1server: l\N{LATIN SMALL LETTER O WITH DIAERESIS}ud\n"
        "Traceback (most recent call last):\n\n"
        "no newline at the end"
    )
    for byte in text.encode():
        log.feed(bytes([byte]))
    log.close()
    assert path.read_text() == text
    assert [line.split()[-1] for line in said] == ["l\xf6ud", "last):", "end"]


def test_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that talks for ever, even without a newline, fills neither disk nor memory."""
    monkeypatch.setattr(supervisor_module, "LOG_FILE_BYTES_MAX", 100_000)
    said: list[str] = []
    path = tmp_path / "node.log"
    log = ChildLog(path, said.append)
    for _ in range(100):
        log.feed(b"x" * 9_000)
    log.close()
    sizes = {found.name: found.stat().st_size for found in tmp_path.iterdir()}
    assert sizes.keys() == {"node.log", "node.log.1"}
    assert max(sizes.values()) <= 100_000
    assert max(map(len, said)) <= 8 * 1024


@pytest.mark.parametrize(
    ("line", "quiet"),
    [
        ("2026-01-05T09:00:00.123456Z INFO d1server.node: up", True),
        ("2026-01-05T09:00:00Z DEBUG engine.log: synced", True),
        ("", True),
        ("2026-01-05T09:00:00.123456Z ERROR d1server.node: down", False),
        ("Traceback (most recent call last):", False),
    ],
)
def test_quiet_lines_are_below_a_warning(line: str, quiet: bool) -> None:
    assert is_quiet(line) is quiet


GUARDIAN = """
import asyncio, sys
from pathlib import Path
from d1server.supervisor import ChildPlan, Supervisor

async def main() -> None:
    supervisor = Supervisor([ChildPlan("weur", tuple(sys.argv[2:]), Path(sys.argv[1]), 0)], print)
    async def tell(start) -> None:
        start("weur")
        while not (pid := supervisor.children["weur"].pid):
            await asyncio.sleep(0.01)
        print(pid, flush=True)
        await asyncio.get_running_loop().create_future()
    await supervisor.run(tell)

asyncio.run(main())
"""
ORPHAN = """
from d1server.signals import end_of_input, run_until_signalled
run_until_signalled(end_of_input())
"""


def test_children_do_not_outlive_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    """`kill -9` of the supervisor leaves nobody to stop the nodes: they see their input end."""
    child = (sys.executable, "-c", ORPHAN)
    command = [sys.executable, "-c", GUARDIAN, str(tmp_path / "node.log"), *child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as guardian:
        assert guardian.stdout is not None
        orphan = psutil.Process(int(guardian.stdout.readline()))
        guardian.kill()
        guardian.wait()
    block_until(
        lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "its end"
    )
