"""Keeps a handful of child processes running, and stops them in order.

A `ChildNode` is one process: what it prints goes to a log file, and its warnings to the
caller. A child that dies is started again after a pause that doubles up to a bound. The
`Supervisor` owns them all; it knows nothing of what they are for.

Invariants:

1. Children are in sessions of their own, so Ctrl-C on a terminal reaches the supervisor only,
   which then decides the order. Their standard input is a pipe: when the supervisor dies
   without a word, it ends, and they stop by themselves.
2. `Supervisor.run` returns or raises only after every child has ended.
3. Stopping takes at most `STOP_S_MAX` per group of children; what is left then is killed.
4. A log file holds at most `LOG_FILE_BYTES_MAX`, and one older file of that size is kept.

Owned by `d1server dev`, on the event loop. There is no stop(): cancel `run`.
"""

import asyncio
import contextlib
import enum
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from d1server.logs import is_quiet

STOP_S_MAX: Final = 2.2  # twice (replicas, then the primary) is within the promised 5 s
KILL_S_MAX: Final = 0.3  # how long the system may take to bury a killed process
PAUSE_S_MIN: Final = 0.25
PAUSE_S_MAX: Final = 8.0
READY_S_MAX: Final = 60.0
READY_POLL_S: Final = 0.1  # another process tells nobody when it is ready
LIVED_WELL_S: Final = 30.0  # a child that lived this long starts again without a long pause
EARLY_DEATHS_MAX: Final = 3  # before the first `mark_ready`: then something is wrong for good
LOG_FILE_BYTES_MAX: Final = 16 * 1024 * 1024
LINE_BYTES_MAX: Final = 8 * 1024
TAIL_LINES: Final = 12
READ_BYTES: Final = 64 * 1024


class ChildFailed(Exception):
    """A child cannot run at all; the message has its last lines."""


class ChildState(enum.Enum):
    """Where a child is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"  # runs, but nobody has called `mark_ready` since the supervisor began
    RUNNING = "running"
    PAUSING = "pausing"  # died, will be started again


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """What to start, and where its output goes. Lower `stop_rank`s stop first."""

    name: str
    command: tuple[str, ...]
    log_path: Path
    stop_rank: int
    env: Mapping[str, str] | None = None


@dataclass(slots=True)
class RestartPause:
    """How long to wait before the next start: doubles, bounded, and forgets after a good life."""

    _next_s: float = PAUSE_S_MIN

    def next_s(self, *, lived_s: float) -> float:
        """Return the pause after a life of `lived_s`."""
        if lived_s >= LIVED_WELL_S:
            self._next_s = PAUSE_S_MIN
        pause_s = self._next_s
        self._next_s = min(pause_s * 2, PAUSE_S_MAX)
        return pause_s


class ChildLog:
    """Splits a child's output into lines: all to the file, the loud ones to `say`."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._path = path
        self._say = say
        self._rest = b""  # a line that has not ended yet, at most LINE_BYTES_MAX
        self._file = path.open("ab")

    def feed(self, data: bytes) -> None:
        """Take what the child printed."""
        if self._file.tell() + len(data) > LOG_FILE_BYTES_MAX:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab")
        self._file.write(data)
        self._file.flush()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > LINE_BYTES_MAX:
            self._take(self._rest)
            self._rest = b""

    def close(self) -> None:
        """Take the last line as it is, and close the file."""
        if self._rest:
            self._take(self._rest)
            self._rest = b""
        self._file.close()

    def _take(self, line: bytes) -> None:
        text = line[:LINE_BYTES_MAX].decode("utf-8", "replace").rstrip()
        if text:
            self.tail.append(text)
        if not is_quiet(text):
            self._say(text)


