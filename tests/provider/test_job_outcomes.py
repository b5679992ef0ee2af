"""The ends of a job: the outcome of the task is the same in every mode of waiting."""

from __future__ import annotations

import threading

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, AirflowSensorTimeout

from datatile_provider.api import polling
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.provider.modes import OPERATOR_WAITS, SENSOR_MODES
from tests.support.reading import one_line

RUNNING = (200, {"status": "running"})
SUCCEEDED = (200, {"status": "succeeded", "rows": 3})


def assert_all_succeeded(outcomes):
    for mode, outcome in outcomes.items():
        assert (outcome.state, outcome.attempts, outcome.errors) == ("success", 1, []), mode
        if mode in OPERATOR_WAITS:
            assert outcome.result == outcome.job_id == f"job-{mode}"
        else:
            details = {"job_id": f"job-{mode}", **SUCCEEDED[1]}
            expected = {"id": f"job-{mode}", "state": "SUCCEEDED", "status": "succeeded", "message": ""}
            assert outcome.result == expected | {"details": details}


def assert_all_failed(outcomes, *texts, kind=AirflowFailException):
    for mode, outcome in outcomes.items():
        outcome.assert_failed(kind, f"job-{mode}", *texts)


def test_a_job_that_succeeds(wait, script):
    script(RUNNING, SUCCEEDED)
    assert_all_succeeded(wait())


def test_a_job_that_fails(wait, script):
    server = script(RUNNING, (200, {"status": "failed", "message": "Variable q7 is missing"}))
    assert_all_failed(wait(), "failed", "Variable q7 is missing", f"Processing log: {server.url}/")
    # No retry has sent the file again.
    assert len(server.uploads) == len(OPERATOR_WAITS)


def test_a_job_that_a_user_cancels(wait, script):
    script(RUNNING, (200, {"status": "cancelled", "message": "Cancelled by Ann"}))
    assert_all_failed(wait(), "cancelled", "Cancelled by Ann")


def test_a_job_that_has_ended_before_the_first_poll(wait, script):
    script((200, {"status": "failed", "message": "Variable q7 is missing"}))
    assert_all_failed(wait(), "failed", "Variable q7 is missing")


def test_an_unknown_status_does_not_end_the_wait(wait, script):
    script((200, {"status": "crunching"}), SUCCEEDED)
    assert_all_succeeded(wait())


@pytest.mark.parametrize("status", ["crunching", "running"])
def test_a_job_that_does_not_end_in_time(wait, script, status):
    script((200, {"status": status}))
    assert_all_failed(wait(timeout=0.4), repr(status), "Processing log", kind=AirflowSensorTimeout)


def test_a_server_that_reports_nothing_until_the_deadline(wait, script):
    script((502, b"<html><h1>Bad gateway</h1></html>"))
    assert_all_failed(wait(timeout=0.4), "502", "No poll returned its status", kind=AirflowSensorTimeout)


def test_transient_errors(wait, script):
    script((502, b"<html>Bad gateway</html>"), None, (200, b'{"status": "succ'), (200, ["succeeded"]), SUCCEEDED)
    assert_all_succeeded(wait())


def test_a_job_that_is_not_known_at_first(wait, script):
    script((404, {"error": "No such job"}), SUCCEEDED)
    assert_all_succeeded(wait())


def test_a_job_that_the_server_does_not_know(wait, script, monkeypatch):
    monkeypatch.setattr(polling, "GRACE", 0.3)
    script((404, {"error": "No such job"}))
    assert_all_failed(wait(), "No such job", "404")


def test_a_user_without_the_role(wait, script, monkeypatch):
    monkeypatch.setattr(polling, "GRACE", 0.3)
    script((403, {"error": "Not for you"}))
    assert_all_failed(wait(), "Not for you", "Data collector")


def test_a_new_token_that_reaches_the_connection_late(wait, script):
    script(RUNNING, (401, {"error": "Stale"}), (401, {"error": "Stale"}), SUCCEEDED)
    assert_all_succeeded(wait())


@pytest.mark.needs_airflow(">=3.3")
def test_one_rejection_long_after_the_first_poll_of_a_rescheduled_wait(run_each, script, monkeypatch):
    """This needs a state store: without it, the sensor does not know when the rejections began."""
    monkeypatch.setattr(polling, "GRACE", 0.5)
    script(RUNNING, RUNNING, (404, {"error": "No such job"}), SUCCEEDED)
    # In `dag.test()`, two polls are further apart than the grace period.
    modes = {"reschedule": SENSOR_MODES["reschedule"]}
    assert_all_succeeded(run_each(DatatileJobSensor, modes, job_id="job-{mode}", poke_interval=0.3))


@pytest.mark.parametrize("before", [(), (RUNNING,)])
def test_a_rejected_token(wait, script, monkeypatch, before):
    monkeypatch.setattr(polling, "GRACE", 0.3)
    script(*before, (401, {"error": "Stale"}))
    assert_all_failed(wait(), "Stale", "rejected the API token", "connection's password")


