"""Access tokens through `clients/js` and wrangler, at nodes that ask for them."""

from pathlib import Path

from tests.clients.guarded import Guarded
from tests.clients.programs import CLIENTS, run_node_tests
from tests.clients.wrangler import Wrangler

SELECT = "SELECT a FROM t WHERE a = 'x'"
INSERT = "INSERT INTO t VALUES ('forbidden')"


def test_js_client_sends_its_token(guarded: Guarded) -> None:
    env = {**guarded.nodes.env, "EDIT_TOKEN": guarded.edit, "READ_TOKEN": guarded.read}
    run_node_tests(CLIENTS / "js" / "tokens.test.js", env=env, count_min=3)


def test_wrangler_with_a_token_that_may_edit(guarded: Guarded, tmp_path: Path) -> None:
    wrangler = Wrangler(tmp_path, guarded.nodes.replica, guarded.edit)
    (tmp_path / "made.sql").write_text("CREATE TABLE made (a); INSERT INTO made VALUES (7);")
    wrangler.d1("execute", "shop", "--remote", "--yes", "--file", "made.sql")
    sql = "INSERT INTO made VALUES (8); SELECT sum(a) AS total FROM made"
    results = wrangler.d1_json("execute", "shop", "--remote", "--command", sql)
    assert results[1]["results"] == [{"total": 15}]


def test_wrangler_with_a_token_that_may_read(guarded: Guarded, tmp_path: Path) -> None:
    """It reads and exports; a write is refused with a word on why, by the command and the file."""
    wrangler = Wrangler(tmp_path, guarded.nodes.primary, guarded.read)
    results = wrangler.d1_json("execute", "shop", "--remote", "--command", SELECT)
    assert results[0]["results"] == [{"a": "x"}]
    wrangler.d1("export", "shop", "--remote", "--output", "shop.sql")
    assert 'INSERT INTO "t" ("a") VALUES(\'x\');' in (tmp_path / "shop.sql").read_text()

    (tmp_path / "bad.sql").write_text(INSERT)
    for flags in (("--command", INSERT), ("--file", "bad.sql")):
        printed = wrangler.refused("execute", "shop", "--remote", "--yes", *flags)
        assert "needs an access token with the scope edit" in printed
        assert "[code: 7403]" in printed
    after = wrangler.d1_json("execute", "shop", "--remote", "--command", "SELECT a FROM t")
    assert {"a": "forbidden"} not in after[0]["results"]


def test_wrangler_with_a_token_that_nobody_made(guarded: Guarded, tmp_path: Path) -> None:
    wrangler = Wrangler(tmp_path, guarded.nodes.replica, "d1s_wrong")
    assert "[code: 10000]" in wrangler.refused("list")
