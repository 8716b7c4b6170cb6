"""The time without a link: how soon the primary is dialled again, and who is held until it is back.

    a restart of seconds    tried every few tenths of a second; requests are held
    away for longer         tried seldom, but at once when somebody has a request for it, who is
                            told how that try ended

A held request was not sent, to nobody: it may wait. What was sent is never sent again.

Bounds: a pause is a tenth of the time that the link has been away for, so that a primary that
comes back is found soon, and one that is away for hours is not stormed; about `PAUSE_S_MIN` is the
least. Nobody is held for longer than `HELD_S`. Owned by the receiver, on the event loop.
"""

import asyncio
import contextlib
import random
import time
from typing import Final

PAUSE_S_MIN: Final = 0.05
PAUSE_S_MAX: Final = 2.0
HELD_S: Final = 5.0  # since the link was lost: what a restart takes
_TRY_S_MAX: Final = 1.0  # and so long for one more try, when it has been away for longer


def next_pause_s(away_s: float) -> float:
    """The pause after a try that failed, `away_s` after the link was lost; before jitter."""
    return min(max(away_s / 10, PAUSE_S_MIN), PAUSE_S_MAX)


class Redial:
    """See the module's head."""

    def __init__(self) -> None:
        """There is no link yet."""
        self._away_since: float | None = time.monotonic()  # None: there is a link
        self._held: set[asyncio.Future[bool]] = set()  # whether the link is back
        self._wanted = asyncio.Event()

    @property
    def held(self) -> int:
        """Requests that wait for the link now."""
        return len(self._held)

    def on_following(self) -> None:
        """The primary has taken us on."""
        self._away_since = None
        self._release(is_back=True)

    def on_lost(self) -> None:
        """The link is gone."""
        if self._away_since is None:
            self._away_since = time.monotonic()

    def on_failed(self, *, is_final: bool = False) -> None:
        """A try has failed; `is_final`: the next ones will, too."""
        if is_final or self._away_s >= HELD_S:
            self._release(is_back=False)

    async def pause(self) -> None:
        """Return when the primary is to be dialled again."""
        pause_s = next_pause_s(self._away_s) * random.uniform(0.5, 1.0)
        self._wanted.clear()
        await asyncio.sleep(min(pause_s, PAUSE_S_MIN))
        if not self._held:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s - PAUSE_S_MIN):
                    await self._wanted.wait()

    async def is_back(self, within_s: float) -> bool:
        """Have the primary dialled now; whether it takes us within the time that is worth it."""
        held_s = min(within_s, max(HELD_S - self._away_s, _TRY_S_MAX))
        if held_s <= 0:
            return False
        back: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._held.add(back)
        self._wanted.set()
        try:
            async with asyncio.timeout(held_s):
                return await back
        except TimeoutError:
            return False
        finally:
            self._held.discard(back)

    @property
    def _away_s(self) -> float:
        return 0.0 if self._away_since is None else time.monotonic() - self._away_since

    def _release(self, *, is_back: bool) -> None:
        for one in self._held:
            if not one.done():
                one.set_result(is_back)
