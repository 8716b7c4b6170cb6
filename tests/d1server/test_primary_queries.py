"""The primary's queries: what is answered at once, what waits, and what each error becomes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from d1server.insights.query_costs import QueryStatistics
from d1server.primary_queries import PrimaryQueries
from d1server.query import Answer, PendingAnswer, QueryRequest, answered
from d1server.results import to_answer
from primary.committer import CommitterState
from proto.api import ServedBy
from proto.tokens import Bookmark
from tests.cluster.running_cluster import request_of
from tests.engine.gated_disk import GatedDisk
from tests.primary.opened_primary import PrimaryUnderTest, numbers, opened_primary, turns
from tests.waiting import EVENT_S_MAX, until

COUNT = "SELECT count(*) FROM t"
SLOW = numbers(150_000) + "INSERT INTO t SELECT i FROM n"


class Asked:
    """Queries of one database named `shop`."""

    def __init__(self, made: PrimaryUnderTest, disk: GatedDisk) -> None:
        self.made = made
        self.disk = disk
        served = ServedBy("primary", "ENAM", is_primary=True)
        self.queries = PrimaryQueries(
            lambda name: made.database if name == "shop" else None, served, QueryStatistics()
        )

    def now(self, sql: str, session: Bookmark | None = None) -> Answer | PendingAnswer | None:
        return self.queries.answer_now(request_of({"sql": sql}, session=session))

    async def ask(self, sql: str, *, db: str = "shop", key: str | None = None) -> Answer:
        request: QueryRequest = request_of({"sql": sql}, db=db)
        request.idempotency_key = key
        return await answered(self.queries, request)


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        await made.open()
        yield Asked(made, disk)


def rows(answer: Answer) -> Any:
    body = json.loads(answer.body)
    assert body["success"], body
    return body["result"][-1]["results"]["rows"]


def message(answer: Answer) -> str:
    return str(json.loads(answer.body)["errors"][0]["message"])


async def test_a_read_of_durable_commits_is_answered_at_once(asked: Asked) -> None:
    answer = asked.now(COUNT)
    assert isinstance(answer, Answer)
    assert rows(answer) == [[0]]


@pytest.mark.parametrize("is_short", [True, False], ids=["at once", "the long way"])
async def test_a_read_is_told_of_the_state_that_it_saw(asked: Asked, *, is_short: bool) -> None:
    """Not of the older one that its session asked for."""
    old = asked.made.database.durable
    await asked.ask("INSERT INTO t VALUES (1)")
    request = request_of({"sql": COUNT}, session=old)
    answer = asked.queries.answer_now(request) if is_short else await asked.queries.answer(request)
    assert isinstance(answer, Answer)
    assert (rows(answer), answer.bookmark) == ([[1]], asked.made.database.durable.text)


async def test_a_short_write_is_executed_at_once_and_told_when_durable(asked: Asked) -> None:
    opened = await asked.made.open()
    told: list[Answer] = []
    with asked.disk.syncs_held():
        pending = [asked.now(f"INSERT INTO t VALUES ({number})") for number in range(3)]
        for one in pending:
            assert isinstance(one, PendingAnswer)
            one.deliver = told.append
        assert opened.log.head.seq == 5
        assert asked.now(COUNT) is None, "a read would see what is not durable"
        await turns()
        assert not told
    await until(lambda: len(told) == 3, "told")
    marks = [Bookmark.parse(str(answer.bookmark)).seq for answer in told]
    assert marks == [3, 4, 5]
    assert {answer.status for answer in told} == {200}


async def test_a_short_write_whose_sync_fails_is_told_so(asked: Asked) -> None:
    """503, not to be repeated blindly; undone; and the database goes on by itself."""
    told: list[Answer] = []
    with asked.disk.syncs_held():
        pending = asked.now("INSERT INTO t VALUES ('lost')")
        assert isinstance(pending, PendingAnswer)
        pending.deliver = told.append
        read = asyncio.create_task(asked.ask(COUNT))
        await turns()
        asked.disk.fail_syncs(1)
    await until(lambda: bool(told), "told")
    assert (told[0].status, told[0].should_retry) == (503, False)
    assert (await read).status == 503
    assert rows(await asked.ask(COUNT)) == [[0]]
    again: list[int] = []
    while 200 not in again:  # writes are refused for a short pause
        assert set(again) <= {503}
        assert len(again) < 1500
        again.append((await asked.ask("INSERT INTO t VALUES (1)")).status)
        await asyncio.sleep(0.01)


async def test_a_write_that_changes_nothing_is_told_at_once(asked: Asked) -> None:
    answer = await asked.ask("DELETE FROM t WHERE x = 'nowhere'")
    assert answer.status == 200
    assert answer.bookmark == asked.made.database.durable.text


async def test_an_answer_that_cannot_be_made_keeps_no_other_waiting(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in one answer is that answer's 500."""
    failures = 1

    def failing(*arguments: Any) -> Answer:
        nonlocal failures
        if failures:
            failures -= 1
            raise ZeroDivisionError
        return to_answer(*arguments)

    monkeypatch.setattr("d1server.results.to_answer", failing)
    answers = await asyncio.gather(
        asked.ask("INSERT INTO t VALUES (1)"), asked.ask("INSERT INTO t VALUES (2)")
    )
    # Which of them is answered first, a busy machine decides.
    assert sorted(answer.status for answer in answers) == [200, 500]


