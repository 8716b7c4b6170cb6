"""What a node says of itself."""

import time
from pathlib import Path

import pytest

from d1server.config import NodeConfig, Role
from d1server.node_status import node_status


def test_uptime_does_not_follow_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which somebody sets back, or a time server."""
    config = NodeConfig(role=Role.PRIMARY, data_dir=Path("data"), name="primary")
    started_at = time.monotonic() - 5.0
    monkeypatch.setattr(time, "time", lambda: 0.0)
    uptime_s = node_status(config, cluster="c", epoch=1, started_at=started_at)["uptime_s"]
    assert isinstance(uptime_s, float)
    assert 5.0 <= uptime_s < 3600.0
