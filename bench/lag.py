"""Measures how soon after its acknowledgement a write is visible on the replica.

`python -m bench.lag` reads one `LagJob` as JSON from stdin and prints a `LagResult`. The
probe writes a row on the primary, takes the time when the acknowledgement arrives, and then,
in turns:

- *bookmark*: at once sends the replica one read that carries the write's bookmark. The
  figure is how long that read takes: what a session that hops to the replica has to wait.
- *visible*: asks the replica again and again with `first-unconstrained` until the value
  is there. The figure ends when the first answer that shows it has arrived.

Both include one round trip to the replica and the probe's own time on its core; the replica
works while the acknowledgement travels, so both can be as short as a plain read.
"""

import os
import socket
import sys
import time
from array import array
from dataclasses import dataclass
from time import perf_counter_ns

import msgspec
import orjson

from bench.answers import AnswerParser, ConnectionLost, WrongAnswer
from bench.latency import Latency, summarize
from bench.workloads import DATABASE

POLL_PAUSE_S = 0.0002  # between two unconstrained reads: do not starve what is measured
VISIBLE_S_MAX = 60.0
ANSWER_S_MAX = 120.0
_WRITE = b'{"sql":"UPDATE added SET value = ? WHERE id = 1","params":[%d]}'
_READ = b'{"sql":"SELECT value FROM added WHERE id = 1"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class LagJob:
    """Whom to write to, whom to read from, how long and how often."""

    host: str
    primary_port: int
    replica_port: int
    seconds: float
    pause_s: float = 0.005  # between two samples
    first_value: int = 1  # must be above every value that an earlier job wrote
    cores: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LagResult:
    """The two distributions, and what the writes themselves took."""

    bookmark: Latency
    visible: Latency
    write: Latency
    polls: int
    last_value: int


class Line:
    """One connection on which one request waits for one answer."""

    def __init__(self, host: str, port: int) -> None:
        self._sock = socket.create_connection((host, port), timeout=ANSWER_S_MAX)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = AnswerParser()
        # A wait that runs out is an error here: an answer of the primary would hide the lag.
        self._head = (
            f"POST /db/{DATABASE}/query HTTP/1.1\r\nhost: {host}:{port}\r\n"
            f"x-d1-max-wait-ms: {VISIBLE_S_MAX * 1000:.0f}\r\nx-d1-on-timeout: error\r\n"
        ).encode()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def ask(self, body: bytes, bookmark: bytes) -> tuple[bytes, bytes]:
        """Return the body and the bookmark of the answer."""
        self._sock.sendall(
            b"%bcontent-type: application/json\r\nx-d1-bookmark: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (self._head, bookmark, len(body), body)
        )
        data = b""
        while True:
            received = self._sock.recv(65536)
            if not received:
                raise ConnectionLost("the server closed a connection")
            data += received
            found = self._parser.next_answer(data)
            if found is not None:
                start, end, new_bookmark = found
                return data[start:end], new_bookmark


def measure(job: LagJob) -> LagResult:
    """Take samples for `job.seconds`, alternating the two methods."""
    primary = Line(job.host, job.primary_port)
    replica = Line(job.host, job.replica_port)
    bookmarked_ns, visible_ns, write_ns = array("Q"), array("Q"), array("Q")
    polls, value, session = 0, job.first_value, b"first-primary"
    end_ns = perf_counter_ns() + int(job.seconds * 1e9)
    try:
        while perf_counter_ns() < end_ns:
            time.sleep(job.pause_s)
            sent_ns = perf_counter_ns()
            _body, session = primary.ask(_WRITE % value, session)
            acknowledged_ns = perf_counter_ns()
            write_ns.append(acknowledged_ns - sent_ns)
            if value % 2:
                body, _bookmark = replica.ask(_READ, session)
                bookmarked_ns.append(perf_counter_ns() - acknowledged_ns)
                if _value_of(body) != value:
                    raise WrongAnswer(f"a read with the bookmark of {value} got {body!r}")
            else:
                polls += _poll_until(replica, value)
                visible_ns.append(perf_counter_ns() - acknowledged_ns)
            value += 1
    finally:
        primary.close()
        replica.close()
    return LagResult(
        bookmark=summarize(bookmarked_ns),
        visible=summarize(visible_ns),
        write=summarize(write_ns),
        polls=polls,
        last_value=value,
    )


def _poll_until(replica: Line, value: int) -> int:
    deadline = time.monotonic() + VISIBLE_S_MAX
    polls = 1
    while _value_of(replica.ask(_READ, b"first-unconstrained")[0]) < value:
        if time.monotonic() > deadline:
            raise WrongAnswer(f"the write of {value} is not visible after {VISIBLE_S_MAX} s")
        time.sleep(POLL_PAUSE_S)
        polls += 1
    return polls


def _value_of(body: bytes) -> int:
    value = orjson.loads(body)["result"][0]["results"][0]["value"]
    if not isinstance(value, int):
        raise WrongAnswer(f"not a number: {body!r}")
    return value


def main() -> None:
    """Run the job on stdin; print its result, or one line that says what was wrong."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=LagJob)
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    try:
        result = measure(job)
    except (WrongAnswer, ConnectionLost, OSError) as exc:
        sys.exit(f"lag probe: {type(exc).__name__}: {exc}")
    print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    main()
