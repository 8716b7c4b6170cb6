"""The parts of the torture that need no cluster: the workload's SQL, and the page comparison."""

import asyncio
import random
from pathlib import Path

import apsw
import pytest

from proto.tokens import Bookmark, CommitToken
from tests.torture.cluster import NodeProcess, Trouble, free_ports
from tests.torture.comparison import differing_pages
from tests.torture.history import NEVER_WRITTEN, History, Outcome, Value, Write, applied
from tests.torture.report import Report
from tests.torture.workload import NUMBERS, Question, Sql, Workload, seen_by, setup_statements


def answers(db: apsw.Connection, statements: list[Sql]) -> list[list[dict[str, object]]]:
    """Run statements in one transaction and return their rows as objects."""
    results = []
    with db:
        for statement in statements:
            cursor = db.cursor()
            rows = []
            for row in cursor.execute(statement.sql, statement.params):
                names = [column[0] for column in cursor.get_description()]
                rows.append(dict(zip(names, row, strict=True)))
            results.append(rows)
    return results


def ask(db: apsw.Connection, questions: list[Question]) -> dict[str, Value]:
    return seen_by(questions, answers(db, [one.statement for one in questions]))


@pytest.mark.parametrize("seed", range(3))
def test_the_sql_of_the_workload_does_what_its_changes_say(seed: int) -> None:
    """A thousand random writes and reads: SQLite and the model never disagree."""
    db = apsw.Connection(":memory:")
    answers(db, setup_statements())
    workload = Workload(random.Random(seed))
    model: dict[str, Value] = dict(NUMBERS)
    ledger = []
    for _ in range(1000):
        if workload.writes % 2:
            seen = ask(db, workload.next_read())
            assert seen == {key: model.get(key, NEVER_WRITTEN) for key in seen}
        id_, changes, statements = workload.next_write()
        answers(db, statements)
        ledger.append((id_,))
        for change in changes:
            model[change.key] = applied(model.get(change.key, NEVER_WRITTEN), change)
    assert db.execute("SELECT id FROM ledger ORDER BY place").fetchall() == ledger
    balances = "SELECT sum(value) FROM numbers WHERE key >= 'account:' AND key < 'account;'"
    assert db.execute(balances).fetchall() == [(800,)], "money moves, and stays"
    long = db.execute("SELECT key FROM lists WHERE length(elements) > 500").fetchall()
    assert long == [], "lists stay short, or the checker would be slow"


def make_database(path: Path, rows: int, *, checkpointed: bool) -> None:
    """Make a database of `rows` rows, in its file or, without a checkpoint, in its WAL."""
    db = apsw.Connection(str(path))
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.execute("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0").fetchall()
    db.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    with db:
        db.executemany("INSERT INTO t VALUES (?, ?)", [(i, "x" * 500) for i in range(rows)])
    if checkpointed:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()


def test_pages_are_equal_wherever_they_stand(tmp_path: Path) -> None:
    """A file and a WAL against a file alone: the same state is equal, and nothing is touched."""
    one, other = tmp_path / "one.sqlite", tmp_path / "other.sqlite"
    make_database(one, 100, checkpointed=True)
    make_database(other, 100, checkpointed=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert differing_pages(one, other) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_differing_page_is_named(tmp_path: Path) -> None:
    one, other = tmp_path / "one.sqlite", tmp_path / "other.sqlite"
    make_database(one, 100, checkpointed=True)
    content = bytearray(one.read_bytes())
    content[2 * 4096 + 100] ^= 1
    other.write_bytes(content)
    assert differing_pages(one, other) == [3]
    assert len(differing_pages(one, tmp_path / "absent.sqlite")) == len(content) // 4096


async def assert_stays_alive(node: NodeProcess) -> None:
    for _ in range(2000):
        node.assert_alive()
        await asyncio.sleep(0.02)


async def test_a_node_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    """Method: start a node with arguments that no node takes."""
    node = NodeProcess("broken", tmp_path, 1, ["--no-such-option"])
    await node.start()
    with pytest.raises(Trouble, match="ended by itself"):
        await assert_stays_alive(node)
    await node.kill()
    assert "no-such-option" in node.log_tail()


def test_free_ports_are_distinct_and_free() -> None:
    ports = free_ports(20, random.Random(1))
    assert len(set(ports)) == 20


def test_the_report_counts_and_keeps_what_was_violated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Bookmark(CommitToken(1, 0), bytes(16))
    lost = Write(
        id=1,
        session="s",
        node="primary",
        invoked=0.0,
        completed=1.0,
        outcome=Outcome.OK,
        changes=(),
        supplied=None,
        bookmark=Bookmark(CommitToken(1, 1), bytes(16)),
    )
    head = Bookmark(CommitToken(1, 1), bytes(16))
    history = History(events=[lost], ledger=[], initial={}, base=base, head=head)
    report = Report(7, tmp_path)
    report.add_history(history, "kills-1")
    assert (report.lost, report.writes_acked, len(report.violations)) == (1, 1, 1)
    assert (tmp_path / "kills-1.jsonl").exists()
    assert "VIOLATION kills-1: lost: write 1" in capsys.readouterr().out
    assert str(tmp_path) in report.line(is_kept=True)