async def test_reads_beside_a_write_on_a_thread(asked: Asked) -> None:
    """Their bookmarks are never older than what they saw, also in the moment of its commit."""
    write = asyncio.create_task(asked.ask(SLOW))
    await turns()
    seen: set[tuple[int, int]] = set()
    while not write.done():
        answer = asked.now(COUNT) or await asked.ask(COUNT)
        assert isinstance(answer, Answer)
        seen.add((rows(answer)[0][0], Bookmark.parse(str(answer.bookmark)).seq))
        await asyncio.sleep(0)
    assert (await write).status == 200
    for count, seq in seen:
        assert (count, seq) in {(0, 2), (0, 3), (150_000, 3)}


@pytest.mark.parametrize("is_logged", [False, True], ids=["visible", "durable"])
async def test_a_commit_between_two_looks_at_the_log(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, *, is_logged: bool
) -> None:
    """A thread may commit after a read in the event loop has looked, and before it reads.

    Method: hold such a read back until it sees the row of a write on a thread, or until that is in
    the log and durable, too.
    """
    opened = await asked.made.open()
    now, head = opened.reads.now, opened.log.head

    def late(steps: Any) -> Any:
        ends = time.monotonic() + EVENT_S_MAX
        while not (found := now(steps))[0].rows or (is_logged and opened.log.durable == head):
            assert time.monotonic() < ends
            time.sleep(0.0002)
        return found

    write = asyncio.create_task(asked.ask(SLOW))
    await until(lambda: opened.committer.state is CommitterState.BUSY, "begun")
    monkeypatch.setattr(opened.reads, "now", late)
    answer = asked.now("SELECT x FROM t LIMIT 1")
    if answer is not None:
        assert isinstance(answer, Answer)
        seen = Bookmark.parse(str(answer.bookmark)).seq
        assert head.seq < seen <= opened.log.durable.seq
    assert (await write).status == 200


@pytest.mark.parametrize(
    ("sql", "status", "text"),
    [
        ("SELECT * FROM nowhere", 400, "no such table"),
        ("INSERT INTO nowhere VALUES (1)", 400, "no such table"),
        ("INSERT INTO t VALUES (1, 2)", 400, "2 values"),
        ("BEGIN", 400, "batch"),
        ("ATTACH 'x' AS y", 400, "not authorized"),
        ("SELECT ?", 400, "Wrong number"),
        ("", 400, "No SQL statements"),
        ("SELEC", 400, "syntax error"),
    ],
)
async def test_the_caller_s_mistakes_are_400(
    asked: Asked, sql: str, status: int, text: str
) -> None:
    answer = await asked.ask(sql)
    assert answer.status == status
    assert text in message(answer)
    assert answer.bookmark is not None


async def test_an_unknown_database_is_404(asked: Asked) -> None:
    assert (await asked.ask(COUNT, db="none")).status == 404


async def test_a_stored_answer_is_given_again(asked: Asked) -> None:
    """Whatever it was: rows, changes, or an answer of many statements."""
    for number, sql in enumerate(
        (
            "INSERT INTO t VALUES (1) RETURNING x",
            "INSERT INTO t VALUES (2); INSERT INTO t VALUES (3)",
            "UPDATE t SET x = x + 1; SELECT x FROM t ORDER BY x",
            "INSERT INTO t VALUES (hex(randomblob(3000))) RETURNING x",
        )
    ):
        first = await asked.ask(sql, key=f"k{number}")
        again = await asked.ask(sql, key=f"k{number}")
        assert first.status == again.status == 200
        assert rows(first) == rows(again)
    assert rows(await asked.ask(COUNT)) == [[4]]


async def test_a_refused_write_does_not_use_its_key_up(asked: Asked) -> None:
    """Nothing was done, so the same key may come again."""
    sql = "INSERT INTO later VALUES (1)"
    assert (await asked.ask(sql, key="k")).status == 400
    await asked.ask("CREATE TABLE later (x)")
    assert (await asked.ask(sql, key="k")).status == 200
    assert rows(await asked.ask("SELECT count(*) FROM later")) == [[1]]


async def test_keys_are_forgotten_after_their_time(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day later the rows go, a few with each keyed write."""
    sql = "INSERT INTO t VALUES (1)"
    for number in range(30):
        await asked.ask(sql, key=f"old-{number}")
    day_after = time.time() + 25 * 3600
    monkeypatch.setattr("primary.idempotency.time.time", lambda: day_after)
    for number in range(3):
        await asked.ask(sql, key=f"new-{number}")
    opened = await asked.made.open()
    kept = opened.live.writer.sandbox.execute_internal("SELECT count(*) FROM _d1_idempotency")
    assert kept == [(3,)]


async def test_the_table_of_keys_is_nobody_s(asked: Asked) -> None:
    await asked.ask("INSERT INTO t VALUES (1)", key="k")
    for sql in ("SELECT * FROM _d1_idempotency", "DELETE FROM _d1_idempotency"):
        assert (await asked.ask(sql)).status == 400
