"""One chapter of a run: a new database, sessions on it, something that happens, a full check.

At the end of a chapter all nodes are up, the sessions have stopped, and then:

1. every replica reaches the primary's bookmark, and has its checksum;
2. the history of the sessions keeps every promise (`checker.py`): no acknowledged write is
   lost, and no session saw anything that it must not see;
3. after a clean stop of all nodes, every replica's files equal the primary's page by page;
4. no node has printed a stack trace.

What is found goes into the report; the chapter itself raises nothing but a bug of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable

from tests.torture.cluster import Cluster, Trouble
from tests.torture.history import History, write_jsonl
from tests.torture.report import Report
from tests.torture.sessions import Load, open_load

SESSIONS = 6
LOG_MARKS = ("Traceback (most recent call last)",)

Happening = Callable[[Load], Awaitable[None]]


async def run_chapter(
    cluster: Cluster,
    report: Report,
    name: str,
    happening: Happening,
    *,
    seed: int,
    is_heavy: bool = False,
) -> None:
    """Run sessions on the new database `name` while `happening` lasts; check everything."""
    loads: list[Load] = []
    try:
        load = await open_load(cluster, name, seed, is_heavy=is_heavy)
        loads.append(load)
        async with asyncio.TaskGroup() as group:
            sessions = [group.create_task(load.run_session()) for _ in range(SESSIONS)]
            await happening(load)
            for session in sessions:
                session.cancel()
        await verify(cluster, report, load)
    except* Trouble as group_of:
        for trouble in _leaves(group_of):
            report.add_trouble(trouble, name)
        for load in loads:
            _keep(report, load)
    finally:
        for load in loads:
            await load.close()


async def verify(cluster: Cluster, report: Report, load: Load) -> None:
    """Check all that must hold when the sessions of a chapter have ended; see the module's head."""
    await cluster.start()
    await cluster.wait_equal()
    history = await load.history()
    report.add_history(history, load.database)
    await cluster.stop()
    report.files_compared += cluster.compare_files()
    if marks := cluster.log_marks(*LOG_MARKS):
        report.add_violations(marks, f"{load.database}, logs")
    await cluster.start()
    failures = ", ".join(f"{what}: {count}" for what, count in load.failures.most_common(8))
    report.say(
        f"{load.database}: {len(history.events)} events, {len(history.ledger)} writes in the "
        f"ledger; failed requests: {failures or 'none'}"
    )


def _leaves(group: BaseExceptionGroup[Trouble]) -> list[Trouble]:
    found: list[Trouble] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found


def _keep(report: Report, load: Load) -> None:
    """Keep the events of a chapter that did not come to its end; its ledger is unknown."""
    history = History(events=load.events, ledger=[], initial={}, base=load.base, head=load.base)
    report.add_events(history)
    write_jsonl(history, report.folder / f"{load.database}.jsonl")
