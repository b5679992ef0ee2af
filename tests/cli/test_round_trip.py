"""For random dialects of the sandbox: what its document and a rehearsal teach is all that a DAG needs."""

from __future__ import annotations

import itertools
import json
import logging
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG
from hypothesis import HealthCheck, given, settings

from datatile_provider.cli.commands import main
from datatile_provider.cli.openapi.vocabulary import state_in
from datatile_provider.cli.rehearsal import steps
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sandbox import Sandbox
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.support.dags import dag_folder, run_dag
from tests.support.dialects import dialects
from tests.support.fixtures import connect, plain_environment, survey

__all__ = ["connect", "dag_folder", "plain_environment", "run_dag", "survey"]

pytestmark = pytest.mark.timeout(240)
# The fixtures are functions, and each example has a sandbox and a DAG of its own.
few = settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
NUMBERS = itertools.count(1)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Poll soon, as the sandboxes are quick."""
    monkeypatch.setattr(steps, "_FIRST_GAP", 0.05)
    monkeypatch.setattr(steps, "_LONGEST_GAP", 0.2)
    monkeypatch.setattr(logging.getLogger("datatile_provider.sandbox"), "propagate", False)


@pytest.fixture
def learn(connect, capsys):
    """Return the exit code of a command and the JSON on stdout; the connection has this extra."""

    def learn(sandbox: Sandbox, *command: str, **extra: Any) -> tuple[int, dict[str, Any]]:
        connect(sandbox, extra=extra)
        capsys.readouterr()
        code = main(list(command))
        return code, json.loads(capsys.readouterr().out or "{}")

    return learn


def study(sandbox: Sandbox, file: str) -> DAG:
    """Return a DAG with all actions, each with a sensor behind it."""
    with DAG(f"dialect_{next(NUMBERS)}", schedule=None) as dag:
        last = None
        for action in ("create", "append", "reload"):
            target = sandbox.folder if action == "create" else sandbox.add_database(variables=["respondent", "vote"])
            upload = DatatileUploadOperator(task_id=action, action=action, target_hash=target, dataset=file)
            wait = DatatileJobSensor(task_id=f"wait_for_{action}", job_id=upload.output, poke_interval=0.1, timeout=20)
            if last:
                last >> upload
            last = wait
    return dag


@few
@given(dialect=dialects())
def test_the_extra_of_the_document_is_all_that_a_dag_needs(dialect, learn, connect, run_dag, survey):
    words = dialect.get("state_words", {})
    # A word that means another state than the document says is for a person to decide.
    if any(state_in(str(word))[0] not in (None, state) for state, word in words.items()):
        del dialect["state_words"]
    with Sandbox(processing_seconds=0.1, **dialect) as sandbox:
        code, extra = learn(sandbox, "openapi", f"{sandbox.url}/openapi.json")
        assert code == 0
        connect(sandbox, extra=extra)
        outcome = run_dag(study(sandbox, str(survey)))
        assert outcome.state == "success", outcome
        assert [job["state"] for job in sandbox.jobs()] == ["SUCCEEDED"] * 3


@few
@given(dialect=dialects())
def test_a_rehearsal_confirms_the_extra_of_the_sandbox(dialect, learn):
    with Sandbox(processing_seconds=0.3, **dialect) as sandbox:
        extra = sandbox.connection["extra"]
        # Nothing is left to set.
        command = ("rehearse", "--folder", sandbox.folder, "--yes", "--timeout", "20")
        assert learn(sandbox, *command, **extra) == (0, {})
