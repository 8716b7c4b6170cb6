"""Administration of a primary's data directory while no node runs there.

This is how the first access token comes into a cluster that listens on a network: whoever has
the folder may do everything. The same code as the running node's writes the same commits; its
replicas get them when it runs again.
"""

from pathlib import Path

from d1server.access.grants import EVERYTHING
from d1server.config import Address, NodeConfig, Role
from d1server.datadir import open_data_dir
from d1server.node import open_resources
from d1server.primary_node import PrimaryNode
from d1server.query import AdminRequest, Answer
from engine.files import Disk

_NOWHERE = Address("127.0.0.1", 0)  # nothing listens


async def administer_offline(data_dir: Path, op: str, *, name: str = "", body: bytes) -> Answer:
    """Run one administration call; makes the folder a primary's if there is nothing in it.

    Raises `DataDirRefused`, `OSError`, `EngineError`.
    """
    config = NodeConfig(
        role=Role.PRIMARY, data_dir=data_dir, listen=_NOWHERE, replication=_NOWHERE, name="offline"
    )
    disk = Disk()
    with (
        open_data_dir(data_dir, config.role.value, disk) as data,
        open_resources(config, disk) as resources,
    ):
        node = PrimaryNode(config, data, resources)
        async with node.opened():
            request = AdminRequest(op=op, database=name, body=body, hops=0, grant=EVERYTHING)
            return await node.administer(request)
