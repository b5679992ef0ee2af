"""``@task.datatile_upload``: a function returns the path of the file to upload."""

from __future__ import annotations

import time
import uuid

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowException, AirflowFailException, ObjectStoragePath, task

from tests.provider.modes import OPERATOR_MODES
from tests.support.scripted import ACCEPTED


@pytest.fixture
def run_function(run_dag):
    """Run a function as a task that uploads the returned file."""

    def run_function(function, *args, **options):
        with DAG(f"test_{uuid.uuid4().hex}", schedule=None) as dag:
            task.datatile_upload(function, **{"retries": 2, "retry_delay": 0, **options})(*args)
        (outcome,) = run_dag(dag).unmapped.values()
        return outcome

    return run_function


@pytest.mark.parametrize("options", OPERATOR_MODES.values(), ids=OPERATOR_MODES)
def test_the_returned_file_is_uploaded(run_function, sandbox, survey, options):
    def wave(name, suffix):
        return f"{survey.parent}/{name}.{suffix}"

    options = {"action": "create", "target_hash": sandbox.folder, "poll_interval": 0.05, **options}
    outcome = run_function(wave, "{{ 'wave 1' }}", "csv", **options)
    (job,) = sandbox.jobs()
    assert (outcome.state, outcome.result, job["filename"]) == ("success", job["job_id"], "wave 1.csv")


@pytest.mark.parametrize("path_type", [lambda p: p, ObjectStoragePath], ids=["Path", "ObjectStoragePath"])
def test_types_of_a_path(run_function, sandbox, survey, path_type):
    outcome = run_function(lambda: path_type(survey), task_id="upload", action="create", target_hash=sandbox.folder)
    assert outcome.state == "success"
    assert [job["filename"] for job in sandbox.jobs()] == ["wave 1.csv"]


@pytest.mark.parametrize("value", [None, 7, b"wave.csv"])
def test_values_that_are_not_a_path(run_function, sandbox, value):
    def wave():
        return value

    outcome = run_function(wave, action="create", target_hash=sandbox.folder)
    outcome.assert_failed(AirflowFailException, f"wave returned {value!r}", "must return the path")
    assert sandbox.jobs() == []


def test_the_function_is_called_once_when_the_upload_is_retried(run_function, script, survey, monkeypatch):
    monkeypatch.setattr("datatile_provider.operators.attempt.MAX_BACKOFF_IN_WORKER", 0.1)
    server = script(uploads=((409, {"error": "in progress"}), ACCEPTED))
    calls = []

    def wave():
        calls.append(1)
        return str(survey)

    outcome = run_function(wave, action="append", target_hash="f00d", deferrable=True)
    assert (outcome.state, outcome.result) == ("success", "job-f00d")
    assert len(server.uploads) == 2
    assert calls == [1]


# The `dag.test()` of 3.0 fails a task instead of retrying it, because it stores the rendered fields twice.
@pytest.mark.needs_airflow("!=3.0.*")
def test_the_function_is_called_again_on_a_retry(run_function, sandbox, survey):
    calls = []

    def wave():
        calls.append(1)
        if len(calls) < 2:
            raise AirflowException("not there yet")
        return str(survey)

    outcome = run_function(wave, action="create", target_hash=sandbox.folder)
    assert (outcome.state, outcome.attempts, len(calls)) == ("success", 2, 2)


def test_its_run_time_does_not_count_against_accept_timeout(run_function, sandbox, survey):
    def wave():
        time.sleep(0.3)
        return str(survey)

    outcome = run_function(wave, action="create", target_hash=sandbox.folder, accept_timeout=0.2)
    assert outcome.state == "success"
