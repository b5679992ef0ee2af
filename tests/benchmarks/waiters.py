"""The waits of one variant in one event loop, as in a triggerer. :func:`measure` runs in its own process."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from airflow.providers.airbyte.triggers.airbyte import AirbyteSyncTrigger
from airflow.providers.dbt.cloud.hooks.dbt import _get_provider_info
from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

# The trigger imports these when it runs. Here they are imported before the measurement starts.
import datatile_provider.api.async_client
import datatile_provider.hooks.datatile  # noqa: F401
from datatile_provider.triggers.datatile import DatatileJobTrigger
from tests.benchmarks.status_server import NEVER, StatusServer

if TYPE_CHECKING:
    from tests.benchmarks.waits import Case

# The first dbt Cloud trigger loads the metadata of all providers, which takes half a second. Here it is loaded before.
_get_provider_info()

_FOREVER = 7 * 24 * 3600.0
#: The timeout for the first poll of all waits, in seconds.
TIMEOUT = 180.0


class Start(NamedTuple):
    """The arguments of a wait: the server, the name of its connections, the job, and the seconds between polls."""

    server: StatusServer
    name: str
    job: int
    interval: float


def _ours(at: Start) -> AsyncIterator[Any]:
    return DatatileJobTrigger(str(at.job), f"datatile_{at.name}", at.interval, _FOREVER, started=time.time()).run()


def _dbt(at: Start) -> Any:
    return DbtCloudRunJobTrigger(f"dbt_{at.name}", at.job, time.time() + _FOREVER, at.interval, 1).run()


def _airbyte(at: Start) -> Any:
    return AirbyteSyncTrigger(at.job, f"airbyte_{at.name}", time.time() + _FOREVER, at.interval).run()


async def _session_a_poll(at: Start) -> AsyncIterator[Any]:
    url = f"{at.server.url}/api/v2/jobs/{at.job}"
    while True:
        async with aiohttp.ClientSession() as session, session.get(url, headers={"token": "t0"}) as response:
            if (await response.json())["status"] != "running":
                yield "ended"
        await asyncio.sleep(at.interval)


VARIANTS: dict[str, Callable[[Start], AsyncIterator[Any]]] = {
    "ours": _ours,
    "a session a poll": _session_a_poll,
    "dbt Cloud": _dbt,
    "Airbyte": _airbyte,
}


def measure(case: Case, variant: str, server: StatusServer, slow: StatusServer) -> dict[str, float]:
    """Return the metrics of one variant of a case: CPU time (ms) per poll, connections, lag (ms) and more."""
    os.environ |= _connections("server", server) | _connections("slow", slow)
    starts = [Start(slow, "slow", NEVER + n, case.interval) for n in range(case.slow_waits)]
    jobs = [NEVER] * case.waits if case.one_job else range(NEVER, NEVER + case.waits)
    starts += [Start(server, "server", job, case.interval) for job in jobs]
    return asyncio.run(_measure(case, VARIANTS[variant], starts))


def _connections(name: str, server: StatusServer) -> dict[str, str]:
    ours = {"conn_type": "datatile", "host": server.url, "password": "t0"}
    # The hook of dbt Cloud adds https:// to the host.
    dbt = {"conn_type": "dbt_cloud", "host": server.netloc, "login": "1", "password": "t0"}
    airbyte = {"conn_type": "airbyte", "host": f"{server.url}/v1", "login": "i0", "password": "s0"}
    connections = {"datatile": ours, "dbt": dbt, "airbyte": airbyte}
    return {f"AIRFLOW_CONN_{kind}_{name}".upper(): json.dumps(conn) for kind, conn in connections.items()}


async def _measure(case: Case, wait: Callable[[Start], AsyncIterator[Any]], starts: list[Start]) -> dict[str, float]:
    started = time.perf_counter()
    gc.collect()
    collection = time.perf_counter() - started
    lag = Lag()
    probe = asyncio.create_task(lag.measure_lag())
    ended: list[Any] = []
    waits: list[asyncio.Task[Any]] = []
    counts = starts[-1].server.counts
    deadline = time.monotonic() + TIMEOUT

    def check_time() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{TIMEOUT:.0f} s after the start of the first of {len(waits)}, not all had polled once")

    for start in starts:
        check_time()
        waits.append(asyncio.create_task(_until_ended(wait(start), ended)))
        # Like the triggerer, yield to the event loop before each start of a trigger.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    while counts()["polls"] < (1 if case.one_job else case.waits) and not ended:
        check_time()
        await asyncio.sleep(0.05)
    before, cpu, clock = counts(), time.process_time(), time.monotonic()
    await asyncio.sleep(case.window)
    after, cpu, clock = counts(), time.process_time() - cpu, time.monotonic() - clock
    for task in (probe, *waits):
        task.cancel()
    await asyncio.gather(probe, *waits, return_exceptions=True)
    if ended:
        raise RuntimeError(f"{len(ended)} waits ended, the first with: {ended[0]!r}")
    polls = after["polls"] - before["polls"]
    return {
        "cpu": 1000 * cpu / max(polls, 1),
        "polls": after["polls"],
        "polls a second": polls / clock,
        "connections": after["connections"],
        "handshakes": after["handshakes"],
        "lag": 1000 * max(lag.all),
        "lag p99": 1000 * sorted(lag.all)[int(0.99 * len(lag.all))],
        "lag without gc": 1000 * max(lag.without_gc),
        "collection": 1000 * collection,
    }


async def _until_ended(events: AsyncIterator[Any], ended: list[Any]) -> None:
    try:
        ended.append(await anext(events))
    except Exception as e:
        ended.append(e)


class Lag:
    """How late the loop resumes a task that sleeps for 10 ms, with and without garbage collection, in seconds."""

    def __init__(self) -> None:
        self.all: list[float] = []
        self.without_gc: list[float] = []
        self._gc_started = self._in_gc = 0.0
        gc.callbacks.append(self._on_gc)

    async def measure_lag(self) -> None:
        clock = time.perf_counter
        while True:
            started, collected = clock(), self._in_gc
            await asyncio.sleep(0.01)
            late = clock() - started - 0.01
            self.all.append(late)
            self.without_gc.append(late - (self._in_gc - collected))

    def _on_gc(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._gc_started = time.perf_counter()
        else:
            self._in_gc += time.perf_counter() - self._gc_started
