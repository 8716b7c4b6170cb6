"""URLs that carry their own authority: one method, one path, until a time.

Whoever is given such a URL needs no token: D1's clients send none there. The signature is
an HMAC-SHA256 with a key that stays in the node's folder, so only this node makes and takes
them, also after a restart.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from engine.files import Disk

SignUrl: TypeAlias = Callable[[str, str, float], str]
"""The absolute URL for a method, a path and seconds of validity."""

SIGNED_PREFIX: Final = "/signed/"
"""All signed paths begin so, and nothing else does: what stands there checks for itself."""

_KEY_BYTES: Final = 32


class UrlRefused(Exception):
    """A signed URL that was changed, is of another node, or is too old."""


class UrlSigner:
    """Makes and checks them."""

    def __init__(self, key: bytes) -> None:
        """Sign with `key`."""
        self._key = key

    def sign(self, method: str, path: str, *, valid_s: float) -> str:
        """The path with its signature."""
        assert path.startswith(SIGNED_PREFIX), path
        expires = int(time.time() + valid_s)
        return f"{path}?expires={expires}&signature={self._signature(method, path, str(expires))}"

    def check(self, method: str, path: str, query: Mapping[str, str]) -> None:
        """Raise `UrlRefused` unless `sign` made this, and not too long ago."""
        expires, signature = query.get("expires", ""), query.get("signature", "")
        wanted = self._signature(method, path, expires)
        if not hmac.compare_digest(wanted.encode(), signature.encode("utf-8", "replace")):
            raise UrlRefused("the signature does not fit this URL: use it exactly as it was given")
        if int(expires) < time.time():
            raise UrlRefused("this URL has expired: ask for a new one")

    def _signature(self, method: str, path: str, expires: str) -> str:
        text = f"{method}\n{path}\n{expires}".encode("utf-8", "replace")
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


def open_signer(path: Path, disk: Disk) -> UrlSigner:
    """The signer with the key in this file, which is made if it is not there; blocking."""
    if not path.exists():
        disk.replace_file(path, secrets.token_bytes(_KEY_BYTES))
    return UrlSigner(path.read_bytes())
