"""What DAG authors write: templates, outputs, mapped tasks, durations, and connections to other servers."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, ObjectStoragePath

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.provider.modes import OPERATOR_WAITS, SENSOR_MODES, add_tasks


def test_every_template_field_is_rendered(run_dag, start, survey, monkeypatch):
    sandbox = start()
    monkeypatch.setenv("AIRFLOW_CONN_DATATILE_TEST", os.environ["AIRFLOW_CONN_DATATILE_DEFAULT"])
    monkeypatch.delenv("AIRFLOW_CONN_DATATILE_DEFAULT")
    monkeypatch.setenv("AIRFLOW_VAR_FOLDER", sandbox.folder)
    callback = f"{sandbox.url}/hook"
    params = {"action": "create", "conn": "datatile_test", "wave": 1, "callback": callback, "data": str(survey.parent)}
    with DAG("templates", schedule=None, params=params) as dag:
        upload = DatatileUploadOperator(
            task_id="upload",
            action="{{ params.action }}",
            target_hash="{{ var.value.folder }}",
            dataset="file://{{ params.data | replace(' ', '%20') }}/wave%20{{ params.wave }}.csv",
            callback_url="{{ params.callback }}",
            datatile_conn_id="{{ params.conn }}",
        )
        DatatileJobSensor(
            task_id="wait",
            job_id="{{ ti.xcom_pull(task_ids='upload') }}",
            datatile_conn_id="{{ params.conn }}",
            poke_interval=0.1,
        ).set_upstream(upload)
    outcomes = run_dag(dag).unmapped
    uploaded, waited = outcomes["upload"], outcomes["wait"]
    (job,) = sandbox.jobs()
    assert (uploaded.state, waited.state) == ("success", "success")
    assert {field: getattr(uploaded.task, field) for field in DatatileUploadOperator.template_fields} == {
        "action": "create",
        "target_hash": sandbox.folder,
        "dataset": f"file://{survey.parent}/wave%201.csv",
        "callback_url": callback,
        "datatile_conn_id": "datatile_test",
    }
    assert (waited.task.job_id, waited.task.datatile_conn_id) == (job["job_id"], "datatile_test")
    assert job["callback"] == callback
    assert sandbox.databases()[0]["rows"] == 3


@pytest.mark.parametrize(
    "kind",
    [str, Path, lambda path: path.as_uri(), lambda path: ObjectStoragePath(f"file://{path}")],
    ids=["text", "path", "uri", "object storage path"],
)
def test_types_of_a_dataset(run, sandbox, survey, kind):
    outcome = run(DatatileUploadOperator, action="create", target_hash=sandbox.folder, dataset=kind(survey))
    assert (outcome.state, outcome.errors) == ("success", [])
    assert [(u["filename"], u["size"]) for u in sandbox.uploads()] == [("wave 1.csv", survey.stat().st_size)]


@pytest.mark.parametrize("deferrable", [False, True])
def test_the_output_feeds_mapped_sensors(run_dag, sandbox, survey, deferrable):
    waves = [survey, *(survey.with_name(f"wave {n}.csv") for n in (2, 3))]
    for wave in waves[1:]:
        wave.write_text(survey.read_text())
    databases = [sandbox.add_database(wave.stem) for wave in waves]
    with DAG(f"mapped_{deferrable}", schedule=None) as dag:
        uploads = DatatileUploadOperator.partial(task_id="upload", action="append").expand_kwargs(
            [{"target_hash": d, "dataset": str(w)} for d, w in zip(databases, waves, strict=True)]
        )
        DatatileJobSensor.partial(task_id="wait", poke_interval=0.1, deferrable=deferrable).expand(
            job_id=uploads.output
        )
    outcomes = run_dag(dag).tasks
    assert [o.state for o in outcomes["upload"] + outcomes["wait"]] == ["success"] * 6
    jobs = {job["hash"]: job["job_id"] for job in sandbox.jobs()}
    assert [o.result for o in outcomes["upload"]] == [jobs[database] for database in databases]
    assert [o.result["id"] for o in outcomes["wait"]] == [jobs[database] for database in databases]
    assert [database["rows"] for database in sandbox.databases()] == [3, 3, 3]


@pytest.mark.parametrize("options", OPERATOR_WAITS.values(), ids=OPERATOR_WAITS)
def test_a_mapped_upload_that_waits_by_itself(run_dag, start, survey, options):
    files = [survey, survey.with_name("broken.sav"), survey.with_name("wave 3.csv")]
    files[1].write_text("no SPSS file")
    files[2].write_text(survey.read_text())
    sandbox = start()
    with DAG(f"mapped_{options['deferrable']}_waits", schedule=None) as dag:
        DatatileUploadOperator.partial(
            task_id="upload", action="create", target_hash=sandbox.folder, poll_interval=0.1, **options
        ).expand(dataset=[str(file) for file in files])
    first, second, third = run_dag(dag).tasks["upload"]
    jobs = {job["filename"]: job["job_id"] for job in sandbox.jobs()}
    assert [first.result, second.job_id, third.result] == [jobs[file.name] for file in files]
    second.assert_failed(AirflowFailException, "broken.sav cannot be read")
    assert [database["rows"] for database in sandbox.databases()] == [3, 3]


def test_durations_may_be_timedeltas(run_dag, script, survey):
    script((200, {"status": "running"}), (200, {"status": "succeeded"}))
    moment, minute = timedelta(milliseconds=50), timedelta(minutes=1)
    with DAG("timedeltas", schedule=None) as dag:
        add_tasks(DatatileJobSensor, SENSOR_MODES, job_id="job-{mode}", poke_interval=moment, timeout=minute)
        upload = {"action": "append", "target_hash": "{mode}", "dataset": str(survey)}
        durations = {"poll_interval": moment, "timeout": minute, "accept_timeout": minute}
        add_tasks(DatatileUploadOperator, OPERATOR_WAITS, **upload, **durations)
    assert {outcome.state for outcome in run_dag(dag).unmapped.values()} == {"success"}


def test_deferrable_defaults_to_the_airflow_setting():
    code = """
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
upload = {"task_id": "upload", "action": "append", "target_hash": "f00d", "dataset": "wave.sav"}
print(DatatileUploadOperator(**upload).deferrable, DatatileJobSensor(task_id="wait", job_id="7").deferrable)
print(DatatileJobSensor(task_id="wait", job_id="7", deferrable=False).deferrable)
"""
    environment = {**os.environ, "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "True"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=50
    )
    # Airflow 3.0 also prints its log, before this output.
    assert run.stdout.split()[-3:] == ["True", "True", "False"]


DIALECT = {
    "job_path": "rest/tickets/{job_id}/info",
    "job_id_field": "reply.ticket",
    "status_field": "reply.progress.phase",
    "callback_field": "notify",
}
STATE_WORDS = {
    "QUEUED": "jonossa",
    "RUNNING": "työn alla",
    "SUCCEEDED": "valmis",
    "FAILED": "rikki",
    "CANCELLED": "peruttu",
}


@pytest.fixture
def other_dialect(run_dag, start, connect, tmp_path):
    """Upload a file and wait in every mode, on a server that differs in everything the vendor does not document."""

    def other_dialect(name, content, extra):
        sandbox = start(**DIALECT, state_words=STATE_WORDS)
        connect(sandbox, extra=extra)
        dataset = tmp_path / name
        dataset.write_text(content)
        upload: dict[str, Any] = {"action": "append", "dataset": str(dataset), "callback_url": f"{sandbox.url}/hook"}
        with DAG(f"dialect_{name}_{len(extra)}", schedule=None) as dag:
            for mode, options in SENSOR_MODES.items():
                uploaded = DatatileUploadOperator(
                    task_id=f"upload_for_{mode}", target_hash=sandbox.add_database(mode), **upload
                )
                DatatileJobSensor(task_id=mode, job_id=uploaded.output, poke_interval=0.1, timeout=20, **options)
            for mode, options in OPERATOR_WAITS.items():
                target = sandbox.add_database(mode)
                DatatileUploadOperator(task_id=mode, target_hash=target, poll_interval=0.1, **upload, **options)
        return sandbox, run_dag(dag).unmapped

    return other_dialect


def test_another_dialect_by_connection_extra_alone(other_dialect):
    extra = {**DIALECT, "status_map": {word: state for state, word in STATE_WORDS.items()}}
    sandbox, outcomes = other_dialect("wave.csv", "respondent\n1\n", extra)
    assert {outcome.state for outcome in outcomes.values()} == {"success"}
    assert {outcomes[mode].result["status"] for mode in SENSOR_MODES} == {"valmis"}
    assert {outcomes[mode].result["state"] for mode in SENSOR_MODES} == {"SUCCEEDED"}
    assert {database["rows"] for database in sandbox.databases()} == {1}
    assert {callback["url"] for callback in sandbox.callbacks()} == {f"{sandbox.url}/hook"}


def test_a_failure_in_another_dialect(other_dialect):
    extra = {**DIALECT, "status_map": {word: state for state, word in STATE_WORDS.items()}}
    _, outcomes = other_dialect("wave.sav", "no SPSS file", extra)
    for mode in [*SENSOR_MODES, *OPERATOR_WAITS]:
        outcomes[mode].assert_failed(AirflowFailException, "'rikki'", "wave.sav cannot be read")


def test_a_dialect_that_the_connection_does_not_configure_is_not_a_success(other_dialect):
    sandbox, outcomes = other_dialect("wave.csv", "respondent\n1\n", {})
    assert "success" not in {outcome.state for outcome in outcomes.values()}
    for mode in OPERATOR_WAITS:
        outcomes[mode].assert_failed(AirflowFailException, "without a job id that can be read")
    assert len(sandbox.uploads()) == 5


@pytest.mark.parametrize("template", [None, "{{ task.target_hash }}"])
def test_a_mapped_upload_is_shown_under_its_file_name(template):
    upload = DatatileUploadOperator(task_id="upload", action="append", target_hash="f00d", dataset="s3://b/wave 2.sav")
    context: Any = {"ti": SimpleNamespace(map_index=1), "map_index_template": template}
    upload._label_mapped_task(context)
    assert context["map_index_template"] == (template or "{{ task.file_name }}")
    assert upload.file_name == "wave 2.sav"
    # Airflow does not render the template after a failure.
    assert getattr(context["ti"], "rendered_map_index", None) == (None if template else "wave 2.sav")


def test_an_upload_that_is_not_mapped_has_no_label():
    upload = DatatileUploadOperator(task_id="upload", action="append", target_hash="f00d", dataset="/wave.sav")
    context: Any = {"ti": SimpleNamespace(map_index=-1)}
    upload._label_mapped_task(context)
    assert context == {"ti": SimpleNamespace(map_index=-1)}
