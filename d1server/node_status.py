"""What `/status` shows of a node and its databases; the gauges of `/metrics` come from it."""

import os
import time

from d1server.config import NodeConfig
from engine.wal import PAGE_SIZE
from primary.database import PrimaryDatabase
from replica.database import ReplicaDatabase


def node_status(
    config: NodeConfig, *, cluster: str, epoch: int, started_at: float
) -> dict[str, object]:
    """What both roles say of themselves; `started_at` as `time.monotonic` told it."""
    return {
        "role": config.role.value,
        "name": config.name,
        "region": config.region,
        "pid": os.getpid(),
        "epoch": epoch,
        "cluster": cluster,
        "uptime_s": round(time.monotonic() - started_at, 1),
    }


def primary_database_status(database: PrimaryDatabase) -> dict[str, object]:
    """A database at its primary: it has applied what it has written, and never lags."""
    ends = database.ends
    return {
        "head": database.head.text,
        "applied": database.head.text,
        "durable": database.durable.text,
        "lag_commits": 0,
        "lag_bytes": 0,
        "lag_ms": 0.0,
        "checksum": f"{ends.checksum:016x}",
        "size_bytes": ends.page_count * PAGE_SIZE,
        "log_bytes": ends.bytes,
        "is_open": database.demand.current is not None,
        "problem": database.problem,
    }


def replica_database_status(database: ReplicaDatabase) -> dict[str, object]:
    """A database at a replica; `head` is the newest commit of the primary that it has heard of."""
    return {
        "head": database.known_head.text,
        "applied": database.applied_bookmark.text,
        "durable": database.durable.text,
        "lag_commits": database.lag_commits,
        "lag_bytes": database.lag_bytes,
        "lag_ms": round(database.lag_ms, 3),
        "checksum": f"{database.checksum:016x}",
        "size_bytes": database.page_count * PAGE_SIZE,
        "log_bytes": database.log_bytes,
        "is_open": database.demand.current is not None,
        "problem": database.problem,
    }
