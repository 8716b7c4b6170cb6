"""The command line, against a node that answers what the test says, over a real socket."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from d1server.call import NodeConnection
from d1server.cli import command_line, loading
from d1server.cli import execute as execute_module
from d1server.config import NodeConfig, Role
from d1server.transfers.import_job import INTERRUPTED
from tests.waiting import EVENT_S_MAX

BOOKMARK = "00000001-00000000-00000007-0123456789abcdef0123456789abcdef"


@dataclass(slots=True)
class Asked:
    """One request as the node got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(slots=True)
class StandInNode:
    """Answers with what `answer` returns: (status, value for JSON, headers), or hangs up."""

    url: str = ""
    hangs_up: bool = False  # after each answer, without a word in it
    has_hung_up: threading.Event = field(default_factory=threading.Event)
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], tuple[int, object, dict[str, str]] | None] = field(
        default=lambda _: (200, {"result": None, "success": True}, {})
    )

    def says(self, value: object, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.answer = lambda _: (status, value, named)


@pytest.fixture
def node() -> Iterator[StandInNode]:
    stand_in = StandInNode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("content-length", 0))
            text = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            is_json = text and headers.get("content-type") == "application/json"
            body = json.loads(text) if is_json else text or None
            asked = Asked(self.command, self.path, headers, body)
            stand_in.asked.append(asked)
            answer = stand_in.answer(asked)
            if answer is None:
                self.close_connection = True
                return
            status, value, answered = answer
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, header in answered.items():
                self.send_header(name, header)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = self.close_connection or stand_in.hangs_up

        do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def shutdown_request(self, request: Any) -> None:
            super().shutdown_request(request)
            stand_in.has_hung_up.set()

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stand_in
    server.shutdown()
    thread.join()
    server.server_close()


def d1server(*words: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Result:
    settings = {"D1SERVER_URL": "", **(env or {})}
    return CliRunner().invoke(command_line, words, env=settings, input=stdin)


def rows(columns: list[str], *values: list[object], changes: int = 0) -> dict[str, object]:
    meta = {"changes": changes, "served_by": "weur", "served_by_region": "WEUR", "duration": 0.25}
    return {"results": {"columns": columns, "rows": values}, "success": True, "meta": meta}


def refused(code: int, message: str, **more: object) -> dict[str, object]:
    errors = [{"code": code, "message": message, **more}]
    return {"result": [], "success": False, "errors": errors, "messages": []}


def test_a_connection_that_the_node_has_ended_is_opened_again(node: StandInNode) -> None:
    """Nodes do so after a minute: the next statement of somebody at a shell must not fail."""
    node.hangs_up = True
    with NodeConnection(node.url) as connection:
        for _ in range(3):
            node.has_hung_up.clear()
            connection.post("/db/shop/query", {"sql": "UPDATE t SET a = 1"})
            assert node.has_hung_up.wait(20)
    assert len(node.asked) == 3


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "--url", "URL", "db", "list"],
        ["db", "--url", "URL", "--json", "list"],
        ["db", "list", "--json", "--url", "URL"],
        ["--url", "http://127.0.0.1:9", "db", "list", "--json", "--url", "URL"],
    ],
)
def test_common_options_stand_anywhere(node: StandInNode, words: list[str]) -> None:
    """The option nearest to the command wins."""
    node.says({"result": [{"name": "shop"}], "success": True})
    result = d1server(*(node.url if word == "URL" else word for word in words))
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [{"name": "shop"}]


