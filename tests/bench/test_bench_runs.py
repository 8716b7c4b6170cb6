"""The measuring processes measure, and notice when a server is wrong. All against stand-ins."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bench import cluster, lag, loadgen, markdown, memory, raw, report
from bench.answers import ConnectionLost, WrongAnswer
from bench.children import Child, MeasurementFailed, run_child
from bench.cluster import HOST, Cluster, NodeFailed, free_port, open_cluster
from bench.loadgen import Job, LoadGenerator
from bench.placement import default_placement
from bench.responder import canned_answer
from bench.suite import Scenario, Sizes, Suite, read_scenarios
from bench.workloads import DATABASE, READ_SQL
from tests.bench.conftest import STANDIN

TINY = Sizes(run_s=0.1, warmup_s=0.05, lag_s=0.2, raw_s=0.05, extras=False, repeats_max=0)


def job_for(port: int, workload: str, **changes: object) -> Job:
    job = Job(host=HOST, port=port, workload=workload, connections=4, seconds=0.2, warmup_s=0.05)
    return msgspec.convert(msgspec.to_builtins(job) | changes, Job)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"route": "chunked"},
        {"route": "general"},
        {"depth": 8},
        {"connections": 1},
        {"server": "primary"},
    ],
)
def test_reads_are_counted_and_checked(standins: Cluster, changes: dict[str, object]) -> None:
    """Each route and each depth gets right answers, and each answer has a latency."""
    job = job_for(standins.primary.port, "read", check_every=1, **changes)
    result = LoadGenerator(job).run()
    assert result.requests == result.latency.count > 0
    assert result.checked >= result.requests
    assert result.per_second == pytest.approx(result.requests / result.seconds, rel=0.01)
    assert result.bookmark.startswith("00000001-")


def test_acknowledged_updates_are_on_both_nodes(standins: Cluster) -> None:
    """What the generator calls acknowledged is what the rows hold afterwards."""
    result = LoadGenerator(job_for(standins.primary.port, "update", seed=77)).run()
    assert result.acknowledged
    for node in (standins.primary, standins.replica):
        with contextlib.closing(node.client()) as client:
            for key, value in result.acknowledged.items():
                rows = client.query(DATABASE, READ_SQL, [key], bookmark=result.bookmark).rows
                assert rows[0]["stock"] == value


def test_server_cpu_is_attributed_to_the_server(standins: Cluster) -> None:
    """The CPU of the named process is divided by the requests; it cannot exceed the wall time."""
    pid = standins.primary.pid
    cores = tuple(os.sched_getaffinity(0))
    job = job_for(standins.primary.port, "read", server_pid=pid, server_cores=cores, seconds=1.0)
    result = run_child("bench.loadgen", job, loadgen.Result)
    assert 0 < result.server_cpu_us_per_request < 1e6 * len(cores) / result.per_second
    assert 0 < result.server_cpu_share < 1.2
    assert 0 < result.generator_cpu_share < 1.1


def test_inserts_go_through(standins: Cluster) -> None:
    """The insert workload never meets its own keys again."""
    assert LoadGenerator(job_for(standins.primary.port, "insert")).run().requests > 0


@contextlib.contextmanager
def serve_bytes(answer: bytes) -> Iterator[int]:
    """A server that sends `answer` for whatever arrives on one connection; yields its port."""

    def serve() -> None:
        connection, _peer = listener.accept()
        with connection, contextlib.suppress(OSError):
            while connection.recv(65536):
                if not answer:
                    return
                connection.sendall(answer)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (canned_answer(100_000), WrongAnswer),  # another row than the one that was asked for
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", WrongAnswer),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", WrongAnswer),
        (b"", ConnectionLost),
    ],
)
def test_wrong_server_ends_the_run(answer: bytes, error: type[Exception]) -> None:
    """A server that lies, fails or hangs up must not get a figure."""
    with serve_bytes(answer) as port, pytest.raises(error):
        LoadGenerator(job_for(port, "read", connections=1)).run()


def test_answer_that_nobody_asked_for_is_noticed() -> None:
    """Two answers to one request would double the figure."""
    with (
        serve_bytes(canned_answer(100_000) * 2) as port,
        pytest.raises(WrongAnswer, match="nobody"),
    ):
        LoadGenerator(job_for(port, "read", connections=1, check_every=0)).run()


def test_failed_child_hands_on_its_reason() -> None:
    """The message of a measuring process reaches whoever started it."""
    job = job_for(free_port(), "read")
    with pytest.raises(MeasurementFailed, match="ConnectionRefused"):
        run_child("bench.loadgen", job, loadgen.Result)
    with Child("bench.loadgen", job) as child, pytest.raises(MeasurementFailed, match="Refused"):
        child.wait_line("measuring")


def test_lag_probe_takes_samples_of_both_kinds(standins: Cluster) -> None:
    """Bookmark reads and visible reads alternate, and every one of them ended."""
    job = lag.LagJob(
        host=HOST,
        primary_port=standins.primary.port,
        replica_port=standins.replica.port,
        seconds=2.0,
    )
    result = run_child("bench.lag", job, lag.LagResult)
    assert result.bookmark.count > 0
    assert abs(result.bookmark.count - result.visible.count) <= 1
    assert result.polls >= result.visible.count
    assert result.write.count == result.last_value - 1
    assert 0 < result.bookmark.p50_us < 1e6


def test_raw_costs_are_ordered(tmp_path: Path) -> None:
    """A sync costs more than an update, which costs more than a select."""
    found = raw.measure(tmp_path, 0.1)
    assert 0 < found.point_select.p50_us < found.row_update.p50_us
    assert found.sync_8k.count > 0


def test_whole_suite_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scenario of the small slice ends up in the JSON and in the Markdown."""
    monkeypatch.setattr("bench.suite.READ_BACK_MAX", 8)
    with open_cluster(primary_command=STANDIN, replica_command=STANDIN) as nodes:
        measured = Suite(nodes, default_placement(os.sched_getaffinity(0)), TINY).run()
    wanted = {scenario.name for scenario in read_scenarios(extras=False)}
    wanted |= {"read responder 64", "update primary 1", "update primary 64"}
    assert wanted <= {run.name for run in measured.runs}
    run = measured.run_named("update primary 16")
    assert run is not None
    assert run.link_bytes_per_commit is not None
    assert 50 < run.link_bytes_per_commit < 500  # the stand-in's lines of JSON

    commit, is_dirty = report.git_now()
    found = report.Report(
        schema=report.SCHEMA_VERSION,
        slice="ci",
        date=report.date_now(),
        git_commit=commit,
        git_is_dirty=is_dirty,
        machine=report.machine_now(tmp_path, 0.0),
        versions=report.versions_now(),
        placement=default_placement([0, 1]),
        measurements=measured,
        memory=None,
        targets=report.targets_of(measured, None),
    )
    markdown.write(found, tmp_path)
    again = msgspec.json.decode((tmp_path / "latest.json").read_bytes(), type=report.Report)
    assert again == found
    text = (tmp_path / "latest.md").read_text()
    assert all(name in text for name in wanted)
    assert "durable writes/s, 64 connections" in text


