"""Waits in a process of their own, as in a triggerer: how late each job's end is seen, and what the waits cost."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil

from tests.benchmarks.status_server import NEVER, StatusServer, serving


@dataclass(frozen=True, slots=True)
class Crowd:
    """
    Waits of one process.

    :param waits: the number of waits.
    :param interval: seconds between the polls of a wait.
    :param latency: seconds before each response of the server.
    :param max_connections: the option of the connection.
    :param settles: seconds after which the first job ends. By then, polls come at the full interval.
    :param ends: seconds over which the jobs then end; 0 if they never do.
    :param window: seconds at the end of ``settles`` in which processor time, lag and polls are measured.
    """

    waits: int
    interval: float
    latency: float
    max_connections: int = 100
    settles: float = 60.0
    ends: float = 30.0
    window: float = 15.0

    @property
    def timeout(self) -> float:
        """Seconds after which the process is killed."""
        return self.settles + self.ends + 400


def measure(*crowds: Crowd) -> list[dict[str, float]]:
    """
    Return the metrics of crowds that run at the same time, each with its own process and server.

    :raises RuntimeError: one of them ended without a result.
    """
    # The fork server imports Airflow and the trigger once for all processes.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.benchmarks.waiters"])
    with ExitStack() as stack:
        pipes = []
        for crowd in crowds:
            server = stack.enter_context(serving(delay=crowd.latency))
            pipe, child = context.Pipe()
            process = context.Process(target=_run, args=(crowd, server, child), daemon=True)
            process.start()
            stack.callback(process.join, 10)
            stack.callback(process.kill)
            pipes.append((crowd, server, pipe))
        found = []
        for crowd, server, pipe in pipes:
            result = pipe.recv() if pipe.poll(crowd.timeout) else "no result in time"
            if isinstance(result, str):
                raise RuntimeError(f"{crowd}: {result}")
            found.append(result | {"connections": server.counts()["connections"]})
    return found


def _run(crowd: Crowd, server: StatusServer, response: Connection) -> None:
    extra = json.dumps({"max_connections": crowd.max_connections})
    connection = {"conn_type": "datatile", "host": server.url, "password": "t0", "extra": extra}
    os.environ["AIRFLOW_CONN_DATATILE_CROWD"] = json.dumps(connection)
    try:
        response.send(asyncio.run(_measure(crowd, server)))
    except Exception as e:
        response.send(repr(e))


async def _measure(crowd: Crowd, server: StatusServer) -> dict[str, float]:
    from datatile_provider import metrics
    from datatile_provider.triggers.datatile import DatatileJobTrigger
    from tests.benchmarks.waiters import Lag

    process, started = psutil.Process(), time.time()
    late: list[float] = []
    polls = [0]
    # Each wait counts its polls here, before it sends them.
    metrics.poll = lambda: polls.__setitem__(0, polls[0] + 1)

    async def wait(job: int) -> None:
        trigger = DatatileJobTrigger(str(job), "datatile_crowd", crowd.interval, 1e6, started=time.time())
        event = await anext(aiter(trigger.run()))
        if "job" not in event.payload:
            raise RuntimeError(str(event.payload))
        late.append(time.time() - job / 1000)

    async def cost() -> dict[str, float]:
        await asyncio.sleep(crowd.settles - crowd.window)
        lag = Lag()
        probe = asyncio.create_task(lag.measure_lag())
        sent, cpu, clock = polls[0], time.process_time(), time.monotonic()
        await asyncio.sleep(crowd.window)
        clock = time.monotonic() - clock
        probe.cancel()
        late_by = sorted(lag.all)
        return {
            "cpu": 100 * (time.process_time() - cpu) / clock,
            "polls a second": (polls[0] - sent) / clock,
            "lag p99.9": 1000 * late_by[int(0.999 * len(late_by))],
            "memory a wait": (process.memory_info().rss - memory) / crowd.waits / 1024,
        }

    # What the first wait imports and opens is not a cost of each wait.
    await asyncio.wait_for(wait(int(1000 * time.time())), 30)
    late.clear()
    polls[0] = 0
    server.forget_jobs()
    gc.collect()
    memory, clock = process.memory_info().rss, time.monotonic()
    jobs = (started + crowd.settles + crowd.ends * n / crowd.waits for n in range(crowd.waits))
    ids = [int(1000 * end) if crowd.ends else NEVER + n for n, end in enumerate(jobs)]
    spent = asyncio.create_task(cost())
    waits = [asyncio.create_task(wait(job)) for job in ids]
    first = await _all_polled(crowd, server, clock)
    found = {"first polls": first, **await spent}
    if crowd.ends:
        await asyncio.wait_for(asyncio.gather(*waits), crowd.timeout)
        late.sort()
        found |= {"latest": late[-1] / crowd.interval, "median late": late[len(late) // 2] / crowd.interval}
    return found


async def _all_polled(crowd: Crowd, server: StatusServer, started: float) -> float:
    """
    Return the seconds until the server has responded to each wait.

    :raises TimeoutError: it has not in time.
    """
    while server.counts()["jobs"] < crowd.waits:
        if time.monotonic() - started > crowd.timeout:
            raise TimeoutError(f"{server.counts()['jobs']:,} of {crowd.waits:,} waits have polled")
        await asyncio.sleep(0.05)
    return time.monotonic() - started


def worst(found: Sequence[dict[str, float]], metric: str) -> float:
    """Return the highest value of several processes."""
    return max(one[metric] for one in found)
