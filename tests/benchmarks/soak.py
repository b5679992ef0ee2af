"""
Waits and uploads at a steady rate: memory, open files and connections must stay flat.

Two processes: one with the waits of a triggerer, whose jobs end and are followed by new ones, and one that uploads file
after file, as the process of a worker that never ends. ``python -m tests.benchmarks.soak --minutes 20``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import report
from tests.benchmarks.status_server import serving
from tests.benchmarks.waits import environment
from tests.support.sink import sink

#: The number of waits at a time, the seconds that each lasts, and between its polls.
WAITS, LASTS, INTERVAL = 1000, 60.0, 5.0
LATENCY = 0.05
#: The size of a file, and the seconds between two uploads.
SIZE, PAUSE = 8 << 20, 0.5
#: The share of the time that is not judged: the first waits and uploads open what the later ones use again.
WARM_UP = 0.25
#: The most growth from the first to the last quarter of the judged time.
MOST_MEMORY, MOST_FILES = 1.05, 1.1
TRIGGERER, WORKER = "triggerer", "worker"


@dataclass
class Series:
    """
    The samples of one process.

    :param seconds: when each was taken, from the start.
    """

    process: psutil.Process
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    connections: list[float] = field(default_factory=list)

    def sample(self, now: float) -> None:
        with suppress(psutil.AccessDenied):
            connections = len(self.process.net_connections("tcp"))
            files = self.process.num_fds()
            self.seconds.append(now)
            self.memory.append(self.process.memory_info().rss / 2**20)
            self.files.append(files)
            self.connections.append(connections)

    def growth(self, values: Sequence[float]) -> float:
        """Return how many times the median of the last quarter is that of the first, after the warm-up."""
        judged = values[int(WARM_UP * len(values)) :]
        quarter = max(1, len(judged) // 4)
        return statistics.median(judged[-quarter:]) / max(1.0, statistics.median(judged[:quarter]))


def waits(url: str) -> None:
    """Keep the number of waits."""
    connection = {"conn_type": "datatile", "host": url, "password": "t0"}
    os.environ["AIRFLOW_CONN_DATATILE_SOAK"] = json.dumps(connection)

    async def keep(n: int) -> None:
        from datatile_provider.triggers.datatile import DatatileJobTrigger

        lasts = LASTS * n / WAITS  # The first ones end one after the other.
        while True:
            now = time.time()
            job = str(int(1000 * (now + lasts)))
            event = await anext(aiter(DatatileJobTrigger(job, "datatile_soak", INTERVAL, 1e6, started=now).run()))
            if "job" not in event.payload:
                raise RuntimeError(str(event.payload))
            lasts = LASTS

    async def keep_all() -> None:
        await asyncio.gather(*(keep(n) for n in range(WAITS)))

    asyncio.run(keep_all())


def uploads(url: str) -> None:
    """Upload one file after the other."""
    from datatile_provider.hooks.datatile import DatatileHook

    os.environ["AIRFLOW_CONN_DATATILE_SOAK"] = json.dumps({"conn_type": "datatile", "host": url, "password": "t0"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wave.sav"
        path.write_bytes(os.urandom(SIZE))
        while True:
            DatatileHook("datatile_soak").upload("append", "0f3a9c2b7d4e5f61", str(path))
            time.sleep(PAUSE)


def run(minutes: float) -> dict[str, Series]:
    """
    Return the samples of both processes.

    :raises RuntimeError: one of them ended.
    """
    context = multiprocessing.get_context("spawn")

    def start(target: Callable[[str], None], url: str) -> Any:
        process = context.Process(target=target, args=(url,), daemon=True)
        process.start()
        return process

    with environment(), serving(delay=LATENCY) as server, sink() as address:
        processes = {TRIGGERER: start(waits, server.url), WORKER: start(uploads, address)}
        try:
            series = {name: Series(psutil.Process(process.pid)) for name, process in processes.items()}
            started, every = time.monotonic(), max(0.5, minutes * 60 / 300)
            while (now := time.monotonic() - started) < minutes * 60:
                for name, process in processes.items():
                    if not process.is_alive():
                        raise RuntimeError(f"The {name} ended after {now:.0f} s")
                    series[name].sample(now)
                time.sleep(every)
            print(f"{server.counts()['polls']:,} polls in {now:,.0f} s", file=sys.stderr)
        finally:
            for process in processes.values():
                process.kill()
                process.join(10)
    return series


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--out", type=Path, help="folder for result and chart (default docs/benchmarks)")
    options = parser.parse_args()
    # A short run must not replace the results in the docs.
    default = report.ROOT / ("docs/benchmarks" if options.minutes >= 10 else "build/benchmarks")
    options.out, options.quick, options.runs = options.out or default, options.minutes < 10, 1
    case = f"{options.minutes:g} minutes"
    result = report.Report("soak", "Memory, open files and connections at a steady rate", options, ["aiohttp"])
    found = run(options.minutes)
    for name, series in found.items():
        metrics = {"memory": ("MiB", series.memory), "open files": ("", series.files)}
        for metric, (unit, values) in (metrics | {"connections": ("", series.connections)}).items():
            result.add(case, name, **{metric: (statistics.median(values[-len(values) // 4 :]), unit)})
            result.add(case, name, **{f"growth of {metric}": (series.growth(values), "x")})
        result.limit(case, "growth of memory", name, under=MOST_MEMORY)
        result.limit(case, "growth of open files", name, under=MOST_FILES)
    result.note(
        f"{WAITS:,} waits at a time, each for a job of {LASTS:g} s that is polled every {INTERVAL:g} s with a latency "
        f"of {1000 * LATENCY:g} ms, and an upload of {SIZE >> 20} MiB every {PAUSE:g} s. The growth compares the last "
        "quarter with the first one, after a warm-up."
    )
    from tests.benchmarks.plots import draw_series

    path = result.finish()
    draw_series({name: vars(series) for name, series in found.items()}, path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
