"""Who keeps coming without a token: a count of failures for each address, in bounded memory.

A valid token is never refused because of others behind the same address (a proxy has one
for everybody); this only slows down and quietens those who have none.
"""

import ipaddress
import logging
from collections import OrderedDict
from typing import Final

logger = logging.getLogger(__name__)

_BURST: Final = 20.0  # failures at once before an address is slowed down
_PER_S: Final = 0.5  # then so many more each second
_ADDRESSES_MAX: Final = 4096  # the one not heard of for longest is forgotten first


class FailureBook:
    """Failed tries by address; on the event loop."""

    def __init__(self, addresses_max: int = _ADDRESSES_MAX) -> None:
        self._addresses_max = addresses_max
        self._found: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tries left, since when

    def __len__(self) -> int:
        return len(self._found)

    def note(self, address: str, now: float) -> int:
        """Count one failure; the seconds to stay away for, 0 while there are few."""
        key = _network(address)
        left, since = self._found.pop(key, (_BURST, now))
        left = min(_BURST, left + (now - since) * _PER_S)
        wait_s = 0
        if left >= 1.0:
            left -= 1.0
            if left < 1.0:
                logger.warning("many requests of %s have no valid token", key)
        else:
            wait_s = int((1.0 - left) / _PER_S) + 1
        self._found[key] = (left, now)
        if len(self._found) > self._addresses_max:
            self._found.popitem(last=False)
        return wait_s


def _network(address: str) -> str:
    """What one customer of a provider has: an IPv4 address, or the first half of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
