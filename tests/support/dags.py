"""DAGs that Airflow runs in this process: with its own scheduling, API, database, state store and task runner."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.wave_check import DatatileWaveCheckOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.support.older_airflow import patch_dag_test, task_log
from tests.support.rawserver import TOKEN
from tests.support.task import Outcome
from tests.support.versions import AIRFLOW

# `dag.test()` needs the DAG in a file in the DAG folder; this file returns the DAG of the running test.
DAG_FILE = "from airflow.providers.common.compat.sdk import DAG\nimport dag_under_test\ndag = dag_under_test.dag\n"
sleep = time.sleep


@dataclasses.dataclass
class DagOutcome:
    """
    The outcome of a run of a DAG.

    :param state: the run's state at the end.
    :param tasks: the outcomes of each task, one for each mapped instance.
    """

    state: str
    tasks: dict[str, list[Outcome]]

    @property
    def unmapped(self) -> dict[str, Outcome]:
        """The outcome of each task, none of which is mapped."""
        return {task_id: outcome for task_id, [outcome] in self.tasks.items()}


class TaskRecorder:
    """
    Records the attempts of tasks and their errors, by wrapping the methods that run them.

    Airflow's callbacks are not enough: before 3.2, `dag.test()` does not call ``on_failure_callback``.
    """

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, int], Any] = {}
        self.errors: dict[tuple[str, int], list[BaseException]] = {}
        self.attempts: Counter[tuple[str, int]] = Counter()

    def record(self, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Record the tasks of an operator."""
        for name in ("execute", "resume_execution"):
            monkeypatch.setattr(kind, name, self._wrapped(getattr(kind, name)))

    def _wrapped(self, method: Any) -> Any:
        @functools.wraps(method)
        def wrapped(task: Any, *args: Any, **kwargs: Any) -> Any:
            ti = (kwargs.get("context") or args[-1])["ti"]
            key = ti.task_id, ti.map_index
            self.tasks[key] = task
            try:
                result = method(task, *args, **kwargs)
            except BaseException as e:
                if type(e).__name__ not in ("TaskDeferred", "AirflowRescheduleException"):
                    self.attempts[key] += 1
                    self.errors.setdefault(key, []).append(e)
                raise
            self.attempts[key] += 1
            return result

        return wrapped


@functools.cache
def _dag_folder() -> Path:
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True, timeout=120)
    folder = Path(os.environ["AIRFLOW_HOME"]) / "dags"
    folder.mkdir(exist_ok=True)
    (folder / "under_test.py").write_text(DAG_FILE)
    patch_dag_test()
    return folder


@pytest.fixture(scope="session")
def dag_folder() -> Path:
    """The DAG folder of an Airflow with a migrated metadata database."""
    return _dag_folder()


@pytest.fixture
def run_dag(
    dag_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[[DAG], DagOutcome]:
    """
    Run a DAG as Airflow does, and return its outcome, which has every task of the DAG.

    Neither the outcome nor the log may hold the token.
    """

    def run_dag(dag: DAG) -> DagOutcome:
        recorder = TaskRecorder()
        for kind in (DatatileUploadOperator, DatatileJobSensor, DatatileWaveCheckOperator):
            recorder.record(kind, monkeypatch)
        monkeypatch.setitem(sys.modules, "dag_under_test", types.SimpleNamespace(dag=dag))
        # Airflow's loop sleeps for a second when no task is ready, for example when one is rescheduled.
        monkeypatch.setattr(time, "sleep", lambda seconds: sleep(0.05 if seconds == 1 else seconds))
        capsys.readouterr()
        caplog.clear()
        run = dag.test()
        instances = sorted(run.get_task_instances(), key=lambda ti: ti.map_index)
        # Airflow 2 writes to the standard output of the time it was imported, which capsys does not capture.
        log = caplog.text if AIRFLOW.major == 2 else task_log("".join(capsys.readouterr()))
        outcome = DagOutcome(str(run.state), {})
        for ti in instances:
            key = ti.task_id, ti.map_index
            result, job_id = (
                ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index, key=name)
                for name in ("return_value", "job_id")
            )
            outcome.tasks.setdefault(ti.task_id, []).append(
                Outcome(
                    state=str(ti.state),
                    attempts=recorder.attempts[key],
                    result=result,
                    job_id=job_id,
                    errors=recorder.errors.get(key, []),
                    task=recorder.tasks.get(key),
                    log=log,
                )
            )
        assert set(outcome.tasks) == set(dag.task_ids)
        assert TOKEN not in repr(outcome)
        assert TOKEN not in log
        return outcome

    return run_dag