@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
@pytest.mark.parametrize(
    ("responses", "timeout", "reason"),
    [
        ([(200, {"status": "failed", "message": "q7 is missing"})], 20, "q7 is missing"),
        ([RUNNING, (200, {"status": "failed", "message": "q7 is missing"})], 20, "q7 is missing"),
        ([RUNNING], 0.4, "was not finished within"),
        ([RUNNING, (401, {"error": "Stale"})], 20, "rejected the API token"),
    ],
)
def test_a_sensor_skips_if_configured_and_logs_the_reason(
    run_each, script, monkeypatch, responses, timeout, reason, option
):
    monkeypatch.setattr(polling, "GRACE", 0.3)
    script(*responses)
    options = {"job_id": "job-{mode}", "poke_interval": 0.05, "timeout": timeout, option: True}
    outcomes = run_each(DatatileJobSensor, SENSOR_MODES, **options)
    assert {(o.state, o.attempts, o.result) for o in outcomes.values()} == {("skipped", 1, None)}
    for mode in SENSOR_MODES:
        assert reason in one_line(outcomes[mode].log), mode
        assert f"job-{mode}" in outcomes[mode].log


# The three ends with a sandbox: files that it can read, files that it cannot read, and a user who cancels.


@pytest.fixture
def real_jobs(run_dag, start, tmp_path):
    """Upload a file to a database in each mode, and wait for the job."""

    def real_jobs(name, content, during=None, **options):
        sandbox = start(**options)
        dataset = tmp_path / name
        dataset.write_text(content)
        with DAG(f"real_{name}", schedule=None) as dag:
            for mode, arguments in {**SENSOR_MODES, **OPERATOR_WAITS}.items():
                upload = {"action": "append", "target_hash": sandbox.add_database(mode), "dataset": str(dataset)}
                if mode in OPERATOR_WAITS:
                    DatatileUploadOperator(task_id=mode, retries=1, poll_interval=0.1, **upload, **arguments)
                else:
                    uploaded = DatatileUploadOperator(task_id=f"upload_for_{mode}", **upload)
                    DatatileJobSensor(task_id=mode, job_id=uploaded.output, retries=1, poke_interval=0.1, **arguments)
        ended = threading.Event()

        def repeat():
            while not ended.wait(0.05):
                during(sandbox)

        thread = threading.Thread(target=repeat if during else ended.wait)
        thread.start()
        try:
            return sandbox, run_dag(dag).unmapped
        finally:
            ended.set()
            thread.join()

    return real_jobs


def test_files_that_the_sandbox_reads(real_jobs):
    sandbox, outcomes = real_jobs("wave.csv", "respondent\n1\n2\n3\n")
    assert {outcome.state for outcome in outcomes.values()} == {"success"}
    assert {database["name"]: database["rows"] for database in sandbox.databases()} == dict.fromkeys(
        [*SENSOR_MODES, *OPERATOR_WAITS], 3
    )
    assert {outcomes[mode].result["details"]["rows"] for mode in SENSOR_MODES} == {3}


def test_files_that_the_sandbox_cannot_read(real_jobs):
    sandbox, outcomes = real_jobs("wave.sav", "no SPSS file")
    for mode in [*SENSOR_MODES, *OPERATOR_WAITS]:
        outcomes[mode].assert_failed(AirflowFailException, "wave.sav cannot be read")
    assert {database["rows"] for database in sandbox.databases()} == {0}


def test_jobs_that_a_user_cancels_in_the_drive(real_jobs):
    def cancel_all(sandbox):
        for job in sandbox.jobs():
            if job["state"] == "QUEUED":
                sandbox.cancel(job["job_id"])

    _, outcomes = real_jobs("wave.csv", "respondent\n1\n", during=cancel_all, processing_seconds=100)
    for mode in [*SENSOR_MODES, *OPERATOR_WAITS]:
        outcomes[mode].assert_failed(AirflowFailException, "Cancelled by a user")


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_failed_sensor_names_the_upload_to_clear(run_dag, start, survey, deferrable):
    sandbox, broken = start(), survey.with_name("broken.sav")
    broken.write_text("no SPSS file")
    with DAG(f"broken_{deferrable}", schedule=None) as dag:
        upload = DatatileUploadOperator(
            task_id="upload", action="create", target_hash=sandbox.folder, dataset=str(broken)
        )
        DatatileJobSensor(task_id="wait", job_id=upload.output, deferrable=deferrable, poke_interval=0.1)
    run_dag(dag).unmapped["wait"].assert_failed(
        AirflowFailException,
        f"JOB FAILED job {sandbox.jobs()[0]['job_id']}, from the upload task 'upload'",
        "The file was accepted, but its job did not succeed.",
        "Replace the file, then clear the upload task 'upload' and its downstream tasks.",
    )
