"""The composition root: from a configuration to a running node, and back.

Start order: data directory (locked), databases and catalog, replication, HTTP. Stop order:
HTTP (requests in flight end), replication, databases (durable, checkpointed), threads,
lock.
"""

import asyncio
import gc
import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import apsw

from d1server.access.exposure import is_loopback
from d1server.access.grants import Access
from d1server.config import Address, NodeConfig, Role
from d1server.datadir import open_data_dir
from d1server.primary_node import PrimaryNode
from d1server.replica_node import ReplicaNode
from d1server.replication_metrics import ReplicationCollector
from d1server.web.limits import HttpLimits
from d1server.web.serve import serving
from engine.files import Disk
from engine.openings import Openings
from engine.resources import Resources
from engine.threads import Threads

logger = logging.getLogger(__name__)

SQLITE_MIN: Final = (3, 53, 2)
"""Earlier ones have the WAL-reset bug (fixed in 3.51.3) or CVE-2026-11824."""
_IO_THREADS_MAX: Final = 8
_DESCRIPTORS_MAX: Final = 65_536
_DESCRIPTORS_FEW: Final = 1024
_DESCRIPTORS_OWN: Final = 32  # of a node that serves nobody yet
_CONNECTIONS_MIN: Final = 8
_DESCRIPTORS_PER_OPEN: Final = 24
"""A database that is open has about ten; as many again are left for connections."""
_READ_THREADS_MAX: Final = 8


class SqliteTooOld(Exception):
    """The SQLite in use has bugs that lose data."""


async def run_node(config: NodeConfig, renew_tls: asyncio.Event | None = None) -> None:
    """Run the node of this configuration until cancelled; `renew_tls` has certificates read anew.

    Raises `DataDirRefused`, `SqliteTooOld`, `NodeExposed`, `TlsInvalid`, `OSError` (an address
    in use), `EngineError`.
    """
    check_sqlite(apsw.sqlite_lib_version())
    open_max, connections_max = share_descriptors(
        raise_descriptor_limit(), config.open_databases_max
    )
    disk = Disk()
    with (
        open_data_dir(config.data_dir, config.role.value, disk) as data,
        open_resources(config, disk, open_max) as resources,
    ):
        config = config.named(data.identity.node)
        kind = PrimaryNode if config.role is Role.PRIMARY else ReplicaNode
        node = kind(config, data, resources)
        is_tls = node.tls.http is not None
        limits = HttpLimits(body_bytes_max=config.body_bytes_max, connections_max=connections_max)
        async with (
            node.running(),
            serving(
                node,
                config.listen.host,
                config.listen.port,
                limits=limits,
                collectors=[ReplicationCollector(node.status, resources.flush_s)],
                tls=(lambda: node.tls.http) if is_tls else None,
                open_metrics=config.open_metrics,
            ) as front,
        ):
            logger.info(
                "%s %s (%s) serves %s://%s:%s", config.role.value, config.name, config.region,
                "https" if is_tls else "http", *front.address,
            )  # fmt: skip
            if node.transfers is not None and config.public_url is None:
                node.transfers.base_url = url_at(*front.address, is_tls=is_tls)
            tell_openness(config, node.access)
            settle_garbage_collector()
            await node.tls.keep_renewed(renew_tls or asyncio.Event())


def url_at(host: str, port: int, *, is_tls: bool) -> str:
    """The URL of this node as far as it can tell; if it listens everywhere, by its host name."""
    is_everywhere = host in ("0.0.0.0", "::")
    address = Address(socket.gethostname() if is_everywhere else host, port)
    return f"{'https' if is_tls else 'http'}://{address}"


def tell_openness(config: NodeConfig, access: Access) -> None:
    """Say once what somebody who starts a node should know of its doors."""
    link = config.replication or config.primary
    if access.is_open and config.insecure:
        logger.warning("--insecure and no access tokens: whoever reaches this node may do anything")
    elif link is not None and not is_loopback(link) and not config.tls:
        logger.warning("the link with %s is not encrypted: --tls-cert, --tls-key, --tls-ca", link)


def check_sqlite(version: str) -> None:
    """Raise `SqliteTooOld` unless this version is safe."""
    if tuple(map(int, version.split("."))) < SQLITE_MIN:
        wanted = ".".join(map(str, SQLITE_MIN))
        raise SqliteTooOld(f"SQLite {version} is not safe, {wanted} or newer is: update apsw")


def settle_garbage_collector() -> None:
    """Look for cycles seldom: requests make none, and each look costs time at the worst moment.

    What the node was built from is taken out of the search.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def share_descriptors(limit: int, open_databases_max: int) -> tuple[int, int]:
    """How many databases may be open at once, and how many connections of clients.

    Connections never take what the databases need: those could not be opened for anybody then.
    """
    open_max = max(1, min(open_databases_max, limit // _DESCRIPTORS_PER_OPEN))
    free = limit - _DESCRIPTORS_OWN - _DESCRIPTORS_PER_OPEN // 2 * open_max
    connections_max = max(_CONNECTIONS_MIN, min(free, HttpLimits().connections_max))
    if limit < _DESCRIPTORS_FEW:
        logger.warning(
            "the system allows this node %d descriptors: so %d databases may be open, and %d"
            " clients connected; raise it (ulimit -n, LimitNOFILE=)",
            limit, open_max, connections_max,
        )  # fmt: skip
    return open_max, connections_max


def raise_descriptor_limit() -> int:
    """Use as many descriptors as the system allows; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_MAX)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


@contextmanager
def open_resources(config: NodeConfig, disk: Disk, open_max: int = 16) -> Iterator[Resources]:
    """What the databases of one node share, for as long as the block lasts."""
    io, readers = Threads("io", _IO_THREADS_MAX), Threads("read", _READ_THREADS_MAX)
    try:
        yield Resources(
            disk=disk,
            limits=config.sql,
            io=io,
            readers=readers,
            query_deadline_s=config.query_deadline_s,
            log_bytes_max=config.log_bytes_max,
            openings=Openings(max(1, open_max)),
        )
    finally:
        readers.close()
        io.close()
