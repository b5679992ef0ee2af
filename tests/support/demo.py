"""
``make demo`` and ``make ui``: the tracking study, run by a real Airflow against the sandbox.

The exit status is 0 only if the database then holds every row of the survey.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from datatile_provider.sandbox import Sandbox
from tests.support.airflow import RealAirflow
from tests.support.airflow_api import Run
from tests.support.processes import NotStartedError

EXAMPLES = Path(__file__).parents[2] / "example_dags"
STUDY = "datatile_tracking_study"
RESPONDENTS = 944


class DemoError(RuntimeError):
    """The demo's DAG failed; the message holds the reason and the path of the log."""


def main() -> int:
    command = argparse.ArgumentParser(prog="python -m tests.support.demo", description=__doc__)
    command.add_argument("--keep", action="store_true", help="leave Airflow and the sandbox running until Ctrl-C")
    keep = command.parse_args().keep
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        demo(keep=keep)
    except KeyboardInterrupt:
        print("Ended.")
        return 0 if keep else 130
    except (DemoError, NotStartedError, OSError) as e:
        print(f"\nThe demo failed: {e}")
        return 1
    return 0


def demo(*, keep: bool) -> None:
    """
    Run the tracking study and print its result.

    :param keep: whether Airflow and the sandbox keep running until an interrupt.
    :raises DemoError: a task failed, or rows are missing.
    :raises NotStartedError: Airflow did not start.
    """
    started = time.monotonic()
    with Sandbox(processing_seconds=2) as sandbox:
        print(f"The sandbox is up at {sandbox.url}; starting Airflow.", flush=True)
        with RealAirflow(EXAMPLES, env=environment(sandbox)) as airflow:
            print(f"Airflow is up at {airflow.url} after {time.monotonic() - started:.0f} s.", flush=True)
            run = airflow.run_dag(STUDY, timeout=90)
            report(run, sandbox.state())
            check(run, sandbox.state(), airflow)
            print(f"\nDone after {time.monotonic() - started:.0f} s.", flush=True)
            if keep:
                print(
                    f"\nAirflow, the DAG   {airflow.url}/dags/{STUDY}\n"
                    f"Airflow, this run  {airflow.url}/dags/{STUDY}/runs/{run.run_id}\n"
                    f"Sandbox, Drive     {sandbox.url}/\n"
                    f"Sandbox, log       {sandbox.url}/processing-log\n"
                    f"Ctrl-C ends both.",
                    flush=True,
                )
                threading.Event().wait()


def environment(sandbox: Sandbox) -> dict[str, str]:
    """Return the environment variables that the example DAGs need: the connection and the folder's hash."""
    return {
        "AIRFLOW_CONN_DATATILE_DEFAULT": json.dumps(sandbox.connection),
        "AIRFLOW_VAR_DATATILE_FOLDER": sandbox.folder,
    }


def report(run: Run, state: dict[str, Any]) -> None:
    """Print the run's tasks, and the sandbox's jobs and databases."""
    tasks = [(t.name, t.state, "" if t.seconds is None else f"{t.seconds:.1f}") for t in run.tasks]
    jobs = [(j["job_id"], j["action"], j["filename"], j["state"]) for j in state["jobs"]]
    databases = [(d["name"], d["hash"], d["rows"]) for d in state["databases"]]
    table(("task", "state", "seconds"), tasks)
    table(("job", "action", "file", "state"), jobs)
    table(("database", "hash", "rows"), databases)


def table(headings: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Print rows in columns as wide as their widest cell."""
    lines = [headings, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print()
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def check(run: Run, state: dict[str, Any], airflow: RealAirflow) -> None:
    """:raises DemoError: a task failed, or the database does not hold every respondent."""
    logs = airflow.home / "logs" / f"dag_id={run.dag_id}" / f"run_id={run.run_id}"
    if failed := next((t for t in run.tasks if t.state == "failed"), None):
        raise DemoError(
            f"the task {failed.name} failed. The error in its log: {airflow.api.error(failed)}. The logs are in {logs}."
        )
    if run.state != "success":
        raise DemoError(f"the run did not end in time, its state is {run.state}. The logs of its tasks are in {logs}.")
    rows = [database["rows"] for database in state["databases"]]
    if rows != [RESPONDENTS]:
        raise DemoError(
            f"the sandbox should hold one database with {RESPONDENTS} rows, but its databases have {rows} rows. "
            f"The logs of the tasks are in {logs}."
        )


def _interrupt(*_: object) -> NoReturn:
    # A second signal would interrupt the shutdown and leave processes running.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