def test_lost_write_fails_the_suite() -> None:
    """A server that acknowledges a write and forgets it gets no figures.

    Method: the stand-in drops every third update and says that it has changed one row.
    """
    command = (*STANDIN, "--drop-every", "3")
    with open_cluster(primary_command=command, replica_command=STANDIN) as nodes:
        suite = Suite(nodes, default_placement(os.sched_getaffinity(0)), TINY)
        scenario = Scenario(node="primary", workload="update", connections=4)
        cluster.fill(nodes)
        with pytest.raises(MeasurementFailed, match="lost an acknowledged write"):
            suite.measure(scenario)


def test_nodes_that_differ_are_noticed() -> None:
    """Bookmarks and checksums are compared when the writes are over.

    Method: write a row on the replica that the primary does not have.
    """
    with open_cluster(primary_command=STANDIN, replica_command=STANDIN) as nodes:
        cluster.fill(nodes)
        nodes.check_equal(DATABASE)
        with contextlib.closing(nodes.replica.client()) as client:
            client.query(DATABASE, "INSERT INTO added VALUES (2, 2, '')")
        with pytest.raises(NodeFailed, match="differ"):
            nodes.check_equal(DATABASE)


def test_small_memory_part_runs() -> None:
    """Idle databases and a large one, in sizes that take a second."""
    with open_cluster(primary_command=STANDIN, replica_command=STANDIN) as nodes:
        large = memory.measure_large(nodes, 8_000_000)
    assert large.bytes == 8_000_000
    assert large.primary_peak_bytes > large.primary_start_bytes


def test_node_that_ends_shows_its_log() -> None:
    """A node that cannot start is reported with what it said, at once."""
    broken = ("-c", "import sys; sys.exit('no such option')")
    with (
        pytest.raises(NodeFailed, match="no such option"),
        open_cluster(primary_command=broken),
    ):
        pass
