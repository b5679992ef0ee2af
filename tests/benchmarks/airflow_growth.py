"""
Thousands of waits in the triggerers of a real Airflow: their processor time and memory, and what a restart takes.

All waits start in the triggerer, without a worker. The scheduler and the database are Airflow's own affair.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.benchmarks import report
from tests.benchmarks.airflow_waits import environment_of
from tests.benchmarks.status_server import NEVER, StatusServer, serving
from tests.support.airflow import RealAirflow
from tests.support.tls import Certificates

#: The number of waits and of triggerers. A run of the DAG has this many waits.
SIZES, RUN = ((1000, 1), (5000, 1), (10_000, 1), (10_000, 2)), 500
INTERVAL, LATENCY, WINDOW = 30.0, 0.05, 40.0
#: Seconds until all waits have polled. Airflow's scheduler takes most of them.
TIMEOUT = 1800.0
DAG_ID = "ours_start_from_trigger"
#: Airflow logs this when its loop was late by more than 0.2 s.
_BLOCKED = re.compile(r"async thread was blocked for ([\d.]+) seconds")


def until(condition: Callable[[], bool], what: str) -> float:
    """Return the seconds until a condition holds; :raises TimeoutError: it does not."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > TIMEOUT:
            raise TimeoutError(f"not after {TIMEOUT:,.0f} s: {what}")
        time.sleep(0.2)
    return time.monotonic() - started


class Growth:
    """
    One Airflow whose waits never end.

    :param server: what they poll.
    """

    def __init__(self, airflow: RealAirflow, server: StatusServer) -> None:
        self._airflow = airflow
        self._server = server

    def measure(self, waits: int, run: int, triggerers: list[str], window: float) -> dict[str, tuple[float, str]]:
        """Return the metrics of a number of waits, and of a restart of all triggerers."""
        # What the first waits import and open is not a cost of each wait.
        self._start(0, run, run)
        empty = self._memory(triggerers)
        first = self._start(run, waits, run)
        # The first polls come quickly.
        time.sleep(3 * INTERVAL)
        memory = (self._memory(triggerers) - empty) / (waits - run) / 1024
        shown = {**self._steady(triggerers, window), "memory a wait": (memory, "KiB")}
        self._server.forget_jobs()
        for name in triggerers:
            self._airflow.kill(name)
            self._airflow.start_component("triggerer", name)
        again = until(lambda: self._server.counts()["jobs"] >= waits, "all waits have polled after a restart")
        return {**shown, "first polls": (first, "s"), "polls after a restart": (again, "s")}

    def _start(self, start: int, end: int, run: int) -> float:
        """Return the seconds until all waits have polled, with those that were started before."""
        for number in range(start, end, run):
            self._airflow.api.trigger(DAG_ID, {"jobs": list(range(NEVER + number, NEVER + number + run))})
        return until(lambda: self._server.counts()["jobs"] >= end, f"{end:,} waits have polled")

    def _steady(self, triggerers: list[str], window: float) -> dict[str, tuple[float, str]]:
        cpu, polls, clock = self._seconds(triggerers), self._server.counts()["polls"], time.monotonic()
        blocked = self._blocked(triggerers)
        time.sleep(window)
        clock = time.monotonic() - clock
        return {
            "CPU of triggerers": (100 * (self._seconds(triggerers) - cpu) / clock, "% of a core"),
            "polls a second": ((self._server.counts()["polls"] - polls) / clock, ""),
            "longest block over 0.2 s": (max(self._blocked(triggerers)[len(blocked) :], default=0.0), "s"),
        }

    def _processes(self, triggerers: list[str]) -> list[psutil.Process]:
        return [psutil.Process(pid) for name in triggerers for pid in self._airflow.pids(name)]

    def _seconds(self, triggerers: list[str]) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._processes(triggerers))

    def _memory(self, triggerers: list[str]) -> float:
        return sum(process.memory_info().rss for process in self._processes(triggerers))

    def _blocked(self, triggerers: list[str]) -> list[float]:
        logs = [self._airflow.home / f"{name}.log" for name in triggerers]
        return [float(seconds) for log in logs for seconds in _BLOCKED.findall(log.read_text(errors="replace"))]


def main() -> None:
    options = report.options(__doc__, runs=1)
    sizes, run, window = (((100, 1),), 50, 5.0) if options.quick else (SIZES, RUN, WINDOW)
    result = report.Report("airflow_growth", "Thousands of waits in a real Airflow", options, ["apache-airflow"])
    case = f"every {INTERVAL:g} s, {1000 * LATENCY:g} ms"
    for waits, number in sizes:
        with tempfile.TemporaryDirectory(prefix="datatile-growth-") as folder:
            certificates = Certificates.make(Path(folder))
            with serving(certificates, delay=LATENCY) as server:
                env = environment_of(server, certificates, run) | {
                    "DATATILE_BENCHMARK_INTERVAL": str(INTERVAL),
                    "AIRFLOW__TRIGGERER__CAPACITY": str(waits // number),
                    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": str(waits),
                    "AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG": str(waits),
                    "AIRFLOW__CORE__PARALLELISM": str(waits),
                    "AIRFLOW__CORE__DEFAULT_POOL_TASK_SLOT_COUNT": str(waits),
                    "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "512",
                }
                with RealAirflow(Path(__file__).parent / "dags", env=env) as airflow:
                    names = ["triggerer", *(f"triggerer-{n}" for n in range(2, number + 1))]
                    for name in names[1:]:
                        airflow.start_component("triggerer", name)
                    found = Growth(airflow, server).measure(waits, run, names, window)
        result.add(case, f"ours, {waits:,} waits" + (f", {number} triggerers" if number > 1 else ""), **found)
    result.note(
        "Memory and processor time of the triggerers, with Airflow's own part of each wait. 'First polls' is the time "
        "from the second run until each wait has polled: Airflow's scheduler takes most of it. 'Polls after a restart' "
        "is the time from SIGKILL to all triggerers, and their start, until each wait has polled again. SQLite, https."
    )
    result.finish()


if __name__ == "__main__":
    main()
