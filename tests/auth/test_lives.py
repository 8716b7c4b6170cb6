"""The life of a token: made, used, expired, revoked; on every node, on open connections."""

import threading
import time

import pytest

from tests.auth.guarded_cluster import Caller, GuardedCluster
from tests.waiting import EVENT_S_MAX

LIFE_S = 0.5


def last_taken(caller: Caller, *, chunked: bool = False) -> float:
    """Ask on the same connection until the token is not taken any more; when it was last sent."""
    ends = time.monotonic() + EVENT_S_MAX
    last = 0.0
    while time.monotonic() < ends:
        began = time.monotonic()
        answer = caller.call("POST", "/db/shop/query", {"sql": "SELECT 1"}, chunked=chunked)
        if answer.status == 401:
            return last
        assert answer.status == 200, answer
        last = began
        time.sleep(0.01)
    raise AssertionError("the token is still taken")


@pytest.mark.parametrize("node", ["primary", "replica"])
@pytest.mark.parametrize("chunked", [False, True], ids=["fast path", "aiohttp"])
@pytest.mark.parametrize("wish", ["first-unconstrained", "first-primary"])
def test_revocation_holds_everywhere_when_it_is_answered(
    guarded: GuardedCluster, node: str, chunked: bool, wish: str
) -> None:
    """Method: a keep-alive connection that has just been served; the very next request."""
    guarded.make_token("doomed", "edit")
    headers = {"x-d1-bookmark": wish}
    body = {"sql": "SELECT 1"}
    with guarded.caller(node, "doomed") as caller:
        for _ in range(3):
            answer = caller.call("POST", "/db/shop/query", body, headers=headers, chunked=chunked)
            assert answer.status == 200
        guarded.revoke("doomed")
        answer = caller.call("POST", "/db/shop/query", body, headers=headers, chunked=chunked)
        assert answer.status == 401
        caller.token = guarded.tokens["read"]
        assert caller.query("SELECT 1").status == 200  # the connection itself did nothing wrong


@pytest.mark.parametrize("node", ["primary", "replica"])
def test_new_token_is_taken_everywhere_when_it_is_answered(
    guarded: GuardedCluster, node: str
) -> None:
    for number in range(10):
        guarded.make_token(f"fresh {number}", "read")
        with guarded.caller(node, f"fresh {number}") as caller:
            assert caller.query("SELECT 1", x_d1_bookmark="first-unconstrained").status == 200


@pytest.mark.parametrize("node", ["primary", "replica"])
@pytest.mark.parametrize("chunked", [False, True], ids=["fast path", "aiohttp"])
def test_expiry_ends_an_open_connection_s_right(
    guarded: GuardedCluster, node: str, chunked: bool
) -> None:
    """Method: no request that is sent after the token's time is served, on the same connection."""
    guarded.make_token("brief", "read", expires_in_s=LIFE_S)
    made = time.monotonic()
    with guarded.caller(node, "brief") as caller:
        assert last_taken(caller, chunked=chunked) <= made + LIFE_S


def test_only_the_token_named_is_revoked(guarded: GuardedCluster) -> None:
    guarded.make_token("one", "read")
    guarded.make_token("two", "read")
    guarded.revoke("one")
    guarded.revoke("one")  # again does no harm
    with guarded.caller(kind="two") as caller:
        assert caller.query("SELECT 1").status == 200
    with guarded.caller(kind="one") as caller:
        assert caller.query("SELECT 1").status == 401
    with guarded.caller(kind="admin") as admin:
        assert admin.call("DELETE", "/tokens/0123456789abcdef").status == 404


def test_revocation_under_load_lets_nothing_through_later(guarded: GuardedCluster) -> None:
    """Method: eight connections on both nodes in a loop; none is served after the answer."""
    guarded.make_token("busy", "read")
    revoked_at: list[float] = []
    late: list[float] = []

    def use(node: str) -> None:
        with guarded.caller(node, "busy") as caller:
            while True:
                began = time.monotonic()
                answer = caller.query("SELECT 1", x_d1_bookmark="first-unconstrained")
                if answer.status != 200:
                    assert answer.status == 401
                    return
                if revoked_at and began > revoked_at[0]:
                    late.append(began)
                    return

    users = [threading.Thread(target=use, args=(node,)) for node in guarded.nodes for _ in range(4)]
    for user in users:
        user.start()
    time.sleep(0.2)
    guarded.revoke("busy")
    revoked_at.append(time.monotonic())
    for user in users:
        user.join(EVENT_S_MAX)
        assert not user.is_alive()
    assert not late


def test_admin_may_revoke_its_own_token_and_is_out(guarded: GuardedCluster) -> None:
    guarded.make_token("second admin", "admin")
    with guarded.caller(kind="second admin") as admin:
        key = guarded.ids["second admin"]
        assert admin.call("DELETE", f"/tokens/{key}").status == 200
        assert admin.call("GET", "/tokens").status == 401


def test_deleted_database_s_token_is_not_for_its_successor(guarded: GuardedCluster) -> None:
    """A token is for a database, not for a name that another one may take."""
    with guarded.caller(kind="admin") as admin:
        assert admin.call("POST", "/db", {"name": "again"}).status == 200
        guarded.make_token("of the first", "edit", databases=["again"])
        with guarded.caller(kind="of the first") as caller:
            assert caller.query("SELECT 1", db="again").status == 200
            assert admin.call("DELETE", "/db/again").status == 200
            assert admin.call("POST", "/db", {"name": "again"}).status == 200
            for node in guarded.nodes:
                with guarded.caller(node, "of the first") as late:
                    assert late.query("SELECT 1", db="again").status == 403
