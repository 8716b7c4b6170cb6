"""Nodes killed at random moments under load, and what must hold afterwards.

The run is cut into chapters (`chapters.py`) of some strikes each. Databases of earlier chapters
stay for a while, so that starts recover more than one. A strike leaves all nodes up and answering.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from tests.torture.chapters import run_chapter
from tests.torture.cluster import Cluster, NodeProcess, Trouble
from tests.torture.report import Report
from tests.torture.sessions import Load

STRIKES_PER_CHAPTER = 10
CHAPTERS_KEPT = 3
HEAVY_EVERY = 4  # chapters: one has large commits, checkpoints, trimmed logs, file copies
BEFORE_S_MAX = 0.4  # of load before a strike
DOWN_S_MAX = 0.4
PAUSE_S_MAX = 0.6
BOOTSTRAP_S_MAX = 1.2  # a start takes about half of this: kills before, in and after a bootstrap
VACUUM_S_MAX = 0.03
PROGRESS_REQUESTS = 5  # answered by each node before the next strike
PROGRESS_S_MAX = 60.0


class Nemesis:
    """Strikes at random; after each strike every node is up and answers."""

    def __init__(self, cluster: Cluster, load: Load, report: Report, rng: random.Random) -> None:
        self._cluster = cluster
        self._load = load
        self._report = report
        self._rng = rng
        self._strikes: dict[Callable[[], Awaitable[None]], int] = {  # each with its weight
            self._kill_primary: 34,
            self._kill_replica: 30,
            self._kill_all: 8,
            self._kill_in_vacuum: 10,
            self._kill_in_bootstrap: 8,
            self._pause_replica: 5,
            self._kill_paused_replica: 5,
        }

    async def strike(self) -> None:
        """Wait a random moment, strike once, and wait until all nodes answer again."""
        await self._moment(BEFORE_S_MAX)
        [strike] = self._rng.choices(list(self._strikes), list(self._strikes.values()))
        await strike()
        await self._cluster.start()
        await self._wait_progress()

    async def _moment(self, seconds_max: float) -> None:
        await asyncio.sleep(self._rng.random() * seconds_max)

    async def _kill(self, node: NodeProcess) -> None:
        node.assert_alive()
        await node.kill()
        self._report.kills += 1

    def _replica(self) -> NodeProcess:
        return self._rng.choice(self._cluster.replicas)

    async def _kill_primary(self) -> None:
        await self._kill(self._cluster.primary)
        await self._moment(DOWN_S_MAX)

    async def _kill_replica(self) -> None:
        await self._kill(self._replica())
        await self._moment(DOWN_S_MAX)

    async def _kill_all(self) -> None:
        for node in self._rng.sample(self._cluster.nodes, len(self._cluster.nodes)):
            await self._kill(node)

    async def _kill_in_vacuum(self) -> None:
        vacuum = asyncio.create_task(self._cluster.vacuum(self._load.database))
        await self._moment(VACUUM_S_MAX)
        await self._kill(self._rng.choice(self._cluster.nodes))
        await vacuum

    async def _kill_in_bootstrap(self) -> None:
        replica = self._replica()
        await self._kill(replica)
        replica.wipe()
        await replica.start()
        await self._moment(BOOTSTRAP_S_MAX)
        await self._kill(replica)

    async def _pause_replica(self) -> None:
        replica = self._replica()
        replica.pause()
        self._report.pauses += 1
        await self._moment(PAUSE_S_MAX)
        replica.resume()

    async def _kill_paused_replica(self) -> None:
        replica = self._replica()
        replica.pause()
        self._report.pauses += 1
        await self._moment(PAUSE_S_MAX)
        await self._kill(replica)

    async def _wait_progress(self) -> None:
        """Wait until each node has answered a few requests: it is not only up, it works."""
        before = self._load.answers_by_node.copy()
        deadline = time.monotonic() + PROGRESS_S_MAX
        for node in self._cluster.nodes:
            while self._load.answers_by_node[node.name] < before[node.name] + PROGRESS_REQUESTS:
                node.assert_alive()
                if time.monotonic() > deadline:
                    where = await node.abort()
                    raise Trouble(f"{node.name} is ready and yet answers nothing:\n{where}")
                await asyncio.sleep(0.01)


async def run_kills(cluster: Cluster, report: Report, *, kills: int, seed: int) -> None:
    """Run chapters until `kills` nodes have been killed; ends early at the first violation."""
    target = report.kills + kills
    chapter = 0
    while report.kills < target and not report.violations:
        chapter += 1
        strikes = min(STRIKES_PER_CHAPTER, target - report.kills)
        rng = random.Random(f"{seed} kills {chapter}")

        async def strikes_on(load: Load, count: int = strikes, rng: random.Random = rng) -> None:
            nemesis = Nemesis(cluster, load, report, rng)
            for _ in range(count):
                await nemesis.strike()

        is_heavy = chapter % HEAVY_EVERY == 2
        name = f"kills-{chapter}"
        await run_chapter(cluster, report, name, strikes_on, seed=seed, is_heavy=is_heavy)
        report.say(f"chapter {chapter}: {report.kills} of {target} kills")
        if chapter > CHAPTERS_KEPT and not report.violations:
            await cluster.delete(f"kills-{chapter - CHAPTERS_KEPT}")


async def run_sessions(cluster: Cluster, report: Report, *, seconds: float, seed: int) -> None:
    """Let sessions hop between healthy nodes for some seconds, with a VACUUM now and then."""

    async def vacuums_on(load: Load) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(min(2.0, seconds / 4))
            await cluster.vacuum(load.database)

    await run_chapter(cluster, report, "sessions", vacuums_on, seed=seed, is_heavy=True)
