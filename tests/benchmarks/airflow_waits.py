"""
A wait in a real Airflow, in each mode: its processes, its CPU time, and the delay after the job's end.

Scheduler, triggerer, API server and DAG processor run with the LocalExecutor, and with a local server whose jobs end
at given times. The same is measured for the sensor of dbt Cloud.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from tests.benchmarks import report
from tests.benchmarks.status_server import StatusServer, serving
from tests.support.airflow import COMPONENTS, RealAirflow
from tests.support.tls import Certificates

MODES = {
    "ours_poke": ("ours", "poke"),
    "dbt_poke": ("dbt Cloud", "poke"),
    "ours_reschedule": ("ours", "reschedule"),
    "dbt_reschedule": ("dbt Cloud", "reschedule"),
    "ours_deferrable": ("ours", "deferrable"),
    "dbt_deferrable": ("dbt Cloud", "deferrable"),
    "ours_start_from_trigger": ("ours", "start from trigger"),
}
#: Seconds that a run may take after its last job's end, until Airflow is idle again, and between polls of processes.
TIMEOUT, IDLE_AFTER, POLL_INTERVAL = 90.0, 3.0, 0.2
#: The process titles of the LocalExecutor: those of a task, and of a worker.
_TASK = "airflow worker -- "
_WORKER = f"{_TASK}LocalExecutor"


@dataclass(frozen=True, slots=True)
class Plan:
    """
    The size of a measurement.

    :param waits: the number of waits in a run, each for its own job.
    :param job_seconds: seconds from the run's start to the first job's end; each further job ends a second later.
    :param idle: seconds for which the idle Airflow is measured.
    """

    waits: int = 10
    job_seconds: float = 25.0
    idle: float = 15.0


class Workers:
    """Observes the workers of the LocalExecutor during a run."""

    def __init__(self, scheduler: int) -> None:
        self._scheduler = psutil.Process(scheduler)
        self._seen: set[tuple[int, float]] = set()
        self._stopped = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        #: Seconds in which a worker had a task, summed over all workers.
        self.busy = 0.0
        self._busy_now = 0

    def __enter__(self) -> Workers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    @property
    def tasks(self) -> int:
        """The number of processes that the workers have started: one per start or resumption of a task."""
        return len(self._seen)

    def wait_until_idle(self) -> None:
        """Wait until no worker has a task. A worker is busy for a while after its task's end."""
        deadline = time.monotonic() + TIMEOUT
        while self._busy_now and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(POLL_INTERVAL):
            busy = 0
            for process in self._scheduler.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    title = " ".join(process.cmdline())
                    if title.startswith(_WORKER):
                        busy += "<idle>" not in title
                    elif title.startswith(_TASK):
                        self._seen.add((process.pid, process.create_time()))
            now = time.monotonic()
            self.busy += busy * (now - last)
            self._busy_now = busy
            last = now


def processor_seconds(airflow: RealAirflow) -> dict[str, float]:
    """
    Return the CPU time of each component so far.

    The CPU times of a process include those of its ended children, so short-lived processes are counted too.
    """
    found = {}
    for component in COMPONENTS:
        leader = psutil.Process(airflow.pids(component)[0])
        own, *others = (process.cpu_times() for process in (leader, *leader.children(recursive=True)))
        children = sum(own[2:4]) + sum(sum(times[:4]) for times in others)
        if component == "scheduler":
            found["workers"] = children
            found[component] = sum(own[:2])
        else:
            found[component] = sum(own[:2]) + children
    return found


class Bench:
    """
    Measures runs in one Airflow.

    :param airflow: a running Airflow.
    """

    def __init__(self, airflow: RealAirflow, plan: Plan) -> None:
        self._airflow = airflow
        self._plan = plan
        self._idle: dict[str, float] = {}

    def warm_up(self) -> None:
        """Let every process do its imports, and measure an idle Airflow."""
        api = self._airflow.api
        runs = {dag: api.trigger(f"{dag}_once", {"jobs": [_job(5)]}) for dag in MODES}
        for dag, run_id in runs.items():
            self._ended(f"{dag}_once", run_id)
        time.sleep(2 * IDLE_AFTER)
        before, clock = processor_seconds(self._airflow), time.monotonic()
        time.sleep(self._plan.idle)
        clock = time.monotonic() - clock
        self._idle = {name: (s - before[name]) / clock for name, s in processor_seconds(self._airflow).items()}

    def measure(self, dag_id: str) -> dict[str, float]:
        """
        Return the metrics of one wait in a run of a DAG.

        :raises RuntimeError: not all waits succeeded in time.
        """
        plan = self._plan
        jobs = [_job(plan.job_seconds + n) for n in range(plan.waits)]
        before, clock = processor_seconds(self._airflow), time.monotonic()
        with Workers(self._airflow.pids("scheduler")[0]) as workers:
            run_id = self._airflow.api.trigger(dag_id, {"jobs": jobs})
            # No API calls during the measurement.
            time.sleep(plan.job_seconds + plan.waits)
            delays, attempts = self._ended(dag_id, run_id, jobs)
            workers.wait_until_idle()
            time.sleep(IDLE_AFTER)
        clock = time.monotonic() - clock
        spent = {
            name: (seconds - before[name] - self._idle[name] * clock) / plan.waits
            for name, seconds in processor_seconds(self._airflow).items()
        }
        return spent | {
            "tasks": workers.tasks / plan.waits,
            "busy": workers.busy / plan.waits,
            "delay": statistics.mean(delays),
            "attempts": attempts / plan.waits,
        }

    def _ended(self, dag_id: str, run_id: str, jobs: list[int] | None = None) -> tuple[list[float], int]:
        """Return the seconds from each job's end to its task's end, and the total number of attempts."""
        api = self._airflow.api
        run = api.wait_for_run(dag_id, run_id, TIMEOUT)
        if run.state != "success":
            raise RuntimeError(f"{dag_id} is {run.state}: {[(t.task_id, t.state) for t in run.tasks]}")
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        rows = {row["task_id"]: row for row in api.call("GET", path)["task_instances"]}
        ended = [datetime.fromisoformat(rows[f"wait_{n}"]["end_date"]).timestamp() for n in range(len(jobs or []))]
        delays = [end - job / 1000 for end, job in zip(ended, jobs or [], strict=True)]
        return delays, sum(task.try_number for task in run.tasks)