def test_url_comes_from_the_environment_unless_it_is_given(node: StandInNode) -> None:
    node.says({"result": [], "success": True})
    assert d1server("db", "list", env={"D1SERVER_URL": node.url}).exit_code == 0
    other = {"D1SERVER_URL": "http://127.0.0.1:9"}
    assert d1server("db", "list", "--url", node.url, env=other).exit_code == 0
    assert d1server("db", "list", env=other).exit_code == 1


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["db", "create", "shop"], ("POST", "/db", {"name": "shop"})),
        (["db", "list"], ("GET", "/db", None)),
        (["db", "info", "a b/c"], ("GET", "/db/a%20b%2Fc", None)),
        (["db", "delete", "shop", "--yes"], ("DELETE", "/db/shop", None)),
        (["db", "vacuum", "shop"], ("POST", "/db/shop/vacuum", {})),
        (["execute", "shop", "-c", "x;y"], ("POST", "/db/shop/query", {"sql": "x;y"})),
    ],
)
def test_each_command_asks_for_one_thing(
    node: StandInNode, words: list[str], asked: tuple[str, str, object]
) -> None:
    is_list = words[1] == "list" or words[0] == "execute"
    node.says({"result": [] if is_list else {}, "success": True})
    result = d1server(*words, "--json", "--url", node.url)
    assert result.exit_code == 0, result.output
    assert [(got.method, got.path, got.body) for got in node.asked] == [asked]
    assert json.loads(result.stdout) is not None


def test_nobody_there_is_said_in_one_line() -> None:
    result = d1server("status", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no node answers at http://127.0.0.1:9 (connection refused)" in result.stderr
    assert "d1server dev" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--url", "ftp://x"],
        ["status", "--url", "http://h:port"],
        ["execute", "shop"],
        ["execute", "shop", "-c", "x", "-f", __file__],
        ["execute", "shop", "--file", "/nowhere.sql"],
        ["db", "create"],
        ["primary"],
        ["primary", "--data-dir", "d", "--listen", "8787"],
        ["replica", "--data-dir", "d"],
        ["replica", "--data-dir", "d", "--replication", "h:1"],
        ["dev", "--port", "65534"],
        ["nothing"],
    ],
)
def test_bad_usage_is_two(words: list[str]) -> None:
    result = d1server(*words)
    assert result.exit_code == 2, result.output
    assert "Error: " in result.stderr
    assert result.stdout == ""


def test_a_refusal_is_one_and_comes_as_json_too(node: StandInNode) -> None:
    node.says(refused(7500, "no such table: nope: SQLITE_ERROR"), status=400)
    result = d1server("execute", "shop", "-c", "SELECT * FROM nope", "--json", "--url", node.url)
    assert result.exit_code == 1
    assert "no such table: nope: SQLITE_ERROR" in result.stderr
    assert json.loads(result.stdout) == {
        "success": False,
        "errors": [{"code": 7500, "message": "no such table: nope: SQLITE_ERROR"}],
    }


def test_a_hint_of_the_node_is_shown(node: StandInNode) -> None:
    hint = {"messages": [{"code": 7500, "message": "each request is a transaction already"}]}
    node.says(refused(7500, "not authorized: SQLITE_AUTH") | hint, status=400)
    result = d1server("execute", "shop", "-c", "BEGIN", "--url", node.url)
    assert "SQLITE_AUTH\neach request is a transaction already" in result.stderr


def test_an_unknown_database_says_how_to_make_it(node: StandInNode) -> None:
    node.says(refused(7404, "no database shop"), status=404)
    result = d1server("execute", "shop", "-c", "SELECT 1", "--url", node.url)
    assert result.exit_code == 1
    assert "create it with `d1server db create shop`" in result.stderr


@pytest.mark.parametrize("body", [b"<html>502</html>", b"", b"[]", b'{"errors":[]}', b"\xff"])
def test_an_answer_of_some_proxy_is_no_traceback(node: StandInNode, body: bytes) -> None:
    node.answer = lambda _: (502, body, {})
    result = d1server("db", "list", "--url", node.url)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"", b"[]", b'{"success":true}'])
def test_something_else_that_answers_is_no_traceback(node: StandInNode, body: bytes) -> None:
    """The port may belong to another program altogether."""
    node.answer = lambda _: (200, body, {})
    for words in (["db", "list"], ["status"], ["execute", "shop", "-c", "SELECT 1"]):
        result = d1server(*words, "--url", node.url)
        assert result.exit_code == 1, result.output
        assert "does not answer as a node" in result.stderr


