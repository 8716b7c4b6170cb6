"""Log lines: for people, for collectors, and for the supervisor that reads them."""

import json
import logging
import subprocess
import sys

import pytest

from d1server.logs import is_quiet
from tests.waiting import EVENT_S_MAX

PROGRAM = """
import logging, sys, warnings
import structlog
from d1server.logs import configure_logs
configure_logs("info", sys.argv[1])
log = logging.getLogger("engine.log")
log.debug("hidden")
log.info("synced, seq=%d", 7, extra={"database": "shop"})
log.warning("slow disk")
structlog.get_logger("d1server.node").info("up", port=8787)
warnings.warn("old")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("our bug")
"""


def lines(form: str) -> list[str]:
    """Run a program that logs, because logging is configured once for a whole process."""
    command = [sys.executable, "-c", PROGRAM, form]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=EVENT_S_MAX)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_text_is_one_line_per_event_with_the_level_in_its_place() -> None:
    found = lines("text")
    loud = [line for line in found if not is_quiet(line)]
    quiet = [line.partition(" ")[2] for line in found if is_quiet(line)]
    assert quiet == [
        "INFO engine.log: synced, seq=7 database=shop",
        "INFO d1server.node: up port=8787",
    ]
    assert loud[0].endswith("WARNING engine.log: slow disk")
    assert any("WARNING py.warnings: " in line for line in loud)
    assert any(line.endswith("ERROR engine.log: our bug") for line in loud)
    assert loud[-1] == "ZeroDivisionError: division by zero"


def test_json_is_one_object_per_event() -> None:
    found = [json.loads(line) for line in lines("json")]
    assert [event["level"] for event in found] == ["info", "warning", "info", "warning", "error"]
    assert found[0]["event"] == "synced, seq=7"
    assert found[0]["database"] == "shop"
    assert found[0]["timestamp"].endswith("Z")
    assert "ZeroDivisionError" in found[-1]["exception"]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_quiet_levels(level: int) -> None:
    assert is_quiet(f"2026-01-05T09:00:00.5Z {logging.getLevelName(level)} a: b")