class ChildNode:
    """One child process and its successors."""

    def __init__(self, plan: ChildPlan, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.state = ChildState.STOPPED
        self.starts = 0
        self._say = say
        self._pause = RestartPause()
        self._early_deaths = 0
        self._process: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[None] | None = None  # reads until the process has closed it
        self._log = ChildLog(plan.log_path, lambda line: say(f"{plan.name}: {line}"))

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        is_alive = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process and is_alive else None

    def mark_ready(self) -> None:
        """Say that the child came up once: from now on it is started again for ever."""
        if self.state is ChildState.STARTING:
            self.state = ChildState.RUNNING
        self._early_deaths = -1

    async def keep_running(self) -> NoReturn:
        """Start the child, and again whenever it dies. Cancelling leaves it running: see `stop`."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            process = await self._start()
            code = await process.wait()
            await self._drain()
            self._count_death(code)
            pause_s = self._pause.next_s(lived_s=loop.time() - began)
            self.state = ChildState.PAUSING
            self._say(f"{self.plan.name} {told(code)}; starting it again in {pause_s:g} s")
            await asyncio.sleep(pause_s)

    async def _start(self) -> asyncio.subprocess.Process:
        # A start cut in two by a cancellation would leave a process that nobody stops.
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *self.plan.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env=self.plan.env,
            )
        )
        try:
            await asyncio.shield(starting)
        finally:
            await asyncio.wait([starting])
            self._process = starting.result()
            self._output = asyncio.ensure_future(self._pump(self._process))
            self.starts += 1
            is_proven = self._early_deaths < 0
            self.state = ChildState.RUNNING if is_proven else ChildState.STARTING
        return self._process

    def _count_death(self, code: int) -> None:
        """Raise if the child never came up and there is no use in trying again."""
        if self._early_deaths < 0:
            return
        self._early_deaths += 1
        refused = code > 0  # it said no; only a death by a signal is worth another try
        if refused or self._early_deaths >= EARLY_DEATHS_MAX:
            lines = "\n  ".join(self._log.tail) or "(it printed nothing)"
            raise ChildFailed(
                f"{self.plan.name} {told(code)} before it was ready. Its last lines,"
                f" from {self.plan.log_path}:\n  {lines}"
            )

    async def _pump(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while data := await process.stdout.read(READ_BYTES):
            self._log.feed(data)

    async def _drain(self) -> None:
        """Wait for the last output of a process that has ended; a grandchild may hold the pipe."""
        if self._output is not None:
            await asyncio.wait([self._output], timeout=KILL_S_MAX)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the child runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self) -> None:
        """Ask the child to end, kill it if it does not; return when it has ended.

        Call it when `keep_running` is not running any more.
        """
        self.signal(signal.SIGTERM)
        if not await self._ended(STOP_S_MAX - KILL_S_MAX):
            self._say(f"{self.plan.name} does not stop; killing it")
            self.signal(signal.SIGKILL)
            await self._ended(KILL_S_MAX)
        await self._drain()
        if self._output is not None:
            self._output.cancel()
        self._log.close()
        self.state = ChildState.STOPPED

    async def _ended(self, within_s: float) -> bool:
        if self._process is None:
            return True
        try:
            await asyncio.wait_for(self._process.wait(), within_s)
        except TimeoutError:
            return False
        return True


@dataclass(slots=True)
class Supervisor:
    """All children. `run` lets its caller start them; `children` tells how they are."""

    plans: Sequence[ChildPlan]
    say: Callable[[str], None]
    children: dict[str, ChildNode] = field(default_factory=dict)

    async def run(self, main: Callable[[Callable[[str], None]], Awaitable[None]]) -> None:
        """Run `main(start)` until it ends or this is cancelled; `start(name)` starts a child."""
        self.children = {plan.name: ChildNode(plan, self.say) for plan in self.plans}
        keepers: list[asyncio.Task[NoReturn]] = []
        async with self._stopping_in_order():
            try:
                async with asyncio.TaskGroup() as tasks:

                    def start(name: str) -> None:
                        keeping = self.children[name].keep_running()
                        keepers.append(tasks.create_task(keeping, name=f"keeper:{name}"))

                    await main(start)
                    for keeper in keepers:
                        keeper.cancel()
            except BaseExceptionGroup as failures:
                raise first_of(failures) from None

    async def wait_ready(self, name: str, trouble: Callable[[], str | None]) -> None:
        """Return when `trouble`, asked again and again on a thread, knows of none any more.

        Raises `ChildFailed` after `READY_S_MAX`, and what `trouble` raises.
        """
        ends = time.monotonic() + READY_S_MAX
        while (reason := await asyncio.to_thread(trouble)) is not None:
            if time.monotonic() > ends:
                log_path = self.children[name].plan.log_path
                raise ChildFailed(
                    f"{name} is not ready after {READY_S_MAX:g} s: {reason}; see {log_path}"
                )
            await asyncio.sleep(READY_POLL_S)
        self.children[name].mark_ready()

    @contextlib.asynccontextmanager
    async def _stopping_in_order(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for rank in sorted({child.plan.stop_rank for child in self.children.values()}):
                ranked = [c for c in self.children.values() if c.plan.stop_rank == rank]
                await asyncio.gather(*(child.stop() for child in ranked))

    def kill_all(self) -> None:
        """Kill every child now: somebody does not want to wait for `run` to stop them."""
        for child in self.children.values():
            child.signal(signal.SIGKILL)


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one failure of a group, however deep: one is enough to act on."""
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def told(code: int) -> str:
    """Return in words how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
