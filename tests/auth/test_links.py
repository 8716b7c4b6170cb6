"""Links between real nodes: with the right token, the wrong one, and somebody in between."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from d1server.access.grants import Grant, Level, NotAdmitted, new_text
from d1server.link import PeerLink, listen
from d1server.offline import administer_offline
from d1server.query import BOOKMARK_OP, AdminRequest, Answer
from d1server.web import failures
from proto.framing import FrameDecoder, encode_frame
from proto.messages import (
    PROTOCOL_VERSION,
    Challenge,
    Commits,
    Follow,
    Forward,
    Goodbye,
    Hello,
    Message,
    Proof,
    Refuse,
    Welcome,
    decode_message,
    encode_message,
)
from replica.receiver import ReceiverState
from tests.cluster.running_cluster import Cluster, NodeUnderTest, running_cluster, settle
from tests.waiting import EVENT_S_MAX, until


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path) as cluster:
        yield cluster


async def made(folder: Path, *scopes: str, **more: Any) -> dict[str, Any]:
    """A token, made while no primary runs in the folder."""
    body = json.dumps({"name": "test", "scopes": scopes, **more}).encode()
    answer = await administer_offline(folder / "primary", "token-create", body=body)
    assert answer.status == 200, answer
    result: dict[str, Any] = json.loads(answer.body)["result"]
    return result


async def administer(node: NodeUnderTest, op: str, name: str = "", body: object = None) -> Answer:
    reply = await node.administer(op, name, body)
    assert reply.status == 200, reply
    return reply.answer


def state_of(replica: NodeUnderTest) -> ReceiverState:
    return replica.replica._receiver.state


def reason_of(replica: NodeUnderTest) -> str:
    return replica.replica._receiver.reason


def is_open(node: NodeUnderTest) -> bool:
    return node.node.access.is_open


async def refused(replica: NodeUnderTest) -> str:
    """Wait until the replica knows that it is not wanted; why."""
    await until(lambda: state_of(replica) is ReceiverState.REFUSED, "a refusal")
    return reason_of(replica)


async def test_replica_with_the_token_follows(cluster: Cluster, tmp_path: Path) -> None:
    token = await made(tmp_path, "replicate")
    primary = await cluster.add_primary()
    replica = await cluster.add_replica(replication_token=token["token"])
    await cluster.create()
    await primary.run("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    await cluster.equal()
    shown: Any = primary.node.status()["replicas"]
    assert shown[0]["link"] == "sealed"
    count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
    await primary.run(f"{count} INSERT INTO t SELECT randomblob(4000) FROM n")  # several parts
    await cluster.equal()
    assert state_of(replica) is ReceiverState.FOLLOWING


@pytest.mark.parametrize("scopes", [(), ("read",), ("admin",), ("edit", "read")], ids=str)
async def test_replica_without_the_right_token_gets_nothing(
    cluster: Cluster, tmp_path: Path, scopes: tuple[str, ...]
) -> None:
    await made(tmp_path, "admin")
    text = (await made(tmp_path, *scopes))["token"] if scopes else None
    await cluster.add_primary()
    replica = await cluster.add_replica(replication_token=text)
    assert "token create --scope replicate" in await refused(replica)
    assert replica.replica._catalog_database is None
    assert replica.link.from_primary_bytes < 1000


async def test_token_nobody_knows_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    await made(tmp_path, "replicate")
    await cluster.add_primary()
    replica = await cluster.add_replica(replication_token=new_text())
    assert "no live token" in await refused(replica)


async def test_replica_with_a_token_wants_a_primary_that_knows_it(cluster: Cluster) -> None:
    """An open primary takes everybody, but it may be an impostor: it has no tokens."""
    await cluster.add_primary()
    replica = await cluster.add_replica(replication_token=new_text())
    assert "no live token" in await refused(replica)
    assert replica.replica._catalog_database is None


async def test_revoked_replica_is_cut_off(cluster: Cluster, tmp_path: Path) -> None:
    token = await made(tmp_path, "replicate")
    primary = await cluster.add_primary()
    replica = await cluster.add_replica(replication_token=token["token"])
    await cluster.create()
    await cluster.caught_up()
    await administer(primary, "token-revoke", token["id"])
    await settle()
    assert not [door for door in primary.primary._doors if door.is_welcome]  # at once
    assert "no live token" in await refused(replica)
    await primary.run("CREATE TABLE secret (a)")
    assert not replica.has_reached(primary.database().durable.seq)


async def test_expired_replica_is_cut_off(cluster: Cluster, tmp_path: Path) -> None:
    token = await made(tmp_path, "replicate", expires_in_s=2.0)
    await cluster.add_primary()
    replica = await cluster.add_replica(replication_token=token["token"])
    await until(lambda: state_of(replica) is ReceiverState.FOLLOWING, "the link")
    assert "no live token" in await refused(replica)


async def test_first_token_ends_the_links_of_replicas_without(cluster: Cluster) -> None:
    primary = await cluster.add_primary()
    replica = await cluster.add_replica()
    await cluster.create()
    await cluster.caught_up()
    answer = await administer(primary, "token-create", body={"name": "first", "scopes": ["admin"]})
    assert b"restarted with --replication-token" in answer.body
    assert replica.name.encode() in answer.body
    assert "asks for an access token" in await refused(replica)


async def test_link_secret_makes_a_replica_of_who_knows_it(cluster: Cluster) -> None:
    """Before there are tokens, when the first one is made, and after; of nobody else."""
    secret = new_text()
    primary = await cluster.add_primary(link_secret=secret)
    replica = await cluster.add_replica(link_secret=secret)
    await cluster.create()
    await cluster.caught_up()
    assert is_open(replica)
    answer = await administer(primary, "token-create", body={"name": "first", "scopes": ["admin"]})
    assert b"--replication-token" not in answer.body
    await primary.run("CREATE TABLE t (a)")
    await cluster.equal()
    assert state_of(replica) is ReceiverState.FOLLOWING
    assert not is_open(replica)
    with pytest.raises(NotAdmitted):
        primary.primary.access.admit(f"Bearer {secret}")
    shown: Any = primary.node.status()["replicas"]
    assert shown[0]["link"] == "sealed"
    stranger = await cluster.add_replica(link_secret=new_text())
    assert "no live token" in await refused(stranger)


async def test_first_token_is_told_to_who_made_it_through_a_replica(cluster: Cluster) -> None:
    """The link ends because of it, but not before its text is through."""
    await cluster.add_primary()
    replica = await cluster.add_replica()
    await cluster.create()
    await cluster.caught_up()
    replica.grant = replica.replica.access.admit(None)  # of an open node
    answer = await administer(replica, "token-create", body={"name": "first", "scopes": ["admin"]})
    assert json.loads(answer.body)["result"]["token"].startswith("d1s_")
    await refused(replica)


async def test_first_token_must_be_an_admin_s(cluster: Cluster) -> None:
    primary = await cluster.add_primary()
    primary.grant = primary.primary.access.admit(None)
    for scopes in (["read"], ["replicate"]):
        reply = await primary.administer("token-create", body={"name": "x", "scopes": scopes})
        assert reply.status == 400
        assert "admin" in reply.message


async def test_primary_decides_again(cluster: Cluster, tmp_path: Path) -> None:
    """Method: a replica that lets everybody in, with callers it has made up."""
    replicate = await made(tmp_path, "replicate")
    reader = await made(tmp_path, "read")
    primary = await cluster.add_primary()
    replica = await cluster.add_replica(replication_token=replicate["token"])
    await cluster.create()
    await primary.run("CREATE TABLE t (a)")
    await cluster.caught_up()
    for caller, statuses in (
        ("", (401, 401)),
        ("0123456789abcdef", (401, 401)),
        (reader["id"], (200, 403)),
        (replicate["id"], (403, 403)),
    ):
        replica.grant = Grant(caller, Level.ADMIN)
        read = await replica.sql("SELECT 1")
        written = await replica.sql("INSERT INTO t VALUES (1)")
        assert (read.status, written.status) == statuses, (caller, read, written)
        constraint = primary.database().durable.text
        asked = Forward(0, BOOKMARK_OP, "shop", b"", constraint=constraint, caller=caller)
        judged = await replica.replica._receiver.forwarder.ask(asked, timeout_s=5)
        assert judged.status == statuses[0]
        listed = await replica.administer("token-list")
        assert listed.status in (401, 403)
        asked_costs = AdminRequest(
            op="graphql", database="", body=b'{"query":"{viewer}"}', hops=0, grant=replica.grant
        )
        assert (await replica.node.administer(asked_costs)).status == statuses[0]
    replica.grant = Grant(reader["id"], Level.ADMIN)
    await administer(primary, "token-revoke", reader["id"])
    assert (await replica.sql("SELECT 1")).status == 401


async def test_last_use_on_a_replica_is_shown_everywhere(cluster: Cluster, tmp_path: Path) -> None:
    replicate = await made(tmp_path, "replicate")
    reader = await made(tmp_path, "read")
    primary = await cluster.add_primary()
    replica = await cluster.add_replica(replication_token=replicate["token"])
    await until(lambda: any(replica.replica.access.tokens), "the tokens")
    replica.replica.access.admit(f"Bearer {reader['token']}")
    uses = replica.replica.access.untold_uses()
    assert list(uses) == [reader["id"]]
    await replica.replica._tell_uses({**uses, "0123456789abcdef": 1.0, replicate["id"]: 1e12})
    shown = {
        one["id"]: one["last_used_at"]
        for one in json.loads((await administer(primary, "token-list")).body)["result"]
    }
    assert shown[reader["id"]] is not None
    assert shown[replicate["id"]].startswith("20")  # not in the year 33658
    await until(lambda: not replica.replica.access.untold_uses(), "the news of it")


async def test_revocation_is_answered_when_the_replica_has_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Method: nothing reaches the replica for a while; the answer waits, and then holds there."""
    replicate = await made(tmp_path, "replicate")
    reader = await made(tmp_path, "read")
    primary = await cluster.add_primary()
    replica = await cluster.add_replica(replication_token=replicate["token"])
    await until(lambda: any(replica.replica.access.tokens), "the tokens")
    with replica.link.held(to_primary=False):
        revoking = asyncio.create_task(administer(primary, "token-revoke", reader["id"]))
        await until(lambda: not _is_live(primary, reader), "the commit")
        await settle()
        assert not revoking.done()
        assert _is_live(replica, reader)
    await revoking
    assert not _is_live(replica, reader)


