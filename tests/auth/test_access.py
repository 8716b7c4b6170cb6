"""The rules of access as pure values: tokens, grants, rows, permissions, addresses."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest

from d1server.access.exposure import NodeExposed, check_exposure, is_loopback, may_be_open
from d1server.access.grants import (
    EVERYTHING,
    NEVER,
    NOBODY,
    Access,
    AccessToken,
    Grant,
    Level,
    NotAdmitted,
    Scope,
    bearer_text,
    hash_of,
    id_of,
    new_text,
)
from d1server.access.permissions import refuse_operation, refuse_read, refuse_write
from d1server.access.token_table import SELECT_TOKENS, insert_token, note_uses, read_tokens
from d1server.config import Address, ConfigInvalid, NodeConfig, Role, parse_access_token, resolve
from d1server.query import ADMIN_OPS, INSIGHT_OPS
from d1server.web.failures import FailureBook
from proto.api import SqlValue, StatementResult

SHOP, OTHER = b"s" * 16, b"o" * 16
TEXT = new_text()


def token(*scopes: Scope, text: str = TEXT, **more: object) -> AccessToken:
    values: dict[str, object] = {
        "id": id_of(text),
        "name": "n",
        "hash": hash_of(text),
        "scopes": frozenset(scopes),
        "databases": None,
        "created_at": 0.0,
        **more,
    }
    return AccessToken(**values)  # type: ignore[arg-type]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admitted(access: Access, text: str = TEXT) -> Grant:
    return access.admit(f"Bearer {text}")


def test_tokens_are_long_random_and_recognisable() -> None:
    texts = {new_text() for _ in range(1000)}
    assert len(texts) == 1000
    assert all(text.startswith("d1s_") and len(text) == 47 for text in texts)


def test_id_says_nothing_about_the_hash() -> None:
    """The hash is the key of the link: an id must not be a piece of it."""
    assert id_of(TEXT) not in hash_of(TEXT).hex()
    assert bytes.fromhex(id_of(TEXT)) not in hash_of(TEXT)


def test_without_tokens_all_is_open_or_nothing() -> None:
    assert Access().admit(None).may_everywhere(Level.ADMIN)
    with pytest.raises(NotAdmitted):
        Access(may_be_open=False).admit(None)
    with pytest.raises(NotAdmitted):
        Access(may_be_open=False).admit_caller("")


def test_first_token_closes_the_node_for_good() -> None:
    """Whoever holds the grant of the open node loses it; an emptied table opens nothing."""
    access = Access()
    held = access.admit(None)
    era = access.era
    assert access.update([token(Scope.READ, revoked_at=1.0)])  # even one that is not live
    assert not held.may(Level.READ, SHOP)
    assert access.era is not era
    for _ in range(2):
        with pytest.raises(NotAdmitted):
            access.admit(None)
        with pytest.raises(NotAdmitted):
            access.admit_caller("")
        access.update([])


def test_revocation_takes_held_grants_away() -> None:
    access = Access()
    access.update([token(Scope.ADMIN)])
    grant, era = admitted(access), access.era
    assert grant.may_everywhere(Level.ADMIN)
    assert access.update([token(Scope.ADMIN, revoked_at=5.0)])
    assert not grant.may(Level.READ, SHOP)
    assert access.era is not era
    with pytest.raises(NotAdmitted):
        admitted(access)


def test_use_changes_nobody_s_rights() -> None:
    """Or every connection would resolve its token anew each minute."""
    access = Access()
    access.update([token(Scope.ADMIN)])
    grant, era = admitted(access), access.era
    assert not access.update([token(Scope.ADMIN, last_used_at=7.0)])
    assert access.era is era
    assert admitted(access) is grant
    assert access.update([token(Scope.ADMIN, expires_at=9e9)])
    assert access.era is not era


def test_expiry_is_exact() -> None:
    clock = Clock()
    access = Access(clock=clock)
    access.update([token(Scope.READ, expires_at=1010.0)])
    grant = admitted(access)
    clock.now = 1009.999
    assert not access.is_expired(grant)
    clock.now = 1010.0
    assert access.is_expired(grant)
    with pytest.raises(NotAdmitted):
        admitted(access)
    with pytest.raises(NotAdmitted):
        access.admit_caller(grant.caller)


def test_same_id_with_another_hash_is_not_admitted() -> None:
    """The id finds the row; the hash decides."""
    access = Access()
    access.update([token(Scope.ADMIN, hash=hash_of("another"))])
    with pytest.raises(NotAdmitted):
        admitted(access)


@pytest.mark.parametrize(
    ("scopes", "level"),
    [
        ((), Level.NONE),
        ((Scope.READ,), Level.READ),
        ((Scope.EDIT,), Level.EDIT),
        ((Scope.ADMIN,), Level.ADMIN),
        ((Scope.REPLICATE,), Level.NONE),
        ((Scope.READ, Scope.REPLICATE), Level.READ),
        ((Scope.READ, Scope.ADMIN), Level.ADMIN),
    ],
)
def test_level_is_the_highest_scope_s(scopes: tuple[Scope, ...], level: Level) -> None:
    assert token(*scopes).level is level


def test_only_replicate_opens_the_link() -> None:
    clock = Clock()
    access = Access(clock=clock)
    key = id_of(TEXT)
    for live in (token(Scope.REPLICATE), token(Scope.REPLICATE, Scope.READ)):
        access.update([live])
        assert access.link_key(key) == hash_of(TEXT)
    for other in (
        token(Scope.ADMIN),
        token(Scope.REPLICATE, expires_at=clock.now),
        token(Scope.REPLICATE, revoked_at=1.0),
    ):
        access.update([other])
        assert access.link_key(key) is None
    assert access.link_key("") is None


def test_uses_are_told_once_a_minute() -> None:
    clock = Clock()
    access = Access(clock=clock)
    access.update([token(Scope.READ)])
    assert access.untold_uses() == {}
    grant = admitted(access)
    assert access.untold_uses() == {grant.caller: 1000.0}
    access.update([token(Scope.READ, last_used_at=1000.0)])
    clock.now = 1059.0
    assert not access.is_expired(grant)
    assert access.untold_uses() == {}
    clock.now = 1060.0
    assert not access.is_expired(grant)
    assert access.untold_uses() == {grant.caller: 1060.0}


def rows_of(tokens: Iterable[AccessToken], **changes: SqlValue) -> StatementResult:
    """The table's rows, as `SELECT_TOKENS` finds them."""
    columns = (
        *("id", "name", "hash", "scopes", "databases", "created_at"),
        *("expires_at", "revoked_at", "last_used_at"),
    )
    rows = []
    for one in tokens:
        found = dict.fromkeys(columns) | dict(zip(columns, insert_token(one).params, strict=False))
        rows.append(tuple((found | changes).values()))
    return StatementResult(columns, rows, 0, 0, 0, 0, 0.0, False)