def test_rows_in_a_pipe_are_plain_and_safe(node: StandInNode) -> None:
    """One line per row whatever a value holds, and nothing that moves a cursor."""
    values: list[object] = [1, None, "a\tb\nc\x1b[2J[red]", [0, 255], 1.5, ""]
    node.says({"result": [rows(list("abcdef"), values)], "success": True}, x_d1_bookmark=BOOKMARK)
    result = d1server("execute", "shop", "-c", "SELECT", "--url", node.url)
    assert result.stdout == "a\tb\tc\td\te\tf\n1\tNULL\ta\\tb\\nc\\u{1b}[2J[red]\tx'00ff'\t1.5\t\n"
    assert f"bookmark {BOOKMARK}" in result.stderr
    assert node.asked[0].path == "/db/shop/raw"


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
def test_an_output_without_room_is_no_traceback(node: StandInNode, more: list[str]) -> None:
    node.says({"result": [{"name": "shop"}], "success": True})
    command = [sys.executable, "-m", "d1server", "db", "list", "--url", node.url, *more]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=EVENT_S_MAX,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: the output: No space left on device\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["primary", "--help"], []], ids=str)
def test_help_without_room_is_no_traceback(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "d1server", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=50,
        )
    if words:  # without any, the help is an error and goes to standard error
        assert (done.returncode, done.stderr) == (1, "Error: the output: No space left on device\n")
    assert "Traceback" not in done.stderr


def test_bookmark_goes_out_and_comes_back(node: StandInNode) -> None:
    result_value = [{"results": [{"a": 1}], "success": True, "meta": {}}]
    node.says({"result": result_value, "success": True}, x_d1_bookmark=BOOKMARK)
    words = ["execute", "shop", "-c", "SELECT 1 AS a", "--bookmark", "first-unconstrained"]
    result = d1server(*words, "--json", "--url", node.url)
    assert node.asked[0].headers["x-d1-bookmark"] == "first-unconstrained"
    assert json.loads(result.stdout) == {
        "result": result_value,
        "success": True,
        "bookmark": BOOKMARK,
    }


def load(node: StandInNode, path: Path, *more: str) -> Result:
    return d1server("execute", "shop", "--file", str(path), "--url", node.url, *more)


def count_statements(asked: Asked) -> tuple[int, object, dict[str, str]]:
    done = [rows([], changes=1) for _ in asked.body["batch"]]
    return 200, {"result": done, "success": True}, {"x-d1-bookmark": BOOKMARK}


def test_small_file_is_one_transaction(node: StandInNode, tmp_path: Path) -> None:
    path = tmp_path / "a.sql"
    path.write_text("-- two\nINSERT INTO t VALUES ('a;');\nSELECT 2;\n")
    node.answer = count_statements
    result = load(node, path)
    assert result.exit_code == 0, result.output
    assert [asked.body for asked in node.asked] == [
        {"batch": [{"sql": "INSERT INTO t VALUES ('a;')"}, {"sql": "SELECT 2"}]}
    ]
    assert "2 statements; 2 rows changed" in result.stderr


class ImportingNode:
    """Plays the node's part of an import; `script` says what happens in between."""

    def __init__(self, node: StandInNode) -> None:
        self.node = node
        self.uploaded = b""
        self.calls: list[str] = []
        self.told: dict[str, Any] = {"success": False, "error": "Not currently importing anything."}
        self.fails: dict[str, Callable[[], tuple[int, object, dict[str, str]] | None]] = {}
        self.ends: dict[str, Any] = {"status": "complete", "result": IMPORTED}
        node.answer = self.answer

    def answer(self, asked: Asked) -> tuple[int, object, dict[str, str]] | None:
        action = "upload" if asked.method == "PUT" else asked.body["action"]
        self.calls.append(action)
        if action in self.fails:
            return self.fails.pop(action)()
        return 200, {"result": getattr(self, action)(asked), "success": True}, {}

    def poll(self, _asked: Asked) -> dict[str, Any]:
        if self.told.get("status") == "active" and "poll" in self.calls:
            self.told |= self.ends
        return self.told

    def init(self, asked: Asked) -> dict[str, Any]:
        self.filename = f"uuid.{asked.body['etag']}.sql"
        return {
            "success": True,
            "filename": self.filename,
            "upload_url": self.node.url + "/signed/imports/x?expires=1&signature=2",
            "uploaded_bytes": len(self.uploaded),
        }

    def upload(self, asked: Asked) -> None:
        start = asked.headers.get("content-range", "bytes 0-").split()[1].partition("-")[0]
        assert int(start) == len(self.uploaded)
        assert "authorization" not in asked.headers
        self.uploaded += asked.body

    def ingest(self, asked: Asked) -> dict[str, Any]:
        assert asked.body["filename"] == self.filename
        assert hashlib.md5(self.uploaded).hexdigest() == asked.body["etag"]
        self.told = {
            "success": True,
            "status": "active",
            "at_bookmark": BOOKMARK,
            "filename": self.filename,
            "progress": {"queries": 1, "bytes_done": 5, "bytes_total": 10},
            "messages": ["Processed 1 queries."],
        }
        return dict(self.told)


