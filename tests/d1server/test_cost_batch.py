"""Batches of query costs as values: what the primary takes of one, and what it refuses."""

import msgspec
import pytest

from d1server.insights.cost_batch import (
    BATCH_BYTES_MAX,
    KEPT_HOURS,
    ROWS_MAX,
    CostBatch,
    HourlyCosts,
    QueryRow,
    UsageRow,
    acceptable,
    decode_batch,
    encode_batch,
    summed,
)
from d1server.insights.durations import BUCKETS
from d1server.insights.statement_text import SHOWN_CHARS_MAX
from proto.errors import RequestInvalid

NOW = 500_000 * 3600 + 1800
HOUR = NOW // 3600
SHOP = "0e37df7f-8b1a-4f0e-9d4a-2d8f27f7d4a1"
QUERY = QueryRow(SHOP, HOUR, "SELECT ?", 2, 1.5, 3, 4, 5, NOW)
USAGE = UsageRow(SHOP, HOUR, 1, 2, 3, 4, 5.5, 6, [1] * BUCKETS)


def batch(*, query: QueryRow = QUERY, usage: UsageRow = USAGE, copies: int = 1) -> CostBatch:
    return CostBatch("source", 1, HourlyCosts([query] * copies, [usage]))


def test_a_full_batch_passes_as_it_is() -> None:
    sent = batch(query=QUERY._replace(query="\U0001f600" * SHOWN_CHARS_MAX), copies=ROWS_MAX)
    assert len(encode_batch(sent)) < BATCH_BYTES_MAX
    assert decode_batch(encode_batch(sent)) == sent
    timed = batch(query=QUERY._replace(buckets=(2**53,) * BUCKETS), copies=ROWS_MAX)
    assert decode_batch(encode_batch(timed)) == timed


def test_an_older_replica_counts_no_durations() -> None:
    """Its rows end before them."""
    older = ("source", 1, ([QUERY[:-1]], [USAGE]))
    assert decode_batch(msgspec.msgpack.encode(older)) == batch()


@pytest.mark.parametrize(
    "refused",
    [
        batch(copies=ROWS_MAX + 1),
        batch(query=QUERY._replace(query="x" * (SHOWN_CHARS_MAX + 1))),
        batch(query=QUERY._replace(runs=-1)),
        batch(query=QUERY._replace(buckets=(0,) * (BUCKETS + 1))),
        batch(query=QUERY._replace(buckets=(-1,))),
        batch(query=QUERY._replace(rows_read=2**60)),
        batch(query=QUERY._replace(duration_ms=float("nan"))),
        batch(query=QUERY._replace(duration_ms=float("inf"))),
        batch(usage=USAGE._replace(buckets=[0] * (BUCKETS - 1))),
        batch(usage=USAGE._replace(database="x" * 37)),
        CostBatch("", 1, HourlyCosts([], [])),
        CostBatch("source", 0, HourlyCosts([], [])),
    ],
)
def test_what_is_out_of_bounds_is_refused(refused: CostBatch) -> None:
    with pytest.raises(RequestInvalid):
        decode_batch(encode_batch(refused))


@pytest.mark.parametrize("body", [b"", b"{}", b"\xc1", msgspec.msgpack.encode([1]), b"\x91" * 9000])
def test_what_is_no_batch_is_refused(body: bytes) -> None:
    with pytest.raises(RequestInvalid):
        decode_batch(body)
    with pytest.raises(RequestInvalid):
        decode_batch(body + bytes(BATCH_BYTES_MAX))


def test_only_known_databases_and_kept_hours_count() -> None:
    """What a clock ahead of ours saw, it saw now; two of its hours may become one."""
    hours = (HOUR - KEPT_HOURS - 1, HOUR - KEPT_HOURS, HOUR, HOUR + 9)
    costs = HourlyCosts(
        [QUERY._replace(hour=hour, last_seen=hour * 3600) for hour in hours],
        [USAGE._replace(hour=hour) for hour in hours],
    )
    taken = acceptable(costs, NOW, lambda database: database == SHOP)
    assert [row.hour for row in taken.queries] == [HOUR - KEPT_HOURS, HOUR, HOUR]
    assert [row.last_seen for row in taken.queries][1:] == [HOUR * 3600, NOW]
    assert [row.hour for row in taken.usage] == [HOUR - KEPT_HOURS, HOUR, HOUR]
    assert acceptable(costs, NOW, lambda _: False) == HourlyCosts([], [])

    sums = summed(taken.usage)
    assert sums[SHOP, HOUR - KEPT_HOURS].reads == 1
    twice = UsageRow(SHOP, HOUR, 2, 4, 6, 8, 11.0, 12, [2] * BUCKETS)
    assert sums[SHOP, HOUR] == twice
