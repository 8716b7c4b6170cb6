"""`python -m examples`, which is `make example`: everything comes up, and Ctrl-C ends it all."""

import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from examples.apps import CATALOG
from tests.clients.nodes import READY_S_MAX, process, server_python
from tests.free_ports import HOST, free_block
from tests.waiting import block_until

APP_PORT_OFFSET = 10
STOP_S_MAX = 60.0


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_example_comes_up_and_ends(name: str, tmp_path: Path) -> None:
    port = free_block(12)
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
    block_until(lambda: not processes_of(str(tmp_path)), "their end")


def wait_announced(log: Path) -> None:
    """Return when all addresses have been printed."""
    block_until(lambda: "Ctrl-C" in log.read_text(), "the addresses")


def processes_of(word: str) -> list[str]:
    """Return the command lines of this machine that name `word`."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if word in line]
