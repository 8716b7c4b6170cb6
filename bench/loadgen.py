"""A closed-loop load generator: counts the requests per second that one node answers.

`python -m bench.loadgen` reads one `Job` as JSON from stdin, prints `measuring` when the
warm-up is over, and a `Result` as JSON at the end. A process of its own, because it must
have a core of its own.

Each connection keeps `depth` requests outstanding (1 in every headline figure), carries the
bookmark of its last answer, and sends the next request as soon as the answer is there. Every
answer must have status 200; one in `check_every` is decoded and compared with the row
that it must hold. One wrong answer ends the run with an error.

Raw sockets and epoll: a request costs this process about 10 us, most of it in the kernel.
`Result.generator_cpu_share` near 1 says that the generator was the limit, not the server.
"""

import itertools
import os
import select
import socket
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter_ns, process_time

import msgspec

from bench import processes
from bench.answers import AnswerParser, ConnectionLost, WrongAnswer
from bench.latency import Latency, summarize
from bench.workloads import DATABASE, Updates, Workload, workload_of

RECEIVE_BYTES = 256 * 1024
SILENCE_S_MAX = 60.0  # no answer on any connection for so long: the server hangs
ACKNOWLEDGED_KEPT = 512  # newest acknowledged writes that the caller reads back


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: whom to ask what, on how many connections, for how long."""

    host: str
    port: int
    workload: str  # "read", "update" or "insert"
    connections: int
    seconds: float
    warmup_s: float = 0.5
    route: str = "fast"  # "chunked": in chunks; "general": in a form that only aiohttp takes
    depth: int = 1
    seed: int = 1
    check_every: int = 64  # 0: never, for a responder whose answers mean nothing
    bookmark: str = "first-unconstrained"  # what each connection carries before its first answer
    server: str = ""  # "primary" or "replica": who must say that it served the reads
    server_pid: int = 0  # whose CPU seconds to count; 0: nobody's
    server_cores: tuple[int, ...] = ()
    cores: tuple[int, ...] = ()  # where this process runs; empty: anywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run found. CPU figures are of the measured window, warm-up excluded."""

    requests: int
    seconds: float
    per_second: float
    latency: Latency
    checked: int
    server_cpu_us_per_request: float
    server_cpu_share: float  # CPU seconds of the server per second
    generator_cpu_share: float
    foreign_cpu_share: float  # of the server's cores, used by anyone but the server
    bookmark: str  # the newest that any connection holds
    acknowledged: dict[int, int] = field(default_factory=dict)  # key -> value it must hold now


class _Connection:
    """One keep-alive connection. `tails` are requests from behind the bookmark on."""

    __slots__ = (
        "answered",
        "bookmark",
        "head",
        "outstanding",
        "rest",
        "sent_ns",
        "sock",
        "tails",
        "workload",
    )

    def __init__(self, sock: socket.socket, workload: Workload, tails: Iterator[bytes]) -> None:
        self.sock = sock
        self.workload = workload
        self.tails = tails
        self.bookmark = b""
        self.head = b""  # request line and headers, up to and with the bookmark
        self.answered = 0
        self.outstanding = 0
        self.sent_ns = 0
        self.rest = b""  # the beginning of an answer that has not wholly arrived


@dataclass(slots=True)
class _Usage:
    """Clocks read together, so that differences cover the same window."""

    at_ns: int
    generator_s: float
    server_s: float
    cores_s: float


