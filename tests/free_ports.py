"""Ports for the nodes that tests start.

Not those that the system gives to whoever asks for any: between the moment in which a test has
chosen one and that in which its node listens there, some outgoing connection might get it.
"""

import random
import socket
from typing import Final

HOST: Final = "127.0.0.1"
PORTS: Final = range(12_000, 21_000)  # those from there on are the torture's
_chance = random.SystemRandom()  # two runs of the tests beside each other choose different ones
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, and that nobody else here was given."""
    return [free_block(1) for _ in range(count)]


def free_block(size: int) -> int:
    """Return the first of so many such ports in a row."""
    for _ in range(1000):
        first = _chance.randrange(PORTS.start, PORTS.stop - size)
        block = range(first, first + size)
        if _given.isdisjoint(block) and all(map(_is_free, block)):
            _given.update(block)
            return first
    raise AssertionError(f"no {size} free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
