"""A primary and a replica as processes of their own, the way a user runs them.

The replica reaches the primary through a `LagRelay`, so that a test can hold it back.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.lag_relay import LagRelay, relaying
from tests.clients.programs import ROOT
from tests.free_ports import HOST, free_ports

READY_S_MAX = 90.0
STOP_S_MAX = 60.0
POLL_S = 0.05
WAITS = ("--read-wait-s", "60")  # a machine may be slow, and the replica is to answer
CALL_S_MAX = 60.0


def server_python() -> Path:
    """Return the Python that has d1server's own dependencies; `D1SERVER_PYTHON` names another."""
    return Path(os.environ.get("D1SERVER_PYTHON", ROOT / ".venv" / "bin" / "python"))


@dataclass(frozen=True, slots=True)
class Nodes:
    """Where the nodes are, and what stands between them."""

    primary: str
    replica: str
    relay: LagRelay
    token: str = ""  # an access token with the scope admin, if they ask for one

    @property
    def env(self) -> dict[str, str]:
        """What tests in JavaScript read."""
        return {"D1SERVER_PRIMARY_URL": self.primary, "D1SERVER_REPLICA_URL": self.replica}

    def create(self, name: str) -> None:
        """Make a database, and wait until the replica knows it."""
        post(f"{self.primary}/db", {"name": name}, self._headers())
        self.wait_for(name, self.query(name, "CREATE TABLE made (at)")[1])
        self.query(name, "DROP TABLE made")

    def query(
        self, database: str, sql: str, *params: object, bookmark: str | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        """Run SQL on the primary; return the rows of the last statement and the bookmark."""
        headers = self._headers(**({"x-d1-bookmark": bookmark} if bookmark else {}))
        url = f"{self.primary}/db/{database}/query"
        answer, answered = post(url, {"sql": sql, "params": params}, headers)
        return answer["result"][-1]["results"], answered["x-d1-bookmark"]

    def wait_for(self, database: str, bookmark: str) -> None:
        """Return when the replica itself answers at `bookmark`."""
        headers = self._headers(**{"x-d1-bookmark": bookmark, "x-d1-max-wait-ms": "60000"})
        url = f"{self.replica}/db/{database}/query"
        ends = time.monotonic() + READY_S_MAX
        while True:
            answer, _ = post(url, {"sql": "SELECT 1"}, headers)
            if not answer["result"][0]["meta"]["served_by_primary"]:
                return
            assert time.monotonic() < ends, f"the replica does not get {database}"
            time.sleep(POLL_S)

    def _headers(self, **more: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}", **more} if self.token else more


def post(
    url: str, value: object, headers: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Send JSON; return the answer and its headers. Raises on a refusal, with its text."""
    sent = {"content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, json.dumps(value).encode(), sent)
    try:
        with urllib.request.urlopen(request, timeout=CALL_S_MAX) as response:
            return json.load(response), {k.lower(): v for k, v in response.headers.items()}
    except urllib.error.HTTPError as exc:
        raise AssertionError(f"{url}: {exc.code} {exc.read()[:500]!r}") from exc


def wait_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when `url` answers 200; a process that ends before is an error with its output."""
    ends = time.monotonic() + READY_S_MAX
    while time.monotonic() < ends:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=CALL_S_MAX) as response:
                if response.status == 200:
                    return
        except (OSError, http.client.HTTPException):
            pass  # not listening yet, or not ready: 503
        time.sleep(POLL_S)
    raise AssertionError(f"{url} is not ready:\n{log.read_text(errors='replace')[-4000:]}")


@contextmanager
def process(
    *command: str | Path, log: Path, ready: str, env: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server until the block ends; `ready` is a URL that answers 200 when it is up."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_ready(ready, started, log)
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.communicate(timeout=STOP_S_MAX)
        except subprocess.TimeoutExpired:
            print(f"killing {command[0]}", file=sys.stderr)
            started.kill()
            started.communicate()


@contextmanager
def running_nodes(folder: Path, *, token: str = "", replicate: str = "") -> Iterator[Nodes]:
    """Run a primary (ENAM) and a replica (WEUR) whose link passes a relay.

    `token`, `replicate`: an administrator's access token and the replica's, if the primary's
    data directory has such.
    """
    primary_port, link_port, replica_port = free_ports(3)
    with ExitStack() as stack:
        relay = stack.enter_context(relaying(HOST, link_port))
        proof = ("--replication-token", replicate) if replicate else ()
        for role, port, region, *link in (
            ("primary", primary_port, "ENAM", "--replication", f"{HOST}:{link_port}"),
            ("replica", replica_port, "WEUR", "--primary", f"{HOST}:{relay.port}", *proof, *WAITS),
        ):
            flags = ["--stop-with-stdin", "--region", region, "--name", role, "--log-format=text"]
            flags += ["--data-dir", str(folder / role), "--listen", f"{HOST}:{port}", *link]
            ready, log = f"http://{HOST}:{port}/readyz", folder / f"{role}.log"
            command = (str(server_python()), "-m", "d1server", role, *flags)
            stack.enter_context(process(*command, log=log, ready=ready))
        primary, replica = (f"http://{HOST}:{port}" for port in (primary_port, replica_port))
        yield Nodes(primary, replica, relay, token)
