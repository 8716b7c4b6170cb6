"""Turns raw samples into the percentiles of a report.

Raw samples, not buckets: a run keeps at most a few million of them (8 bytes each), and the
percentiles are then exact.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The distribution of one run, in microseconds."""

    count: int
    mean_us: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float


def summarize(samples_ns: Iterable[int]) -> Latency:
    """Return the distribution of `samples_ns`; all zero for an empty run."""
    values: npt.NDArray[np.uint64] = np.fromiter(samples_ns, dtype=np.uint64)
    if values.size == 0:
        return Latency(count=0, mean_us=0.0, p50_us=0.0, p99_us=0.0, p999_us=0.0, max_us=0.0)
    p50, p99, p999, top = (float(v) / 1e3 for v in np.percentile(values, [50, 99, 99.9, 100]))
    return Latency(
        count=int(values.size),
        mean_us=round(float(values.mean()) / 1e3, 1),
        p50_us=round(p50, 1),
        p99_us=round(p99, 1),
        p999_us=round(p999, 1),
        max_us=round(top, 1),
    )
