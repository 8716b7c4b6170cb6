"""Sessions of the binding: its token in and out, at either node, and when links fail."""

from pathlib import Path

import pytest

from tests.binding.binding_client import ROWS, TOKEN, Binding, error_of, statement
from tests.rest.http_cluster import HttpCluster, http_cluster
from tests.waiting import until

COUNT = statement("SELECT count(*) FROM t")
INSERT = statement("INSERT INTO t VALUES (1)")
ALONE = pytest.mark.asyncio(loop_scope="module")


@ALONE
async def test_without_a_token_the_primary_answers_and_none_comes_back(nodes: HttpCluster) -> None:
    await nodes.create("plain", "CREATE TABLE t(a)")
    for node in nodes.nodes:
        db = Binding(node, "plain")
        for call in (db.query(COUNT), db.execute(INSERT)):
            answer = await call
            assert answer.token is None
            assert answer.meta["served_by_primary"] is True
        reply = await db.call("/query", ROWS, statement("nope"))
        assert TOKEN not in reply.headers
        assert "x-d1-bookmark" not in reply.headers


@ALONE
async def test_tokens_say_who_answers(nodes: HttpCluster) -> None:
    """A blank one is what `withSession()` without a word means: any state will do."""
    await nodes.create("who", "CREATE TABLE t(a)")
    db = Binding(nodes.replica, "who")
    for token, is_primary in (
        ("first-primary", True),
        ("first-unconstrained", False),
        ("", False),
        ("  ", False),
    ):
        answer = await db.query(COUNT, token)
        assert answer.meta["served_by_primary"] is is_primary
        assert answer.token is not None
    answer = await db.query(COUNT, answer.token)
    assert answer.meta["served_by_primary"] is False
    assert (await db.execute(INSERT, answer.token)).meta["served_by_primary"] is True


@ALONE
async def test_a_session_over_both_nodes_sees_its_own_writes(nodes: HttpCluster) -> None:
    """Each token is as new as the state seen, never older than the one sent, and sorts so.

    The client keeps the greater of two by the order of their characters.
    """
    await nodes.create("own", "CREATE TABLE t(a)")
    ways = [Binding(node, "own") for node in nodes.nodes]
    token = "first-unconstrained"
    for at in range(20):
        written = (await ways[at % 2].execute(INSERT, token)).token
        assert written is not None
        assert token == "first-unconstrained" or written > token
        answer = await ways[(at // 2) % 2].query(COUNT, written)
        assert answer.results[0]["rows"] == [[at + 1]]
        assert answer.token is not None
        assert answer.token >= written
        token = answer.token


@ALONE
async def test_an_error_brings_a_token_too(nodes: HttpCluster) -> None:
    """The client takes it from any answer that has one."""
    await nodes.create("failing", "CREATE TABLE t(a)")
    for node in nodes.nodes:
        db = Binding(node, "failing")
        for token in ("first-primary", "first-unconstrained"):
            reply = await db.call("/query", ROWS, statement("SELECT * FROM nope"), {TOKEN: token})
            assert error_of(reply) == "no such table: nope: SQLITE_ERROR"
            assert len(reply.headers[TOKEN]) == 59


@ALONE
async def test_a_foreign_token_fails_at_once(nodes: HttpCluster) -> None:
    await nodes.create("mine", "CREATE TABLE t(a)")
    await nodes.create("theirs", "CREATE TABLE t(a)")
    theirs = (await Binding(nodes.primary, "theirs").query(COUNT, "first-primary")).token
    for node in nodes.nodes:
        text = await Binding(node, "mine").error("/query", COUNT, theirs)
        assert "bookmark" in text


async def test_a_read_waits_for_its_token(tmp_path: Path) -> None:
    """A replica whose link is held back does not answer with an older state: it waits.

    Method: the token of a write that the replica cannot have yet; it is asked with a short
    wait, first for an error, then for the primary's answer instead.
    """
    async with http_cluster(tmp_path) as nodes:
        await nodes.create("shop", "CREATE TABLE t(a)")
        db = Binding(nodes.replica, "shop")
        with nodes.replica.node.link.held(to_primary=False):
            written = (await Binding(nodes.primary, "shop").execute(INSERT, "first-primary")).token
            assert written is not None
            late = {TOKEN: written, "x-d1-max-wait-ms": "50", "x-d1-on-timeout": "error"}
            text = error_of(await db.call("/query", ROWS, COUNT, late))
            assert text.startswith("Network connection lost.")
        answer = await db.query(COUNT, written)
        assert answer.results[0]["rows"] == [[1]]


async def test_without_a_primary_the_error_is_one_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1's documentation has clients look for this text before they send a query again."""
    monkeypatch.setattr("replica.redial.HELD_S", 0.3)  # it does not come back
    async with http_cluster(tmp_path) as nodes:
        await nodes.create("shop", "CREATE TABLE t(a)")
        await nodes.cluster.primary.stop()
        await until(lambda: not nodes.replica.node.is_following, "the primary is missed")
        db = Binding(nodes.replica, "shop")
        for path, body in (("/execute", INSERT), ("/query", COUNT), ("/query", [COUNT, INSERT])):
            assert (await db.error(path, body)).startswith("Network connection lost. ")
        assert (await db.query(COUNT, "first-unconstrained")).results[0]["rows"] == [[0]]
