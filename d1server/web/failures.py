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


class _Tries:
    """What one address has left."""

    __slots__ = ("is_told", "left", "since")

    def __init__(self, now: float) -> None:
        self.left = _BURST
        self.since = now
        self.is_told = False  # to the log, since there was a pause

    def note(self, now: float) -> int:
        """Count one failure; the seconds to stay away for."""
        self.left = min(_BURST, self.left + (now - self.since) * _PER_S)
        self.since = now
        if self.left == _BURST:
            self.is_told = False
        if self.left >= 1.0:
            self.left -= 1.0
            return 0
        return int((1.0 - self.left) / _PER_S) + 1


class FailureBook:
    """Failed tries by address; on the event loop."""

    def __init__(
        self,
        addresses_max: int = _ADDRESSES_MAX,
        *,
        told: str = "many requests of %s have no valid access token",
    ) -> None:
        """`told` is what the log hears of an address, once until it pauses."""
        self._addresses_max = addresses_max
        self._told = told
        self._found: OrderedDict[str, _Tries] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def note(self, address: str, now: float) -> int:
        """Count one failure; the seconds to stay away for, 0 while there are few."""
        key = _network(address)
        tries = self._found.pop(key, None) or _Tries(now)
        self._found[key] = tries
        wait_s = tries.note(now)
        if wait_s and not tries.is_told:
            tries.is_told = True
            logger.warning(self._told, key)
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
