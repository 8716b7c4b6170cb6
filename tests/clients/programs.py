"""The real programs of the ecosystem that these tests run, and where they are installed.

Everything comes from `tests/clients/package.json` and `examples/package.json`, installed by
`make test-clients`. What is missing is an error with a word on what to do, never a skipped test.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "tests" / "clients"
EXAMPLES = ROOT / "examples"
JS_CLIENT = ROOT / "clients" / "js"

# What programs would otherwise send to hosts far away, or ask of them: statistics, reports, where
# on Earth they run, newer versions (which wrangler looks for when it prints its banner).
ASK_NO_ONE = {
    "WRANGLER_SEND_METRICS": "false",
    "WRANGLER_SEND_ERROR_REPORTS": "false",
    "WRANGLER_HIDE_BANNER": "true",
    "CLOUDFLARE_CF_FETCH_ENABLED": "false",
}
RUN_S_MAX = 500.0
TAIL_CHARACTERS = 6000


class NotInstalled(Exception):
    """A program that the tests need is not there."""


def program(name: str, folder: Path = CLIENTS) -> Path:
    """Return a program that npm installed in `folder`."""
    path = folder / "node_modules" / ".bin" / name
    if not path.exists():
        raise NotInstalled(f"{path.relative_to(ROOT)} is missing: run `make test-clients`")
    return path


def node_programs() -> list[Path]:
    """Return each Node there is: the pinned one, which is new enough for all, and the system's."""
    pinned, found = CLIENTS / "node_modules" / ".bin" / "node", shutil.which("node")
    programs = [path for path in (pinned, Path(found) if found else None) if path and path.exists()]
    if not programs:
        raise NotInstalled("there is no Node: install Node 22 or newer")
    return programs


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which `node` is the newest Node we have, and programs ask no one."""
    folder = str(node_programs()[0].parent)
    path = os.pathsep.join((folder, os.environ.get("PATH", "")))
    quiet = {**ASK_NO_ONE, "CI": "1", "NO_COLOR": "1"}
    return {**os.environ, "PATH": path, **quiet, **(more or {})}


def run_to_end(
    *command: str | Path, cwd: Path = CLIENTS, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whichever that is."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )


def run(
    *command: str | Path, cwd: Path = CLIENTS, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; a failure shows what it printed."""
    done = run_to_end(*command, cwd=cwd, env=env)
    if done.returncode:
        printed = (done.stdout + done.stderr)[-TAIL_CHARACTERS:]
        raise AssertionError(f"{Path(command[0]).name} ended with {done.returncode}:\n{printed}")
    return done


def run_node_tests(
    *paths: Path, env: Mapping[str, str], node: Path | None = None, count_min: int = 1
) -> None:
    """Run JavaScript tests with Node's own runner; at least `count_min` must have passed."""
    node = node or node_programs()[0]
    done = run(node, "--test", "--test-reporter=tap", *paths, env=env)
    passed = [line for line in done.stdout.splitlines() if line.startswith("# pass ")]
    assert passed, done.stdout
    assert int(passed[-1].removeprefix("# pass ")) >= count_min, done.stdout