def _is_live(node: NodeUnderTest, token: dict[str, Any]) -> bool:
    with contextlib.suppress(NotAdmitted):
        return node.node.access.admit(f"Bearer {token['token']}").level > Level.NONE
    return False


# --- somebody in between


@asynccontextmanager
async def in_between(cluster: Cluster, tmp_path: Path) -> AsyncIterator[tuple[Any, NodeUnderTest]]:
    """A cluster whose one replica has the right token, and its relay."""
    token = await made(tmp_path, "replicate")
    await cluster.add_primary()
    replica = await cluster.add_replica(starts=False, replication_token=token["token"])
    yield replica.link, replica


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@asynccontextmanager
async def meddling(
    target: tuple[str, int], change: Callable[[bytes], list[bytes]]
) -> AsyncIterator[tuple[str, int]]:
    """A relay that hands every whole frame of the primary's to `change`; where it listens."""
    writers: list[asyncio.StreamWriter] = []

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_down: bool) -> None:
        try:
            while True:
                head = await source.readexactly(8)
                payload = await source.readexactly(int.from_bytes(head[:4], "little"))
                for frame in change(payload) if is_down else [payload]:
                    sink.write(encode_frame(frame))
        except (asyncio.IncompleteReadError, OSError):
            sink.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*target)
        writers.extend((writer, up_writer))
        await asyncio.gather(pump(reader, up_writer, False), pump(up_reader, writer, True))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield host, port
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await settle()


