"""Every door of both nodes: who is let in, and what they are told who are not."""

import socket

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from d1server.metrics import HttpMeter
from d1server.transfers.signing import SIGNED_PREFIX
from d1server.web.admission import OPEN_ROUTES, Admission, Refused
from d1server.web.app import open_app
from d1server.web.front import Front
from d1server.web.limits import HttpLimits
from tests.auth.guarded_cluster import Answer, Caller, GuardedCluster
from tests.waiting import EVENT_S_MAX
from tests.web.memory_node import MemoryNode

REST = "/client/v4/accounts/a/d1/database"
SELECT = {"sql": "SELECT 1"}
FILLED = {"name": "shop", "database": "shop", "account": "a", "file": "f", "id": "i"}
BAD = (None, "garbage", "unknown", "expired", "revoked")


def routes_served() -> list[tuple[str, str]]:
    """(method, path) of everything that the application serves, names filled in."""
    node = MemoryNode()
    front = Front(node, Admission(node.access, open_metrics=False), HttpLimits(), HttpMeter())
    app = open_app(node, front, [])
    node.close()
    found = []
    for route in app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        for name, value in FILLED.items():
            path = path.replace("{" + name + "}", value)
        found.append(("POST" if route.method == "*" else route.method, path))
    return sorted(set(found))


def is_open(path: str) -> bool:
    return path.rstrip("/") in OPEN_ROUTES or path.startswith(SIGNED_PREFIX)


ASKED = [(method, path) for method, path in routes_served() if not is_open(path)]


def test_all_doors_are_known() -> None:
    """The list below is the application's own: what is added later is tried, too."""
    assert len(ASKED) > 40
    assert ("POST", "/db/shop/query") in ASKED
    assert ("DELETE", "/tokens/shop") in ASKED or ("DELETE", "/tokens/i") in ASKED
    assert ("POST", REST + "/shop/raw") in ASKED


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("node", ["primary", "replica"])
def test_no_door_opens_without_a_live_token(
    guarded: GuardedCluster, node: str, kind: str | None
) -> None:
    """Method: every route of the application, on a connection and an address of its own."""
    told = set()
    for method, path in ASKED:
        with guarded.caller(node, kind) as caller:
            answer = caller.call(method, path, SELECT if method == "POST" else None)
        assert answer.status == 401, (method, path, answer)
        assert answer.headers["www-authenticate"] == 'Bearer realm="d1server"'
        if method != "HEAD" and "error" not in answer.json:
            assert answer.code == 10000, (method, path)
            told.add(answer.message)
    assert len(told) == 1  # nobody learns what is wrong with a token


@pytest.mark.parametrize("node", ["primary", "replica"])
@pytest.mark.parametrize("chunked", [False, True], ids=["fast path", "aiohttp"])
def test_both_ways_in_ask_for_a_token(guarded: GuardedCluster, node: str, chunked: bool) -> None:
    for kind, status in ((None, 401), ("expired", 401), ("revoked", 401), ("read", 200)):
        with guarded.caller(node, kind) as caller:
            answer = caller.call("POST", "/db/shop/query", SELECT, chunked=chunked)
        assert answer.status == status, (kind, answer)


def test_unknown_paths_and_methods_tell_nothing_without_a_token(guarded: GuardedCluster) -> None:
    for method, path in (("GET", "/nothing"), ("PUT", "/db/shop"), ("GET", "/db/none")):
        with guarded.caller() as stranger, guarded.caller(kind="read") as reader:
            assert stranger.call(method, path).status == 401
            assert reader.call(method, path).status in (403, 404, 405)


@pytest.mark.parametrize(("kind", "first"), [(None, b"401"), ("read", b"100")])
def test_body_is_not_asked_for_from_a_stranger(
    guarded: GuardedCluster, kind: str | None, first: bytes
) -> None:
    """Method: a head alone, and the status of what it is answered with."""
    head = "POST /db HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n"
    if kind is not None:
        head += f"Authorization: Bearer {guarded.tokens[kind]}\r\n"
    with socket.create_connection(guarded.primary, timeout=EVENT_S_MAX) as raw:
        raw.sendall(f"{head}\r\n".encode())
        assert raw.recv(4096).split(b" ")[1] == first


@pytest.mark.parametrize("path", sorted(OPEN_ROUTES))
def test_probes_need_no_token(guarded: GuardedCluster, path: str) -> None:
    for node in guarded.nodes:
        with guarded.caller(node) as probe:
            answer = probe.call("GET", path + "?verbose")
        assert answer.status == 200
        if "openapi" not in path:  # whose examples are about a shop on every node
            assert b"shop" not in answer.body  # names are for those who have a token
    with guarded.caller("primary", "read") as known:
        assert b"shop" in known.call("GET", "/readyz?verbose").body