def test_rows_come_back_as_they_went() -> None:
    whole = token(Scope.READ, Scope.EDIT, databases=frozenset({SHOP, OTHER}), expires_at=1e9)
    plain = token(Scope.ADMIN, text="other")
    assert list(read_tokens(rows_of([whole, plain]))) == [whole, plain]
    assert "tokens" in SELECT_TOKENS.sql
    assert note_uses({"a": 1.0})[0].params == ("1970-01-01T00:00:01.000+00:00", "a")


@pytest.mark.parametrize(
    "changes",
    [
        {"hash": b"short"},
        {"hash": "text"},
        {"scopes": "no JSON"},
        {"scopes": None},
        {"databases": "[1]"},
        {"databases": '["no uuid"]'},
        {"expires_at": "no time"},
        {"created_at": 5},
    ],
    ids=str,
)
def test_row_that_cannot_be_read_grants_nothing_and_counts(changes: dict[str, SqlValue]) -> None:
    access = Access()
    access.update(read_tokens(rows_of([token(Scope.ADMIN)], **changes)))
    assert not access.is_open
    with pytest.raises(NotAdmitted):
        admitted(access)


def test_expiry_at_the_beginning_of_time_is_one() -> None:
    expired = rows_of([token(Scope.ADMIN)], expires_at="1970-01-01T00:00:00.000+00:00")
    access = Access()
    access.update(read_tokens(expired))
    with pytest.raises(NotAdmitted):
        admitted(access)