IMPORTED = {
    "num_queries": 100,
    "final_bookmark": BOOKMARK,
    "meta": {"changes": 99, "rows_read": 98, "rows_written": 97, "duration": 2.5}
    | {"served_by": "weur", "served_by_region": "WEUR"},
}


@pytest.fixture
def importing(node: StandInNode, monkeypatch: pytest.MonkeyPatch) -> ImportingNode:
    monkeypatch.setattr(execute_module, "REQUEST_CHARS_MAX", 200)
    monkeypatch.setattr(loading, "RETRY_PAUSE_S", 0.001)
    return ImportingNode(node)


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """A file of 100 lines, more than one request takes."""
    path = tmp_path / "large.sql"
    path.write_text("".join(f"SELECT {n:03};\n" for n in range(1, 101)))
    return path


def test_a_large_file_is_imported(importing: ImportingNode, large_file: Path) -> None:
    result = load(importing.node, large_file, "--json", "--token", "d1s_" + "x" * 43)
    assert result.exit_code == 0, result.output
    assert importing.calls == ["poll", "init", "upload", "ingest", "poll"]
    assert importing.uploaded == large_file.read_bytes()
    assert json.loads(result.stdout) == {
        "success": True,
        "statements": 100,
        "changes": 99,
        "rows_read": 98,
        "rows_written": 97,
        "duration": 2.5,
        "bookmark": BOOKMARK,
    }


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN TRANSACTION; SELECT 1; COMMIT;",
        f"SELECT '{'x' * 150_000}';",
        "SELECT 1;" * 30,
    ],
    ids=["transaction", "long statement", "long file"],
)
def test_what_a_request_does_not_take_is_imported(
    importing: ImportingNode, tmp_path: Path, sql: str
) -> None:
    path = tmp_path / "a.sql"
    path.write_text(sql)
    result = load(importing.node, path)
    assert result.exit_code == 0, result.output
    assert "100 statements; 99 rows changed" in result.stderr


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, 7500, "no such table: main.p: SQLITE_ERROR"),
        (413, 7413, "the body is larger than 102400 bytes: send the statements in parts"),
    ],
    ids=["a table before its parent", "a node that takes small bodies"],
)
def test_what_no_request_takes_is_imported(
    importing: ImportingNode, tmp_path: Path, status: int, code: int, message: str
) -> None:
    """A request undoes such a file; an import takes it."""
    path = tmp_path / "a.sql"
    path.write_text("INSERT INTO c VALUES (1)")
    answer = importing.answer

    def refuse_query(asked: Asked) -> tuple[int, object, dict[str, str]] | None:
        if asked.path == "/db/shop/raw":
            return status, refused(code, message), {}
        return answer(asked)

    importing.node.answer = refuse_query
    assert load(importing.node, path).exit_code == 0
    assert importing.calls[-1] == "poll"


def test_an_upload_that_breaks_off_goes_on(importing: ImportingNode, large_file: Path) -> None:
    def break_off() -> None:
        importing.uploaded = large_file.read_bytes()[:500]

    importing.fails = {"upload": break_off}
    assert load(importing.node, large_file).exit_code == 0
    assert importing.calls == ["poll", "init", "upload", "poll", "init", "upload", "ingest", "poll"]
    assert importing.uploaded == large_file.read_bytes()


