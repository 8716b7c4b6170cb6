"""Whether a node may start as it is told to: who could reach it, and what would stop them.

Pure. On loopback a node without tokens is open: whoever is on the machine may use it. On any
other address it needs access tokens, or somebody who says `--insecure`.
"""

import ipaddress

from d1server.config import Address, NodeConfig, Role

_MAKE_TOKEN = "`d1server token create --data-dir {} --name admin --scope admin`"
_LINK_ADVICE = (
    "give --replication-token (made at the primary with `d1server token create --scope replicate`)"
    ", or --tls-ca, --tls-cert and --tls-key"
)
_OR_INSECURE = "or say --insecure if everybody who can reach it may read and write everything"


class NodeExposed(Exception):
    """The node would be open to others; the message says what to do."""


def is_loopback(address: Address) -> bool:
    """Whether only programs of this machine reach the address."""
    host = address.host.partition("%")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: it may be anywhere tomorrow
        return False


def may_be_open(config: NodeConfig) -> bool:
    """Whether this node may serve requests without tokens while the catalog has none."""
    if config.replication_token is not None:
        return False  # its primary has tokens, whatever this node knows of them yet
    ours = [address for address in (config.listen, config.replication) if address is not None]
    return config.insecure or all(is_loopback(address) for address in ours)


def check_exposure(config: NodeConfig, *, has_tokens: bool) -> None:
    """Raise `NodeExposed` if the node must not listen where it is told to."""
    if config.insecure:
        return
    if config.role is Role.PRIMARY:
        _check_primary(config, has_tokens)
    elif config.replication_token is None and not config.tls:
        _check_replica(config, has_tokens)


def _check_primary(config: NodeConfig, has_tokens: bool) -> None:
    for address, flag in ((config.listen, "--listen"), (config.replication, "--replication")):
        if address is not None and not has_tokens and not is_loopback(address):
            raise NodeExposed(
                f"{flag} {address} can be reached from other machines and there is no access "
                f"token: make one with {_MAKE_TOKEN.format(config.data_dir)}, {_OR_INSECURE}"
            )


def _check_replica(config: NodeConfig, has_tokens: bool) -> None:
    """Of a replica that has nothing to tell its primary from an impostor."""
    assert config.primary is not None
    if not is_loopback(config.primary):
        raise NodeExposed(
            f"nothing tells the primary at {config.primary} from an impostor: {_LINK_ADVICE}, or "
            "say --insecure if you trust everybody on the way"
        )
    if not has_tokens and not is_loopback(config.listen):
        raise NodeExposed(
            f"--listen {config.listen} can be reached from other machines and this replica "
            f"knows of no access token: {_LINK_ADVICE}, {_OR_INSECURE}"
        )
