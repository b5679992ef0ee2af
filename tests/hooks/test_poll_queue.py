"""The trigger that waits until the next attempt of an upload."""

from __future__ import annotations

import asyncio
import time

import pytest

from datatile_provider.triggers.datatile import DatatileRetryTrigger
from tests.support.clock import SetClock


async def wait_time(trigger: DatatileRetryTrigger) -> float:
    """Return the seconds until the trigger's only event."""
    started = time.monotonic()
    assert [event.payload async for event in trigger.run()] == [{"version": 1, "retry": True}]
    return time.monotonic() - started


@pytest.mark.parametrize(("set_by", "shortest"), [(-3600, 0.25), (0, 0.25), (3600, 0)])
async def test_it_does_not_sleep_longer_when_the_clock_is_set_back(monkeypatch, set_by, shortest):
    _, kwargs = DatatileRetryTrigger(until=time.time() + 0.3).serialize()
    monkeypatch.setattr("datatile_provider.triggers.datatile.time", SetClock(set_by))
    assert shortest <= await asyncio.wait_for(wait_time(DatatileRetryTrigger(**kwargs)), 2) < 1


async def test_it_accepts_the_arguments_of_older_and_newer_versions():
    assert 0.05 <= await wait_time(DatatileRetryTrigger(until=time.time() + 0.1)) < 1
    assert 0.05 <= await wait_time(DatatileRetryTrigger(until=time.time() + 0.1, delay=0.1, colour="red")) < 1