@pytest.mark.parametrize("lost", ["ingest", "poll"])
def test_a_lost_answer_does_not_import_twice(
    importing: ImportingNode, large_file: Path, lost: str
) -> None:
    """The node did what it was asked; what it does is asked about before it is begun again."""
    answer = importing.answer

    def lose(asked: Asked) -> tuple[int, object, dict[str, str]] | None:
        told = answer(asked)
        is_lost = lost in importing.calls[1:] and not importing.fails
        importing.fails = {"x": lambda: None} if is_lost else importing.fails
        return None if is_lost else told

    importing.node.answer = lose
    result = load(importing.node, large_file)
    assert result.exit_code == 0, result.output
    assert importing.calls.count("ingest") == 1
    assert "100 statements" in result.stderr


def test_an_import_that_the_node_interrupted_is_begun_again(
    importing: ImportingNode, large_file: Path
) -> None:
    interrupted = {"status": "error", "error": INTERRUPTED}
    importing.ends = interrupted
    ingest = importing.ingest

    def second_try(asked: Asked) -> dict[str, Any]:
        importing.ends = {"status": "complete", "result": IMPORTED}
        return ingest(asked)

    def first_try(asked: Asked) -> dict[str, Any]:
        importing.ingest = second_try  # type: ignore[method-assign]
        told = ingest(asked)
        importing.uploaded = b""  # the stand-in does not know that it has the file
        return told

    importing.ingest = first_try  # type: ignore[method-assign]
    assert load(importing.node, large_file).exit_code == 0
    assert importing.calls.count("ingest") == 2


def test_a_refused_import_says_where(importing: ImportingNode, large_file: Path) -> None:
    importing.ends = {
        "status": "error",
        "error": "no such table: t: SQLITE_ERROR",
        "messages": ["Processed 3 queries.", "statement 4, line 7"],
    }
    result = load(importing.node, large_file)
    assert result.exit_code == 1
    assert "large.sql: statement 4, line 7: no such table: t: SQLITE_ERROR" in result.stderr
    assert "Nothing was applied: the file is one transaction" in result.stderr


def test_a_refused_upload_is_said(importing: ImportingNode, large_file: Path) -> None:
    importing.fails = {"upload": lambda: (400, refused(7400, "the MD5 is wrong"), {})}
    result = load(importing.node, large_file)
    assert result.exit_code == 1
    assert "the MD5 is wrong" in result.stderr


def test_failure_in_a_small_file_leaves_nothing(node: StandInNode, tmp_path: Path) -> None:
    path = tmp_path / "a.sql"
    path.write_text("\n\nSELECT * FROM nope")
    node.says(refused(7500, "no such table: nope: SQLITE_ERROR"), status=400)
    result = load(node, path)
    assert "a.sql:3: statement 1 failed: no such table: nope: SQLITE_ERROR" in result.stderr
    assert "Nothing was applied: the file is one transaction" in result.stderr


@pytest.mark.parametrize(
    ("status", "should_retry", "told"),
    [(503, "false", "is not known"), (500, "false", "is not known"), (503, "true", "Nothing was")],
)
def test_an_unknown_outcome_of_a_small_file_is_said(
    node: StandInNode, tmp_path: Path, status: int, should_retry: str, told: str
) -> None:
    """Nobody is told that nothing was applied if it may have been."""
    path = tmp_path / "a.sql"
    path.write_text("DELETE FROM t")
    node.says(refused(7500, "the link broke"), status=status, x_should_retry=should_retry)
    result = load(node, path)
    assert (result.exit_code, told in result.stderr) == (1, True), result.stderr


