"""When a lost primary is dialled again, and who is held until then."""

import asyncio
import time

import pytest

import replica.redial
from replica.redial import HELD_S, PAUSE_S_MAX, PAUSE_S_MIN, Redial, next_pause_s
from tests.waiting import until


def test_pause_is_short_after_a_restart_and_long_after_hours() -> None:
    assert next_pause_s(0.0) == PAUSE_S_MIN
    assert next_pause_s(2.0) == 0.2
    assert next_pause_s(86_400.0) == PAUSE_S_MAX


async def test_held_request_goes_on_with_the_link() -> None:
    redial = Redial()
    held = [asyncio.create_task(redial.is_back(60.0)) for _ in range(3)]
    await until(lambda: redial.held == 3, "the requests")
    redial.on_failed()  # the primary is not there yet: it is away for a moment only
    await asyncio.sleep(0)
    assert redial.held == 3
    redial.on_following()
    assert await asyncio.gather(*held) == [True, True, True]
    assert redial.held == 0


async def test_request_for_a_primary_that_is_away_for_long_hears_of_the_next_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica.redial, "HELD_S", 0.0)
    monkeypatch.setattr(replica.redial, "_TRY_S_MAX", 1000.0)
    redial = Redial()
    asked = asyncio.create_task(redial.is_back(1000.0))
    await until(lambda: redial.held == 1, "the request")
    redial.on_failed()
    assert await asked is False


async def test_refusal_is_told_at_once() -> None:
    redial = Redial()
    asked = asyncio.create_task(redial.is_back(1000.0))
    await until(lambda: redial.held == 1, "the request")
    redial.on_failed(is_final=True)
    assert await asked is False


async def test_request_cuts_the_pause_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica.redial, "next_pause_s", lambda _away_s: 1000.0)
    redial = Redial()
    pausing = asyncio.create_task(redial.pause())
    asked = asyncio.create_task(redial.is_back(1000.0))
    async with asyncio.timeout(20):
        await pausing
        await redial.pause()  # and the next ones, while somebody is held
    asked.cancel()
    await asyncio.wait([asked])
    assert redial.held == 0


async def test_nobody_is_held_for_ever() -> None:
    """Nor at all, if there is no time."""
    redial = Redial()
    began = time.monotonic()
    assert await redial.is_back(0.05) is False
    assert time.monotonic() - began < HELD_S
    assert await redial.is_back(0.0) is False