class LoadGenerator:
    """Owns the connections of one job; `run()` once, then drop it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._parser = AnswerParser()
        self._samples_ns = array("Q")
        self._checked = 0
        self._until_check = 1 if job.check_every else 0  # the first answer is always checked
        self._head = _head_of(job)

    def run(self) -> Result:
        """Drive the server for the warm-up and the measured time, and check its answers."""
        try:
            self._connect()
            self._drive(self._job.warmup_s)
            del self._samples_ns[:]
            print("measuring", flush=True)
            before = self._usage()
            self._drive(self._job.seconds)
            after = self._usage()
            requests = len(self._samples_ns)
            self._drain()
            return self._result(before, after, requests)
        finally:
            for connection in self._connections.values():
                connection.sock.close()
            self._epoll.close()

    def _connect(self) -> None:
        job = self._job
        for index in range(job.connections):
            sock = socket.create_connection((job.host, job.port), timeout=SILENCE_S_MAX)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            workload = workload_of(
                job.workload,
                index,
                connections=job.connections,
                seed=job.seed,
                server=job.server,
            )
            connection = _Connection(sock, workload, _tails_of(workload, job.route))
            connection.bookmark = job.bookmark.encode()
            connection.head = self._head + connection.bookmark
            self._connections[sock.fileno()] = connection
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        for connection in self._connections.values():
            self._send(connection)

    def _drive(self, seconds: float) -> None:
        """Answer every answer with a new request until `seconds` have passed."""
        connections, poll = self._connections, self._epoll.poll
        end_ns = perf_counter_ns() + int(seconds * 1e9)
        while perf_counter_ns() < end_ns:
            ready = poll(SILENCE_S_MAX)
            if not ready:
                raise ConnectionLost(f"no answer within {SILENCE_S_MAX} s")
            for descriptor, _event in ready:
                connection = connections[descriptor]
                self._receive(connection)
                if not connection.outstanding:
                    self._send(connection)

    def _drain(self) -> None:
        """Take the answers still on their way: their writes count as acknowledged too."""
        waiting = {fd for fd, each in self._connections.items() if each.outstanding}
        while waiting:
            ready = self._epoll.poll(SILENCE_S_MAX)
            if not ready:
                raise ConnectionLost(f"{len(waiting)} answers missing after {SILENCE_S_MAX} s")
            for descriptor, _event in ready:
                connection = self._connections[descriptor]
                self._receive(connection)
                if not connection.outstanding:
                    waiting.discard(descriptor)

    def _send(self, connection: _Connection) -> None:
        depth = self._job.depth
        if depth == 1:
            request = connection.head + next(connection.tails)
        else:
            tails = itertools.islice(connection.tails, depth)
            request = b"".join([connection.head + tail for tail in tails])
        connection.outstanding = depth
        connection.sent_ns = perf_counter_ns()
        if connection.sock.send(request) != len(request):
            raise ConnectionLost("the server does not read: a request fits no socket buffer")

    def _receive(self, connection: _Connection) -> None:
        """Take every whole answer that has arrived on `connection`."""
        data = connection.sock.recv(RECEIVE_BYTES)
        now_ns = perf_counter_ns()
        if not data:
            raise ConnectionLost("the server closed a connection")
        if connection.rest:
            data = connection.rest + data
        start = 0
        while connection.outstanding:
            found = self._parser.next_answer(data, start)
            if found is None:
                break
            body, start, bookmark = found
            self._samples_ns.append(now_ns - connection.sent_ns)
            self._until_check -= 1
            if not self._until_check:
                self._until_check = self._job.check_every
                self._checked += 1
                connection.workload.check(data[body:start], connection.answered)
            connection.answered += 1
            connection.outstanding -= 1
            if bookmark != connection.bookmark and bookmark:
                connection.bookmark = bookmark
                connection.head = self._head + bookmark
        if start == len(data):
            connection.rest = b""
            return
        connection.rest = data[start:]
        if not connection.outstanding:
            raise WrongAnswer(f"an answer that nobody asked for: {connection.rest[:200]!r}")

    def _usage(self) -> _Usage:
        pid = self._job.server_pid
        return _Usage(
            at_ns=perf_counter_ns(),
            generator_s=process_time(),
            server_s=processes.cpu_s(pid) if pid else 0.0,
            cores_s=processes.cores_busy_s(self._job.server_cores),
        )

    def _result(self, before: _Usage, after: _Usage, requests: int) -> Result:
        seconds = (after.at_ns - before.at_ns) / 1e9
        server_s = after.server_s - before.server_s
        cores_s = after.cores_s - before.cores_s
        acknowledged: dict[int, int] = {}
        share = max(1, ACKNOWLEDGED_KEPT // self._job.connections)
        for connection in self._connections.values():
            if isinstance(connection.workload, Updates):
                newest = connection.workload.newest(connection.answered, count_max=share)
                acknowledged.update(newest)
        return Result(
            requests=requests,
            seconds=round(seconds, 3),
            per_second=round(requests / seconds, 1),
            latency=summarize(self._samples_ns[:requests]),
            checked=self._checked,
            server_cpu_us_per_request=round(server_s * 1e6 / max(1, requests), 2),
            server_cpu_share=round(server_s / seconds, 3),
            generator_cpu_share=round((after.generator_s - before.generator_s) / seconds, 3),
            foreign_cpu_share=round(max(0.0, cores_s - server_s) / seconds, 3),
            bookmark=max(each.bookmark for each in self._connections.values()).decode(),
            acknowledged=acknowledged,
        )


def _head_of(job: Job) -> bytes:
    """Return the head of each request up to the bookmark, which comes last."""
    return (
        f"POST /db/{DATABASE}/query HTTP/1.1\r\nhost: {job.host}:{job.port}\r\n"
        "content-type: application/json\r\nx-d1-bookmark: "
    ).encode()


def _tails_of(workload: Workload, route: str) -> Iterator[bytes]:
    """Yield the requests of `workload` from behind the bookmark on."""
    if route == "fast":
        return (b"\r\ncontent-length: %d\r\n\r\n%b" % (len(b), b) for b in workload.bodies())
    if route == "chunked":
        return (
            b"\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(b), b)
            for b in workload.bodies()
        )
    if route == "general":
        return (
            b"\r\nte: trailers\r\ncontent-length: %d\r\n\r\n%b" % (len(b), b)
            for b in workload.bodies()
        )
    raise ValueError(f"route {route!r}: choose fast, chunked or general")


def main() -> None:
    """Run the job on stdin; print its result, or one line that says what was wrong."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    try:
        result = LoadGenerator(job).run()
    except (WrongAnswer, OSError, ConnectionLost) as exc:
        sys.exit(f"load generator: {type(exc).__name__}: {exc}")
    print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    main()