def test_signed_url_is_its_own_token_and_nothing_more(guarded: GuardedCluster) -> None:
    """Method: an export's URL without a token, and every part of it changed."""
    asked = {"output_format": "polling", "dump_options": {}}
    with guarded.caller(kind="read") as reader:
        answer = reader.call("POST", REST + "/shop/export", asked)
        while (result := answer.json["result"])["status"] != "complete":
            assert result["status"] == "active", answer
            again = {**asked, "current_bookmark": result["at_bookmark"]}
            answer = reader.call("POST", REST + "/shop/export", again)
    url = result["result"]["signed_url"]
    path = url[url.index(SIGNED_PREFIX) :]
    with guarded.caller() as stranger:
        assert b"CREATE TABLE t" in stranger.call("GET", path).body
        for changed in (path[:-1], path + "0", path.split("?")[0], path.replace("expires=", "e=")):
            assert stranger.call("GET", changed).status in (400, 403, 404)
        assert stranger.call("GET", SIGNED_PREFIX + "../db/shop").status in (400, 401, 403, 404)


@pytest.mark.parametrize("name", ["X-Auth-Email", "X-Auth-Key", "X-Auth-User-Service-Key"])
@pytest.mark.parametrize("chunked", [False, True], ids=["fast path", "aiohttp"])
def test_legacy_keys_are_refused_with_a_way_out(
    guarded: GuardedCluster, name: str, chunked: bool
) -> None:
    with guarded.caller() as caller:
        answer = caller.call("POST", "/db/shop/query", SELECT, headers={name: "k"}, chunked=chunked)
    assert (answer.status, answer.code) == (401, 10000)
    assert "d1server token create" in answer.message
    with guarded.caller(kind="read") as caller:  # some clients send both: the token counts
        assert caller.call("POST", "/db/shop/query", SELECT, headers={name: "k"}).status == 200


def sent(guarded: GuardedCluster, *authorizations: str, path: str = "/db/shop/query") -> Answer:
    """Ask with exactly these Authorization headers."""
    caller = Caller(guarded.primary)
    http = caller._http
    http.putrequest("POST", path)
    for value in authorizations:
        http.putheader("Authorization", value)
    body = b'{"sql": "SELECT 1"}'
    http.putheader("Content-Length", str(len(body)))
    http.endheaders(body)
    response = http.getresponse()
    answer = Answer(response.status, dict(response.getheaders()), response.read())
    caller.close()
    return answer


def test_forms_of_the_header(guarded: GuardedCluster) -> None:
    token = guarded.tokens["read"]
    for good in (f"Bearer {token}", f"bearer {token}", f"BEARER   {token} "):
        assert sent(guarded, good).status == 200, good
    bad = ("", "Bearer", "Bearer ", token, f"Basic {token}", f"Bearer {token} x", "Bearer  \xe9")
    for text in (*bad, f"Bearer {token}" + "x" * 600, f"Bearer {token[:-1]}", f"Bearer {token}="):
        assert sent(guarded, text).status == 401, text
    assert sent(guarded, f"Bearer {token}", f"Bearer {token}").status == 400
    assert sent(guarded, f"Bearer {token}", "Bearer x").status == 400
    assert sent(guarded, path=f"/db/shop/query?token={token}").status == 401


def test_stranger_is_slowed_down_and_the_others_are_not(guarded: GuardedCluster) -> None:
    """A token counts whatever else came from the address: a proxy has one for everybody."""
    with guarded.caller(kind="garbage") as caller:
        statuses = [caller.query("SELECT 1").status for _ in range(30)]
        assert statuses[:20] == [401] * 20
        assert statuses[-1] == 429
        refused = caller.query("SELECT 1")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["connection"] == "close"
        caller.token = guarded.tokens["read"]
        assert caller.query("SELECT 1").status == 200


def test_page_of_another_site_cannot_use_an_open_node() -> None:
    """A browser sends a page's requests to loopback, too, and says which page it was."""
    node = MemoryNode()
    admission = Admission(node.access, open_metrics=False)
    for origin, is_welcome in (
        ("http://127.0.0.1:3000", True),
        ("http://localhost:3000", True),
        ("http://[::1]:3000", True),
        ("https://shop.example", False),
        ("null", False),
        ("http://localhost.example", False),
        ("http://[", False),
    ):
        given = CIMultiDictProxy(CIMultiDict({"Origin": origin}))
        try:
            admission._admit_headers(given, "127.0.0.1")
            status = 200
        except Refused as exc:
            status = exc.answer.status
        assert status == (200 if is_welcome else 403), origin
    node.close()
