"""Tasks run by Airflow itself, against a sandbox or against a server with scripted responses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sandbox import Sandbox
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.provider.older_airflow import patch_dag_test, task_log
from tests.provider.scripted_server import ACCEPTED, TOKEN, ScriptedServer
from tests.provider.tasks import OPERATOR_WAITS, SENSOR_MODES, Outcome, TaskRecorder, add_tasks
from tests.support.versions import AIRFLOW

# `dag.test()` needs the DAG in a file in the DAG folder; this file returns the DAG of the running test.
DAG_FILE = "from airflow.providers.common.compat.sdk import DAG\nimport dag_under_test\ndag = dag_under_test.dag\n"
sleep = time.sleep


@pytest.fixture(scope="session")
def dag_folder() -> Path:
    """The DAG folder of an Airflow with a migrated metadata database."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True, timeout=60)
    folder = Path(os.environ["AIRFLOW_HOME"]) / "dags"
    folder.mkdir(exist_ok=True)
    (folder / "under_test.py").write_text(DAG_FILE)
    patch_dag_test()
    return folder


@pytest.fixture
def run_dag(
    dag_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[[DAG], dict[str, list[Outcome]]]:
    """
    Run a DAG as Airflow does: with its own scheduling, API, database, state store and task runner, in this process.

    Return each task's outcomes, one for each mapped instance. Neither they nor the log may hold the token.
    """

    def run_dag(dag: DAG) -> dict[str, list[Outcome]]:
        recorder = TaskRecorder()
        for kind in (DatatileUploadOperator, DatatileJobSensor):
            recorder.record(kind, monkeypatch)
        monkeypatch.setitem(sys.modules, "dag_under_test", types.SimpleNamespace(dag=dag))
        # Airflow's loop sleeps for a second when no task is ready, for example when one is rescheduled.
        monkeypatch.setattr(time, "sleep", lambda seconds: sleep(0.05 if seconds == 1 else seconds))
        capsys.readouterr()
        caplog.clear()
        instances = sorted(dag.test().get_task_instances(), key=lambda ti: ti.map_index)
        # Airflow 2 writes to the standard output of the time it was imported, which capsys does not capture.
        log = caplog.text if AIRFLOW.major == 2 else task_log("".join(capsys.readouterr()))
        outcomes: dict[str, list[Outcome]] = {}
        for ti in instances:
            key = ti.task_id, ti.map_index
            result, job_id = (
                ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index, key=name)
                for name in ("return_value", "job_id")
            )
            attempts, errors = recorder.attempts[key], recorder.errors.get(key, [])
            outcome = Outcome(str(ti.state), attempts, result, job_id, errors, recorder.tasks.get(key), log)
            assert TOKEN not in repr(outcome)
            outcomes.setdefault(ti.task_id, []).append(outcome)
        assert TOKEN not in log
        return outcomes

    return run_dag


@pytest.fixture
def run_each(run_dag: Callable[[DAG], dict[str, list[Outcome]]]) -> Callable[..., dict[str, Outcome]]:
    """
    Run one task for each mode, with two retries.

    ``{mode}`` in an argument is replaced by the mode, so that each task can have its own target and job.
    """

    def run_each(operator: type, modes: dict[str, dict[str, Any]], **arguments: Any) -> dict[str, Outcome]:
        with DAG(f"test_{uuid.uuid4().hex}", schedule=None) as dag:
            add_tasks(operator, modes, **arguments)
        return {mode: outcome for mode, [outcome] in run_dag(dag).items()}

    return run_each


@pytest.fixture
def run(run_each: Callable[..., dict[str, Outcome]]) -> Callable[..., Outcome]:
    """Run one task."""

    def run(operator: type, **arguments: Any) -> Outcome:
        return run_each(operator, {"task": {}}, **arguments)["task"]

    return run


@pytest.fixture
def wait(run_dag: Callable[[DAG], dict[str, list[Outcome]]], survey: Path) -> Callable[..., dict[str, Outcome]]:
    """
    Wait for jobs of the scripted server in every mode of the sensor and of the upload operator.

    The id of a mode's job is ``job-{mode}``.
    """

    def wait(timeout: float | timedelta = 20, interval: float | timedelta = 0.05) -> dict[str, Outcome]:
        with DAG(f"test_{uuid.uuid4().hex}", schedule=None) as dag:
            add_tasks(DatatileJobSensor, SENSOR_MODES, job_id="job-{mode}", poke_interval=interval, timeout=timeout)
            upload = {"action": "append", "target_hash": "{mode}", "dataset": str(survey), "poll_interval": interval}
            add_tasks(DatatileUploadOperator, OPERATOR_WAITS, timeout=timeout, **upload)
        return {mode: outcome for mode, [outcome] in run_dag(dag).items()}

    return wait


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the connection ``datatile_default`` to a server, with some fields changed, or omitted if None."""

    def connect(server: Any, **fields: Any) -> None:
        connection = {name: value for name, value in {**server.connection, **fields}.items() if value is not None}
        monkeypatch.setenv("AIRFLOW_CONN_DATATILE_DEFAULT", json.dumps(connection))

    return connect


@pytest.fixture
def start(connect: Callable[..., None]) -> Iterator[Callable[..., Sandbox]]:
    """Start a sandbox with options, and set the connection to it."""
    running = []

    def start(**options: Any) -> Sandbox:
        sandbox = Sandbox(**{"processing_seconds": 0.1, "token": TOKEN, **options})
        sandbox.__enter__()
        running.append(sandbox)
        connect(sandbox)
        return sandbox

    yield start
    for sandbox in running:
        sandbox.__exit__(None, None, None)


@pytest.fixture
def sandbox(start: Callable[..., Sandbox]) -> Sandbox:
    return start()


@pytest.fixture
def script(connect: Callable[..., None]) -> Iterator[Callable[..., ScriptedServer]]:
    """Start a server with these responses to polls, and set the connection to it."""
    running = []

    def script(*jobs: Any, uploads: tuple[Any, ...] = (ACCEPTED,)) -> ScriptedServer:
        server = ScriptedServer(uploads, jobs or ((200, {"status": "succeeded"}),))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        running.append((server, thread))
        connect(server)
        return server

    yield script
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """A file of three interviews."""
    path = tmp_path / "wave 1.csv"
    path.write_text("respondent,vote\n1,2\n2,1\n3,2\n")
    return path
