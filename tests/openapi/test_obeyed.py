"""Running nodes do what their document says: schemathesis reads it there and tries it."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.auth.guarded_cluster import GuardedCluster

CONFIG: Final = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("node", "phases"),
    [("primary", "examples,coverage,fuzzing"), ("replica", "examples,coverage")],
)
def test_the_node_obeys_its_document(
    guarded: GuardedCluster,
    node: str,
    phases: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No answer that the document does not describe, no 5xx, nothing accepted that it forbids.

    Method: examples, each edge of each schema and, at one of the nodes, random values; the same in
    every run.
    """
    host, port = guarded.nodes[node]
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
        *("run", f"http://{host}:{port}/openapi.json", "--no-color"),
        *("--header", f"Authorization: Bearer {guarded.tokens['admin']}"),
        *("--phases", phases, "--max-examples", "4"),
        *("--request-timeout", "60", "--suppress-health-check", "all"),  # on a busy machine
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with guarded.caller(node, "admin") as admin:
        assert admin.query("SELECT 1").status == 200, "the test has undone what it runs on"
    bugs = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert not bugs
