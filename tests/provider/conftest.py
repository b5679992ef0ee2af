"""Tasks run by Airflow itself, against a sandbox or against a server with scripted responses."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sandbox import Sandbox
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.provider.modes import OPERATOR_WAITS, SENSOR_MODES, add_tasks
from tests.support.dags import DagOutcome, dag_folder, run_dag
from tests.support.fixtures import connect, survey
from tests.support.rawserver import TOKEN
from tests.support.scripted import ACCEPTED, ScriptedServer
from tests.support.task import Outcome

__all__ = ["connect", "dag_folder", "run_dag", "survey"]


@pytest.fixture
def run_each(run_dag: Callable[[DAG], DagOutcome]) -> Callable[..., dict[str, Outcome]]:
    """
    Run one task for each mode, with two retries.

    ``{mode}`` in an argument is replaced by the mode, so that each task can have its own target and job.
    """

    def run_each(operator: type, modes: dict[str, dict[str, Any]], **arguments: Any) -> dict[str, Outcome]:
        with DAG(f"test_{uuid.uuid4().hex}", schedule=None) as dag:
            add_tasks(operator, modes, **arguments)
        return run_dag(dag).unmapped

    return run_each


@pytest.fixture
def run(run_each: Callable[..., dict[str, Outcome]]) -> Callable[..., Outcome]:
    """Run one task."""

    def run(operator: type, **arguments: Any) -> Outcome:
        return run_each(operator, {"task": {}}, **arguments)["task"]

    return run


@pytest.fixture
def wait(run_dag: Callable[[DAG], DagOutcome], survey: Path) -> Callable[..., dict[str, Outcome]]:
    """
    Wait for jobs of the scripted server in every mode of the sensor and of the upload operator.

    The id of a mode's job is ``job-{mode}``.
    """

    def wait(timeout: float | timedelta = 20, interval: float | timedelta = 0.05) -> dict[str, Outcome]:
        with DAG(f"test_{uuid.uuid4().hex}", schedule=None) as dag:
            add_tasks(DatatileJobSensor, SENSOR_MODES, job_id="job-{mode}", poke_interval=interval, timeout=timeout)
            upload = {"action": "append", "target_hash": "{mode}", "dataset": str(survey), "poll_interval": interval}
            add_tasks(DatatileUploadOperator, OPERATOR_WAITS, timeout=timeout, **upload)
        return run_dag(dag).unmapped

    return wait


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """The servers of the running test."""
    with ExitStack() as servers:
        yield servers


@pytest.fixture
def start(servers: ExitStack, connect: Callable[..., object]) -> Callable[..., Sandbox]:
    """Start a sandbox with options, and set the connection to it."""

    def start(**options: Any) -> Sandbox:
        sandbox = servers.enter_context(Sandbox(**{"processing_seconds": 0.1, "token": TOKEN, **options}))
        connect(sandbox)
        return sandbox

    return start


@pytest.fixture
def sandbox(start: Callable[..., Sandbox]) -> Sandbox:
    return start()


@pytest.fixture
def script(servers: ExitStack, connect: Callable[..., object]) -> Callable[..., ScriptedServer]:
    """Start a server with these responses to polls, and set the connection to it."""

    def script(*jobs: Any, uploads: tuple[Any, ...] = (ACCEPTED,)) -> ScriptedServer:
        server = ScriptedServer(uploads, jobs or ((200, {"status": "succeeded"}),))
        servers.enter_context(server)
        connect(server)
        return server

    return script