def test_scope_of_a_newer_program_grants_nothing_here() -> None:
    access = Access()
    access.update(read_tokens(rows_of([token()], scopes='["everything"]')))
    assert admitted(access).level is Level.NONE


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("Bearer abc", "abc"),
        ("bearer\tabc", None),
        (" Bearer  abc ", "abc"),
        ("Bearer", None),
        ("Basic abc", None),
        ("abc", None),
        ("", None),
        (None, None),
        ("Bearer \xe4", None),
        ("Bearer " + "x" * 600, None),
    ],
)
def test_bearer_header(header: str | None, text: str | None) -> None:
    assert bearer_text(header) == text


def test_operations_by_grant() -> None:
    """Every operation needs something, unknown ones the most."""
    for op in (*ADMIN_OPS, "unknown"):
        assert refuse_operation(op, NOBODY, SHOP) is not None
        assert refuse_operation(op, EVERYTHING, SHOP) is None
        reader = Grant("r", Level.READ)
        is_read = op in ("list", "info", "export", *INSIGHT_OPS)
        assert (refuse_operation(op, reader, SHOP) is None) is is_read, op
    editor = Grant("e", Level.EDIT, frozenset({SHOP}))
    assert refuse_operation("create", editor, None) is not None
    assert refuse_operation("delete", editor, SHOP) is not None
    assert refuse_operation("unknown", Grant("e", Level.EDIT), SHOP) is not None
    assert refuse_read(editor, SHOP) is None
    assert refuse_read(editor, OTHER) is not None
    assert refuse_read(editor, None) is not None  # one that does not exist, or not here
    assert refuse_read(Grant("e", Level.EDIT), None) is None
    assert refuse_write(editor, SHOP) is None
    assert refuse_write(editor, OTHER) is not None
    assert refuse_write(Grant("r", Level.READ), SHOP) is not None