def test_a_migration_without_an_answer_is_sent_again_with_its_key(
    node: StandInNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that refuses for a passing reason gets the same key, so that it is done once.

    If it goes on, nobody is told that the migration was undone: it may have been applied.
    """
    module = import_module("d1server.cli.migrations")
    monkeypatch.setattr(module, "RETRY_PAUSES_S", (0.0, 0.01, 0.01))
    (tmp_path / "1.sql").write_text("CREATE TABLE t(a)")
    failures = 2

    def answer(asked: Asked) -> tuple[int, object, dict[str, str]]:
        nonlocal failures
        if "idempotency-key" in asked.headers and failures:
            failures -= 1
            return 503, refused(7500, "the link broke"), {"x-should-retry": "true"}
        return 200, {"result": [{"results": []}], "success": True}, {}

    node.answer = answer
    words = ["migrations", "apply", "shop", "--dir", str(tmp_path), "--url", node.url]
    assert d1server(*words).exit_code == 0
    keys = [asked.headers.get("idempotency-key") for asked in node.asked]
    assert (len(keys), len(set(keys))) == (5, 2)

    failures = 100
    result = d1server(*words)
    assert result.exit_code == 1
    assert "no answer says that 1.sql was applied" in result.stderr
    assert "undone" not in result.stderr
    assert "nothing was done" not in result.stderr


def test_help_shows_what_holds_without_a_setting() -> None:
    shown = " ".join(d1server("primary", "--help").stdout.split())
    for default in ("127.0.0.1:8787", "ENAM", "30", "2000000", "10GiB", "32MiB", "info"):
        assert f"[default: {default}]" in shown


def test_file_without_statements_is_refused(node: StandInNode, tmp_path: Path) -> None:
    path = tmp_path / "a.sql"
    path.write_text("-- nothing\n;;\n")
    result = load(node, path)
    assert result.exit_code == 1
    assert "has no SQL statements" in result.stderr
    assert node.asked == []


def test_standard_input_is_a_file_too(node: StandInNode) -> None:
    node.answer = count_statements
    result = d1server("execute", "shop", "-f", "-", "--url", node.url, stdin="SELECT 1;")
    assert result.exit_code == 0, result.output
    assert node.asked[0].body == {"batch": [{"sql": "SELECT 1"}]}


@pytest.mark.parametrize(
    ("words", "role"),
    [
        (["primary", "--listen", ":1"], Role.PRIMARY),
        (["replica", "--primary", "h:2", "--listen", ":1"], Role.REPLICA),
    ],
)
def test_node_commands_pass_their_configuration(
    words: list[str], role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags, then variables, then the file; `--json` is the format of the log."""
    got: list[tuple[NodeConfig, bool]] = []
    monkeypatch.setattr("d1server.cli.nodes.run", lambda *given: got.append(given))
    path = tmp_path / "node.toml"
    path.write_text('region = "OC"\nread_wait_s = 1\nlisten = ":7"\n')
    more = ["--config", str(path), "--data-dir", str(tmp_path), "--json"]
    result = d1server(*words, *more, env={"D1SERVER_READ_WAIT_S": "2"})
    assert result.exit_code == 0, result.output
    config, stops_with_stdin = got[0]
    assert (config.role, config.region, config.read_wait_s) == (role, "OC", 2)
    assert (config.listen.port, config.log_format, stops_with_stdin) == (1, "json", False)


def test_status_without_databases_is_shown(node: StandInNode) -> None:
    """As a node answers a token that is for one database."""
    node.says({"role": "primary", "region": "ENAM", "pid": 7})
    result = d1server("status", "--url", node.url)
    assert (result.exit_code, result.stdout) == (0, f"{node.url}: primary, region ENAM, pid 7\n")
    assert "for all of them" in result.stderr


def test_status_shows_a_line_per_database(node: StandInNode) -> None:
    entry = {"applied": BOOKMARK, "head": BOOKMARK, "lag_commits": 0, "lag_bytes": 0, "lag_ms": 1.5}
    link = {"state": "following", "address": "h:1", "reason": ""}
    found = {"role": "replica", "region": "WEUR", "pid": 7, "primary": link}
    node.says({**found, "databases": {"shop": entry}})
    result = d1server("status", "--url", node.url)
    assert result.exit_code == 0, result.output
    assert "replica, region WEUR, pid 7, following h:1\n" in result.stdout
    assert f"shop\t{BOOKMARK}\t{BOOKMARK}\t0\t0\t1.5\tNULL" in result.stdout
