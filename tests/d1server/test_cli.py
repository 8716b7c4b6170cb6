"""The command line, against a node that answers what the test says, over a real socket."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from d1server.cli import command_line
from d1server.cli import execute as execute_module
from d1server.cli.execute import Batch, Size, batches
from d1server.config import NodeConfig, Role
from engine.sqlfile import FileStatement

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
            asked = Asked(self.command, self.path, headers, json.loads(text) if text else None)
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

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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


@pytest.fixture
def large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 100 lines that goes out in batches of ten."""
    monkeypatch.setattr(execute_module, "ONE_REQUEST", Size(200, 1000))
    monkeypatch.setattr(execute_module, "BATCH", Size(100, 1000))
    monkeypatch.setattr(execute_module, "RETRY_PAUSE_S", 0.001)
    path = tmp_path / "large.sql"
    path.write_text("".join(f"SELECT {n:03};\n" for n in range(1, 101)))
    return path


def test_large_file_is_many_transactions(node: StandInNode, large_file: Path) -> None:
    node.answer = count_statements
    result = load(node, large_file, "--json")
    assert json.loads(result.stdout) == {
        "success": True,
        "statements": 100,
        "transactions": len(node.asked),
        "changes": 100,
        "rows_read": 0,
        "rows_written": 0,
        "duration": 25.0,
        "bookmark": BOOKMARK,
    }
    sent = [member["sql"] for asked in node.asked for member in asked.body["batch"]]
    assert sent == [f"SELECT {n:03}" for n in range(1, 101)]
    assert all(len(asked.body["batch"]) <= 10 for asked in node.asked)
    assert len({asked.headers["idempotency-key"] for asked in node.asked}) == len(node.asked)


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"statement": 3}, "large.sql:24: statement 24 failed: no such table"),
        ({}, "large.sql:21: a statement in lines 21-30 failed: no such table"),
    ],
)
def test_failure_in_the_middle_says_where_and_what_stands(
    node: StandInNode, large_file: Path, more: dict[str, object], place: str
) -> None:
    def answer(asked: Asked) -> tuple[int, object, dict[str, str]]:
        if len(node.asked) == 3:
            return 400, refused(7500, "no such table: t: SQLITE_ERROR", **more), {}
        return count_statements(asked)

    node.answer = answer
    result = load(node, large_file)
    assert result.exit_code == 1
    assert place in result.stderr
    assert "Applied: lines 1-20 (20 statements in 2 transactions)" in result.stderr
    assert "The failed batch was rolled back" in result.stderr


def test_failure_in_a_small_file_leaves_nothing(node: StandInNode, tmp_path: Path) -> None:
    path = tmp_path / "a.sql"
    path.write_text("\n\nSELECT * FROM nope")
    node.says(refused(7500, "no such table: nope: SQLITE_ERROR"), status=400)
    result = load(node, path)
    assert "a.sql:3: statement 1 failed: no such table: nope: SQLITE_ERROR" in result.stderr
    assert "Nothing was applied: the file is one transaction" in result.stderr


def test_lost_answer_is_asked_for_again_under_the_same_key(
    node: StandInNode, large_file: Path
) -> None:
    """A node that restarts in the middle of a load does not end it, and nothing counts twice."""

    def answer(asked: Asked) -> tuple[int, object, dict[str, str]] | None:
        if len(node.asked) == 2:
            return None
        if len(node.asked) == 3:
            return 503, refused(7500, "restarting"), {"x-should-retry": "true"}
        return count_statements(asked)

    node.answer = answer
    assert load(node, large_file).exit_code == 0
    keys = [asked.headers["idempotency-key"] for asked in node.asked]
    assert keys[1] == keys[2] == keys[3]
    assert len(set(keys)) == len(keys) - 2


def test_answer_that_never_comes_says_that_the_outcome_is_unknown(
    node: StandInNode, large_file: Path
) -> None:
    node.answer = lambda asked: count_statements(asked) if len(node.asked) == 1 else None
    result = load(node, large_file)
    assert result.exit_code == 1
    assert "Applied: lines 1-10 (10 statements in 1 transactions)" in result.stderr
    assert "Whether lines 11-20 were applied is not known" in result.stderr


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


def statement(number: int, chars: int) -> FileStatement:
    return FileStatement(number, number, "x" * chars)


def cut(sizes: list[int]) -> list[tuple[int, bool]]:
    statements = (statement(number, chars) for number, chars in enumerate(sizes, start=1))
    found: list[Batch] = list(batches(statements, Size(100, 15), Size(30, 5)))
    return [(len(batch.statements), batch.is_only) for batch in found]


def test_batches_are_one_if_small_and_bounded_if_not() -> None:
    assert cut([]) == []
    assert cut([100]) == [(1, True)]
    assert cut([50, 50]) == [(2, True)]
    assert cut([10] * 11) == [(3, False), (3, False), (3, False), (2, False)]
    assert cut([101]) == [(1, False)]
    assert cut([20, 90, 5, 5]) == [(1, False), (1, False), (2, False)]
    assert cut([1] * 15) == [(15, True)]
    assert cut([1] * 17) == [(5, False), (5, False), (5, False), (2, False)]


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


def test_status_shows_a_line_per_database(node: StandInNode) -> None:
    entry = {"applied": BOOKMARK, "head": BOOKMARK, "lag_commits": 0, "lag_bytes": 0, "lag_ms": 1.5}
    link = {"state": "following", "address": "h:1", "reason": ""}
    found = {"role": "replica", "region": "WEUR", "pid": 7, "primary": link}
    node.says({**found, "databases": {"shop": entry}})
    result = d1server("status", "--url", node.url)
    assert result.exit_code == 0, result.output
    assert "replica, region WEUR, pid 7, following h:1\n" in result.stdout
    assert f"shop\t{BOOKMARK}\t{BOOKMARK}\t0\t0\t1.5\tNULL" in result.stdout
