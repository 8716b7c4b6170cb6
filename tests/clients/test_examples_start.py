"""`python -m examples`, which is `make example`: everything comes up, and Ctrl-C ends it all."""

import random
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from examples.apps import CATALOG
from tests.clients.nodes import HOST, READY_S_MAX, process, server_python

APP_PORT_OFFSET = 10
STOP_S_MAX = 15.0


def free_port_block() -> int:
    """Return a port such that it and the next ones are free, below those that systems give out."""
    candidates = list(range(20_000, 30_000, 200))
    random.shuffle(candidates)
    return next(first for first in candidates if all(map(is_free, range(first, first + 12))))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_example_comes_up_and_ends(name: str, tmp_path: Path) -> None:
    port = free_port_block()
    apps = CATALOG[name].apps
    urls = [f"http://{HOST}:{port + APP_PORT_OFFSET + at}{app.path}" for at, app in enumerate(apps)]
    flags = ("--port", str(port), "--data-dir", str(tmp_path / "data"))
    command = (str(server_python()), "-m", "examples", name, *flags)
    log = tmp_path / "example.log"
    with process(*command, log=log, ready=urls[-1]) as running:
        wait_announced(log)
        for url in urls:
            assert url in log.read_text()
            with urllib.request.urlopen(url, timeout=READY_S_MAX) as response:
                assert response.status == 200
        running.send_signal(signal.SIGINT)
        assert running.wait(STOP_S_MAX) == 0, log.read_text()
    assert not processes_of(str(tmp_path)), "left behind"


def wait_announced(log: Path) -> None:
    """Return when all addresses have been printed."""
    ends = time.monotonic() + READY_S_MAX
    while "Ctrl-C" not in log.read_text():
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.05)


def processes_of(word: str) -> list[str]:
    """Return the command lines of this machine that name `word`."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if word in line]
