"""The moment between a commit's publication to readers and the note that it is applied."""

import asyncio
import threading

import pytest

from engine.inject import Injector
from tests.cluster.running_cluster import Cluster
from tests.waiting import until


async def test_a_bookmark_is_not_older_than_a_commit_seen_while_it_is_published(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever saw a large commit's row may not be given the bookmark from before it.

    Method: the thread that applies the commit is held just after it became visible.
    """
    await cluster.primary.run("CREATE TABLE big (x)")
    await cluster.equal()
    replica = cluster.replicas[0]
    opened = replica.replica_of().demand.current
    assert opened is not None
    published, go_on = threading.Event(), threading.Event()
    publish = Injector.publish

    def publish_and_wait(injector: Injector, page_count: int) -> None:
        publish(injector, page_count)
        if injector is opened.live.injector:
            published.set()
            assert go_on.wait(20)

    monkeypatch.setattr(Injector, "publish", publish_and_wait)
    try:
        large = await cluster.primary.run(
            "INSERT INTO big WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
            "WHERE i < 12000) SELECT randomblob(1000) FROM n"
        )
        await until(published.is_set, "the commit's publication")
        seen = await replica.sql("SELECT count(*) FROM big", session="first-unconstrained")
        assert seen.value == 12000
        assert seen.mark >= large
    finally:
        go_on.set()
    await asyncio.wait_for(cluster.equal(), 20)
