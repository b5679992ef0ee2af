"""The trigger that waits until the next attempt of an upload."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from datatile_provider.triggers.datatile import DatatileRetryTrigger


async def wait_time(trigger: DatatileRetryTrigger) -> float:
    started = time.monotonic()
    async for _ in trigger.run():
        break
    return time.monotonic() - started


@pytest.mark.parametrize("set_by", [-3600, 0, 3600])
async def test_it_does_not_sleep_longer_when_the_clock_is_set_back(monkeypatch, set_by):
    _, kwargs = DatatileRetryTrigger(until=time.time() + 0.3).serialize()
    clock = SimpleNamespace(time=lambda: time.time() + set_by)
    monkeypatch.setattr("datatile_provider.triggers.datatile.time", clock)
    assert await asyncio.wait_for(wait_time(DatatileRetryTrigger(**kwargs)), 2) < 1


async def test_it_accepts_the_arguments_of_older_and_newer_versions():
    assert await wait_time(DatatileRetryTrigger(until=time.time() + 0.1)) < 1
    assert await wait_time(DatatileRetryTrigger(until=time.time() + 0.1, delay=0.1, colour="red")) < 1
