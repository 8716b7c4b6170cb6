"""What a person sees: the same program on a pseudo-terminal."""

import os
import pty
import subprocess
import sys

from tests.waiting import EVENT_S_MAX

TABLE = """
from d1server.cli.output import print_table
rows = [[1, "Bj\\u00f6rn [red]x"], [20, "a\\x1b]0;title\\x07b"], [3, "y" * 300]]
print_table(["id", "na[b]me"], rows)
"""
WIDE = """
from d1server.cli.output import print_table
names = [f"column {number}" for number in range(1, 19)]
print_table(names, [["a b " * 30] * 18, ["\\x1b[2J"] * 18])
print_table(["id", *names[:5]], [[1, *["a long value"] * 5]])
"""
BAR = """
from d1server.cli.progress import Bar, working
with Bar("loading", 1000) as bar:
    bar(400)
    bar.reach(500)
with working("thinking ..."):
    pass
print("done")
"""


def on_terminal(program: str, *words: str) -> str:
    """Return what a program writes to a terminal of 80 columns."""
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(command, stdout=follower, stderr=follower, env=env):
        os.close(follower)
        found = b""
        while True:
            try:
                found += os.read(leader, 4096)
            except OSError:  # Linux says EIO when the last writer has closed
                break
    os.close(leader)
    return found.decode()


def test_rows_are_a_table_and_stay_text() -> None:
    """Markup of the terminal library and escapes of terminals are shown, not obeyed."""
    shown = on_terminal(TABLE)
    assert "na[b]me" in shown
    assert "Bj\xf6rn [red]x" in shown
    assert "a\\u{1b}]0;title\\u{7}b" in shown
    assert "\x1b]0;" not in shown
    assert 190 <= shown.count("y") <= 201
    assert "\u2026" in shown
    assert "\u2502 20 \u2502" in shown


def test_rows_that_are_too_wide_for_a_table_are_records() -> None:
    """Eighteen columns in eighty characters would have two each."""
    shown = on_terminal(WIDE).splitlines()
    assert shown[0].startswith(" column 1 = a b a b")
    assert sum(line.startswith("column 18 = ") for line in shown) == 2
    assert "column 18 = \\u{1b}[2J" in shown
    assert any("\u2502" in line and "a long" in line for line in shown)  # six have enough


def test_long_work_shows_progress() -> None:
    shown = on_terminal(BAR)
    assert "loading" in shown
    assert "0.5/1.0 kB" in shown
    assert "thinking ..." in shown
    assert shown.rstrip().endswith("done")


def test_pipes_get_no_progress_of_what_is_soon_over() -> None:
    assert in_pipes(BAR) == ("done\n", "")


def test_pipes_get_a_line_now_and_then_of_what_takes_long() -> None:
    """Method: let no time pass between two lines."""
    at_once = "import d1server.cli.progress as p; p.LINE_EVERY_S = 0.0" + BAR
    written = "loading: 0.0 of 0.0 MB (40 %)\nloading: 0.0 MB\n"
    assert in_pipes(at_once) == ("done\n", written)


def in_pipes(program: str) -> tuple[str, str]:
    """Return what a program writes to standard output and standard error, no terminals."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=EVENT_S_MAX)
    return done.stdout, done.stderr
