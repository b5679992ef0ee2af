"""The trigger that waits for an upload's turn."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from datatile_provider.triggers.datatile import DatatileRetryTrigger


async def turn(trigger: DatatileRetryTrigger) -> float:
    begun = time.monotonic()
    async for _ in trigger.run():
        break
    return time.monotonic() - begun


@pytest.mark.parametrize("set_by", [-3600, 0, 3600])
async def test_it_does_not_sleep_longer_when_the_clock_is_set_back(monkeypatch, set_by):
    _, kwargs = DatatileRetryTrigger(until=time.time() + 0.3).serialize()
    clock = SimpleNamespace(time=lambda: time.time() + set_by)
    monkeypatch.setattr("datatile_provider.triggers.datatile.time", clock)
    assert await asyncio.wait_for(turn(DatatileRetryTrigger(**kwargs)), 2) < 1


async def test_it_takes_what_an_older_and_a_newer_version_stored():
    assert await turn(DatatileRetryTrigger(until=time.time() + 0.1)) < 1
    assert await turn(DatatileRetryTrigger(until=time.time() + 0.1, delay=0.1, colour="red")) < 1