@asynccontextmanager
async def impostor(on_hello: Callable[[PeerLink], None]) -> AsyncIterator["Impostor"]:
    """Somebody who plays the primary."""
    played = Impostor(on_hello)
    server = await listen("127.0.0.1", 0, played.welcome)
    played.address = server.sockets[0].getsockname()[:2]
    try:
        yield played
    finally:
        server.close()
        for link in played.links:
            link.abort("the test ends")
        await settle()


class Impostor:
    """Answers every Hello as it is told, and keeps the proofs that it gets."""

    address: tuple[str, int]

    def __init__(self, on_hello: Callable[[PeerLink], None]) -> None:
        self.links: list[PeerLink] = []
        self.proofs: list[Message] = []
        self._on_hello = on_hello

    def welcome(self, link: PeerLink) -> None:
        def on_message(message: Message) -> None:
            if isinstance(message, Proof):
                self.proofs.append(message)
            if isinstance(message, Hello):
                self._on_hello(link)

        self.links.append(link)
        link.on_message = on_message


class Meddler:
    """Lets the greeting through and changes one frame of what follows."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.seen = 0
        self.changed = 0

    def __call__(self, payload: bytes) -> list[bytes]:
        self.seen += 1
        if self.seen <= 2 or self.changed:  # Challenge, Welcome
            return [payload]
        self.changed = 1
        return {
            "change": [flipped(payload, len(payload) // 2)],
            "drop": [],
            "repeat": [payload, payload],
            "add": [_goodbye(), payload],
        }[self.how]


def _goodbye() -> bytes:
    return encode_message(Goodbye("go away")) + bytes(16)


@pytest.mark.parametrize("how", ["change", "drop", "repeat", "add"])
async def test_meddler_ends_the_link_and_changes_nothing(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    """Method: a relay that knows the protocol (frames with right checks) but not the token."""
    async with in_between(cluster, tmp_path) as (relay, replica):
        meddler = Meddler(how)
        target = cluster.primary.primary.replication_address
        async with meddling(target, meddler) as address:
            relay.aim(*address)
            await replica.start()
            await until(lambda: relay.connections >= 2, "a second link")
            assert meddler.changed
            relay.aim(*target)
        await cluster.create()
        await cluster.primary.run("CREATE TABLE t (a)")
        await cluster.equal()


async def test_impostor_who_replays_gets_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """Method: what a real primary has said on one link, said again on the next."""
    token = await made(tmp_path, "replicate")
    await cluster.add_primary()
    replica = await cluster.add_replica(replication_token=token["token"])
    await until(lambda: state_of(replica) is ReceiverState.FOLLOWING, "the link")
    heard: list[bytes] = []
    await replica.stop()

    def keep(payload: bytes) -> list[bytes]:
        heard.append(payload)
        return [payload]

    async with meddling(cluster.primary.primary.replication_address, keep) as address:
        replica.link.aim(*address)
        await replica.start()
        await until(lambda: len(heard) >= 3, "a recording")
        await replica.stop()

    def replay(link: PeerLink) -> None:
        assert link._transport is not None
        link._transport.writelines([encode_frame(payload) for payload in heard])

    async with impostor(replay) as played:
        replica.link.aim(*played.address)
        await replica.start()
        assert "does not know this replica's token" in await refused(replica)
        assert not played.proofs  # and it got nothing to play the replica with
        await replica.stop()


@pytest.mark.parametrize("first", ["welcome", "commits", "wrong challenge", "challenge twice"])
async def test_impostor_without_a_recording_gets_nothing(
    cluster: Cluster, tmp_path: Path, first: str
) -> None:
    async with in_between(cluster, tmp_path) as (relay, replica):
        said: dict[str, list[Message]] = {
            "welcome": [Welcome(PROTOCOL_VERSION, "c", "n", "r", "")],
            "commits": [Commits(b"u" * 16, [b"x"])],
            "wrong challenge": [Challenge(b"n" * 32, b"p" * 32), Welcome(1, "c", "n", "r", "")],
            "challenge twice": [Challenge(b"", b""), Challenge(b"", b"")],
        }

        def say(link: PeerLink) -> None:
            for message in said[first]:
                link.send(message)

        async with impostor(say) as played:
            relay.aim(*played.address)
            await replica.start()
            await refused(replica)
            assert replica.replica._catalog_database is None
            await replica.stop()


async def test_primary_that_speaks_another_version_is_not_followed(cluster: Cluster) -> None:
    await cluster.add_primary()
    replica = await cluster.add_replica(starts=False)

    def say(link: PeerLink) -> None:
        link.send(Welcome(PROTOCOL_VERSION + 1, "c", "n", "r", ""))

    async with impostor(say) as played:
        replica.link.aim(*played.address)
        await replica.start()
        assert f"version {PROTOCOL_VERSION + 1}" in await refused(replica)
        assert replica.replica._catalog_database is None
        await replica.stop()


async def test_impostor_cannot_touch_what_a_replica_has(cluster: Cluster, tmp_path: Path) -> None:
    """What comes before the welcome is not taken for commits: the databases are served on."""
    async with in_between(cluster, tmp_path) as (relay, replica):
        await replica.start()
        assert (await administer(cluster.primary, "create", "", {"name": "shop"})).status == 200
        await until(lambda: replica.replica.find("shop") is not None, "the new database")
        database = replica.database()
        await until(lambda: database.durable.seq > 0, "its first commit")

        def say(link: PeerLink) -> None:
            link.send(Commits(database.uuid, [b"x"]))

        async with impostor(say) as played:
            relay.aim(*played.address)
            relay.break_connections()
            await refused(replica)
            assert database.problem == ""
            await replica.stop()


# --- strangers at the primary's door


async def said_to(address: tuple[str, int], *payloads: bytes) -> list[Message]:
    """What the primary answers to these frames, until it closes or is silent."""
    reader, writer = await asyncio.open_connection(*address)
    writer.writelines([encode_frame(payload) for payload in payloads])
    decoder, found = FrameDecoder(), []
    try:
        async with asyncio.timeout(0.7):
            while data := await reader.read(65536):
                found += [decode_message(payload) for payload in decoder.feed(data)]
    except TimeoutError:
        found.append(Refuse("silence"))
    finally:
        await closed(writer)
    return found


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_stranger_at_the_link_learns_nothing(cluster: Cluster, tmp_path: Path) -> None:
    token = await made(tmp_path, "replicate")
    primary = await cluster.add_primary()
    address = primary.primary.replication_address
    cluster_name = primary.primary.identity[0]
    hello = Hello(PROTOCOL_VERSION, "", "stranger", "WEUR", "http://x")
    known = Hello(PROTOCOL_VERSION, "", "stranger", "WEUR", "http://x", token["id"], b"n" * 32)
    weak = Hello(PROTOCOL_VERSION, "", "stranger", "WEUR", "http://x", token["id"], b"")
    forward = Forward(1, "token-list", "", b"")
    said: list[list[Message]] = [
        [hello],
        [weak],
        [hello, Follow([])],
        [forward],
        [known, forward],
        [known, Proof(b"p" * 32)],
        [known, known],
        [Hello(PROTOCOL_VERSION, "", "a\nb", "WEUR", "http://x")],
    ]
    for messages in said:
        answers = await said_to(address, *(encode_message(one) for one in messages))
        assert all(isinstance(one, Challenge | Refuse) for one in answers), answers
        assert not any(cluster_name in str(one) for one in answers)
    assert not [door for door in primary.primary._doors if door.is_welcome]


async def test_replica_of_another_cluster_is_refused(cluster: Cluster) -> None:
    """It would drop what it has for what is here."""
    await cluster.add_primary()
    address = cluster.primary.primary.replication_address
    for belongs, answer in (("another", Refuse), ("", Welcome)):
        hello = Hello(PROTOCOL_VERSION, belongs, "replica-x", "WEUR", "")
        said = await said_to(address, encode_message(hello))
        assert isinstance(said[0], answer), said
        assert answer is Welcome or "belongs to the cluster another" in str(said[0])


async def test_stranger_cannot_fill_the_memory(cluster: Cluster, tmp_path: Path) -> None:
    """A frame that says it is long is refused before it is read."""
    await made(tmp_path, "replicate")
    primary = await cluster.add_primary()
    reader, writer = await asyncio.open_connection(*primary.primary.replication_address)
    writer.write((1024 * 1024).to_bytes(4, "little") + bytes(4))
    async with asyncio.timeout(EVENT_S_MAX):
        assert await reader.read() == b""
    await closed(writer)


async def test_strangers_do_not_fill_the_log(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends nonsense again and again is told of a few times."""
    monkeypatch.setattr(failures, "_PER_S", 1e-6)  # whatever time the sixty take
    primary = await cluster.add_primary()
    caplog.set_level(logging.INFO)
    for number in range(60):
        reader, writer = await asyncio.open_connection(*primary.primary.replication_address)
        writer.write(bytes([number]) * 40)
        async with asyncio.timeout(EVENT_S_MAX):
            assert await reader.read() == b""
        await closed(writer)
    await until(lambda: not primary.primary._doors, "their leaving")
    told = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert 10 < len(told) < 35
    assert sum("no replicas" in record.getMessage() for record in told) == 1


async def test_strangers_are_not_many(cluster: Cluster, tmp_path: Path) -> None:
    primary = await cluster.add_primary()
    links = [await asyncio.open_connection(*primary.primary.replication_address) for _ in range(80)]
    await until(lambda: len(primary.primary._doors) >= 64, "doors")
    await settle()
    assert len(primary.primary._doors) <= 64
    # One of ours comes in all the same: who came first and said nothing has to leave.
    known = await cluster.add_replica()
    await until(lambda: state_of(known) is ReceiverState.FOLLOWING, "the link")
    for _, writer in links:
        await closed(writer)
    await until(lambda: len(primary.primary._doors) == 1, "their leaving")