def _job(seconds: float) -> int:
    """Return the id of a job that ends in this number of seconds."""
    return int(1000 * (time.time() + seconds))


def environment_of(server: StatusServer, certificates: Certificates, waits: int) -> dict[str, str]:
    ours = {"conn_type": "datatile", "host": server.url, "password": "t0"}
    dbt = {"conn_type": "dbt_cloud", "host": server.netloc, "login": "1", "password": "t0"}
    return {
        "AIRFLOW_CONN_DATATILE_DEFAULT": json.dumps(ours),
        "AIRFLOW_CONN_DBT_CLOUD_DEFAULT": json.dumps(dbt),
        "AIRFLOW__CORE__PARALLELISM": str(waits + 2),
        # DAG files are parsed once, and not again during a measurement.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "3600",
        "DATATILE_BENCHMARK_WAITS": str(waits),
        "REQUESTS_CA_BUNDLE": str(certificates.authority),
        "SSL_CERT_FILE": str(certificates.authority),
    }


def main() -> None:
    options = report.options(__doc__, runs=1)
    plan = Plan(waits=2, job_seconds=12, idle=3) if options.quick else Plan()
    modes = ("ours_deferrable", "ours_start_from_trigger") if options.quick else tuple(MODES)
    result = report.Report(
        "airflow_waits",
        "A wait in a real Airflow",
        options,
        libraries=["apache-airflow", "apache-airflow-providers-dbt-cloud"],
    )
    with tempfile.TemporaryDirectory(prefix="datatile-waits-") as folder:
        certificates = Certificates.make(Path(folder))
        with serving(certificates) as server:
            env = environment_of(server, certificates, plan.waits)
            with RealAirflow(Path(__file__).parent / "dags", env=env) as airflow:
                bench = Bench(airflow, plan)
                bench.warm_up()
                for _ in range(options.runs):
                    for mode in modes:
                        _add(result, mode, bench.measure(mode))
    _compare_with_targets(result, modes)
    result.finish()


CASE = "a wait"
_TASKS, _CPU = "task processes", "CPU, all"


def _add(result: report.Report, mode: str, found: Mapping[str, float]) -> None:
    parts = ("workers", "triggerer", "dag-processor", "scheduler", "api-server")
    metrics: dict[str, Any] = {
        _TASKS: (found["tasks"], ""),
        "slot held": (found["busy"], "s"),
        _CPU: (sum(found[part] for part in parts), "s"),
        "CPU, workers and tasks": (found["workers"], "s"),
        "CPU, triggerer": (found["triggerer"], "s"),
        "CPU, DAG processor": (found["dag-processor"], "s"),
        "delay after the job's end": (found["delay"], "s"),
        "attempts": (found["attempts"], ""),
    }
    result.add(CASE, _name(mode), **metrics)


def _name(mode: str) -> str:
    return ", ".join(MODES[mode])


def _compare_with_targets(result: report.Report, modes: tuple[str, ...]) -> None:
    best = _name("ours_start_from_trigger")
    result.limit(CASE, _TASKS, best, under=0.01)
    for mode in modes:
        if _name(mode) != best:
            result.ratio(CASE, _CPU, best, _name(mode), at_least=None, lower=True)
    result.note(NOTE)


NOTE = (
    "Each figure is for one wait: the mean over the waits of a run. What an idle Airflow uses in the same time is "
    "subtracted. 'All' is the sum of workers and tasks, triggerer, DAG processor, scheduler and API server. The DAG "
    "processor parses the DAG file once more for each task that ends in the triggerer, for its callbacks. Jobs take "
    "about half a minute. The jobs of one run end a second apart, and polls come every 5 s. If there is more than one "
    "attempt, Airflow failed a task that was queued for its next poke before it had processed the end of the last one."
)


if __name__ == "__main__":
    main()
