"""How long things took, as counts by powers of two: small, and sums are sums.

A quantile is told between the two powers that it lies between, as if what fell there were spread
evenly: at most twice or half of what it was, and exact where all took about as long.

Pure.
"""

from collections.abc import Sequence
from itertools import zip_longest
from math import ldexp
from typing import Final

import orjson

BUCKETS: Final = 40
"""Bucket b counts what took up to 2 ** (b - 20) ms, the last one all that took longer."""
BUCKET_OF_ONE: Final = 20
LONG_MS: Final = float(2 ** (BUCKETS - BUCKET_OF_ONE - 2))
"""From here on it is the last bucket's. Below, it is that of `frexp` and BUCKET_OF_ONE."""

NOTHING: Final = "[]"
"""What stands where nothing was counted: rows of an older version."""


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """About how long the fastest `share` took at most, in ms; None: nothing was counted."""
    wanted, seen = sum(buckets) * share, 0
    for bucket, count in enumerate(buckets):
        if count and seen + count >= wanted:
            top = ldexp(1.0, bucket - BUCKET_OF_ONE)
            return top / 2 + top / 2 * (wanted - seen) / count
        seen += count
    return None


def summed(all_buckets: Sequence[Sequence[int]]) -> list[int]:
    """Counts of several together."""
    return [sum(counts) for counts in zip_longest(*all_buckets, fillvalue=0)]


def stored(buckets: Sequence[int]) -> str:
    """As text, for a table."""
    return orjson.dumps(buckets).decode()


def read(text: str) -> list[int]:
    """Read it again."""
    counts: list[int] = orjson.loads(text)
    return counts


def added(one: str, other: str) -> str:
    """The sum of two texts; SQL calls it."""
    return stored(summed([read(one), read(other)]))