@pytest.mark.parametrize(
    ("host", "is_near"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("127.0.0.1.example", False),
        ("localhost.example", False),
        ("", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_loopback(host: str, is_near: bool) -> None:
    assert is_loopback(Address(host, 1)) is is_near


NEAR, FAR = Address("127.0.0.1", 1), Address("10.0.0.1", 1)


def primary(listen: Address, replication: Address, **more: object) -> NodeConfig:
    given: dict[str, object] = {"listen": listen, "replication": replication, **more}
    return NodeConfig(role=Role.PRIMARY, data_dir=Path("d"), name="p", **given)  # type: ignore[arg-type]


def replica(listen: Address, dialled: Address, **more: object) -> NodeConfig:
    given: dict[str, object] = {"listen": listen, "primary": dialled, **more}
    return NodeConfig(role=Role.REPLICA, data_dir=Path("d"), name="r", **given)  # type: ignore[arg-type]


def is_allowed(config: NodeConfig, *, has_tokens: bool) -> bool:
    try:
        check_exposure(config, has_tokens=has_tokens)
    except NodeExposed as exc:
        return "--insecure" not in str(exc)  # which every refusal offers
    return True


def test_primary_others_reach_needs_tokens_or_a_word() -> None:
    for listen, link, has_tokens, insecure in itertools.product(
        (NEAR, FAR), (NEAR, FAR), (False, True), (False, True)
    ):
        config = primary(listen, link, insecure=insecure)
        is_near = listen is NEAR and link is NEAR
        wanted = is_near or has_tokens or insecure
        assert is_allowed(config, has_tokens=has_tokens) is wanted, config
        assert may_be_open(config) is (is_near or insecure)


def test_replica_needs_to_know_its_primary() -> None:
    """Tokens in its own folder are no reason to follow whoever answers."""
    for listen, dialled, has_tokens, known in itertools.product(
        (NEAR, FAR), (NEAR, FAR), (False, True), (False, True)
    ):
        config = replica(listen, dialled, replication_token="d1s_x" if known else None)
        wanted = known or (dialled is NEAR and (listen is NEAR or has_tokens))
        assert is_allowed(config, has_tokens=has_tokens) is wanted, config
        assert may_be_open(config) is (listen is NEAR and not known)
    assert is_allowed(replica(FAR, FAR, tls_ca=Path("ca")), has_tokens=False)
    assert is_allowed(replica(FAR, FAR, insecure=True), has_tokens=False)


def test_failures_are_counted_in_bounded_memory(caplog: pytest.LogCaptureFixture) -> None:
    book = FailureBook(addresses_max=8)
    for number in range(100):
        assert book.note(f"10.0.0.{number}", 0.0) == 0
    assert len(book) == 8
    waits = [book.note("10.1.1.1", 0.0) for _ in range(30)]
    assert waits[:20] == [0] * 20
    assert all(wait > 0 for wait in waits[20:])
    assert len(caplog.records) == 1  # an attack does not fill the log, too
    assert book.note("10.1.1.1", 60.0) == 0  # forgiven after a while
    # One customer has 2**64 of these.
    waits = [book.note(f"2001:db8:0:1::{number:x}", 0.0) for number in range(25)]
    assert waits[-1] > 0
    assert book.note("2001:db8:0:2::1", 0.0) == 0
    assert book.note("not an address", 0.0) == 0


def test_secrets_of_the_configuration_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TEXT + "\n")
    flags = {"data_dir": "d", "primary": "127.0.0.1:1", "replication_token": f"@{file}"}
    config = resolve(Role.REPLICA, flags=flags, env={}, file={})
    assert config.replication_token == TEXT
    assert TEXT not in repr(config)
    for bad in ("secret of another kind", f"@{tmp_path}/none", "d1s_a b", ""):
        with pytest.raises(ConfigInvalid) as caught:
            resolve(
                Role.REPLICA,
                flags={**flags, "replication_token": None},
                env={},
                file={"replication_token": bad},
            )
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigInvalid, match="no such setting"):
        resolve(
            Role.PRIMARY, flags={"data_dir": "d"}, env={"D1SERVER_REPLICATION_TOKEN": TEXT}, file={}
        )
    with pytest.raises(ConfigInvalid, match="--tls-key"):
        resolve(Role.PRIMARY, flags={"data_dir": "d", "tls_cert": "c"}, env={}, file={})
    assert parse_access_token(" token-of-another-kind ") == "token-of-another-kind"


def test_flags_of_a_file(tmp_path: Path) -> None:
    file = {"insecure": True, "open_metrics": "no", "data_dir": "d"}
    config = resolve(Role.PRIMARY, flags={}, env={"D1SERVER_INSECURE": "0"}, file=file)
    assert (config.insecure, config.open_metrics) == (False, False)
    with pytest.raises(ConfigInvalid, match="true or false"):
        resolve(Role.PRIMARY, flags={}, env={}, file={**file, "insecure": "perhaps"})


def test_grant_of_one_database() -> None:
    assert Grant("a", Level.READ, frozenset({SHOP})).only_database == SHOP
    assert Grant("a", Level.READ, frozenset({SHOP, OTHER})).only_database is None
    assert Grant("a", Level.READ).only_database is None
    assert not token(Scope.READ, expires_at=5.0).is_live(5.0)
    assert token(Scope.READ).expires_at == NEVER
