"""Bad input: a clear error in every mode, on the first attempt, before a byte is sent."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
)

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.provider.modes import OPERATOR_MODES, SENSOR_MODES, add_tasks
from tests.support.rawserver import TOKEN
from tests.support.reading import one_line


@pytest.fixture
def upload(run_each, script, survey):
    """Upload in every mode something that cannot be uploaded; return the outcomes."""

    def upload(**arguments):
        server = script()
        defaults = {"action": "append", "target_hash": "f00d", "dataset": str(survey)}
        outcomes = run_each(DatatileUploadOperator, OPERATOR_MODES, **{**defaults, **arguments})
        assert server.connections == 0
        assert {outcome.job_id for outcome in outcomes.values()} == {None}
        return outcomes.values()

    return upload


@pytest.fixture
def everything_with(run_dag, script, connect, survey):
    """Upload and wait in every mode with changed connection fields; return the outcomes by mode."""

    def everything_with(conn_id="datatile_default", **fields):
        server = script()
        connect(server, **fields)
        with DAG(f"test_{uuid.uuid4().hex}", schedule=None) as dag:
            upload = {"action": "append", "target_hash": "f00d", "dataset": str(survey)}
            add_tasks(DatatileUploadOperator, OPERATOR_MODES, datatile_conn_id=conn_id, **upload)
            add_tasks(DatatileJobSensor, SENSOR_MODES, datatile_conn_id=conn_id, job_id="job-7", poke_interval=0.05)
        outcomes = run_dag(dag).unmapped
        assert len(outcomes) == 6
        return server, outcomes

    return everything_with


@pytest.mark.parametrize(
    ("dataset", "texts"),
    [
        ("{tmp_path}/nowhere.sav", ["no file", "nowhere.sav"]),
        ("file://{tmp_path}/nowhere.sav", ["no file", "nowhere.sav"]),
        ("file://fileserver/wave.sav", ["fileserver", "another machine"]),
        ("{tmp_path}", ["{tmp_path}", "is a directory"]),
        ("file://{tmp_path}", ["{tmp_path}", "is a directory"]),
        ("{tmp_path}/empty.sav", ["empty.sav", "is empty"]),
        ("nostore://surveys/wave.sav", ["nostore://surveys/wave.sav"]),
        ("", ["The dataset must be a file"]),
        ("wave\0.sav", ["cannot be read"]),
    ],
)
def test_files(upload, tmp_path, dataset, texts):
    (tmp_path / "empty.sav").touch()
    for outcome in upload(dataset=dataset.format(tmp_path=tmp_path)):
        outcome.assert_failed(AirflowFailException, *(text.format(tmp_path=tmp_path) for text in texts))


@pytest.mark.parametrize("dataset", [None, 5, ["wave1.sav", "wave2.sav"]])
def test_values_that_are_not_a_file(upload, dataset):
    for outcome in upload(dataset=dataset):
        outcome.assert_failed(AirflowFailException, "The dataset must be a file", repr(dataset))


@pytest.mark.parametrize("action", ["upsert", "", None])
def test_actions(upload, action):
    for outcome in upload(action=action):
        outcome.assert_failed(AirflowFailException, "action", "create, reload, append")


@pytest.mark.parametrize("target_hash", ["", "f00d/f00d", "..", "f00 d", "f00d?x=1", "\nf00d", "{{ 'a/b' }}", None])
def test_hashes(upload, target_hash):
    for outcome in upload(target_hash=target_hash):
        outcome.assert_failed(AirflowFailException, "Take the hash of the folder (create)", "DATATILE's Drive")


@pytest.mark.parametrize("callback_url", ["ftp://example.com/", "example.com/hook", 5])
def test_callback_urls(upload, callback_url):
    for outcome in upload(callback_url=callback_url):
        outcome.assert_failed(AirflowFailException, "callback URL")


@pytest.mark.parametrize("job_id", ["", None, "{{ none }}", "..", "a/b", "a b", ["a", "b"], {"id": "a"}])
def test_job_ids(run_each, script, job_id):
    server = script()
    outcomes = run_each(DatatileJobSensor, SENSOR_MODES, job_id=job_id, poke_interval=0.05)
    for outcome in outcomes.values():
        outcome.assert_failed(AirflowFailException, "Pass what the upload task returned", "upload.output")
    assert server.connections == 0


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"password": None}, ["no token", "password"]),
        ({"password": f"{TOKEN}\r\nhost: x"}, ["token with spaces"]),
        ({"host": None}, ["no host"]),
        ({"host": "ftp://datatile.example"}, ["not a server's address"]),
        ({"host": "http://datatile.example"}, ["unencrypted", "datatile.example", "allow_http"]),
        ({"host": "datatile.example", "schema": "http"}, ["unencrypted", "datatile.example", "allow_http"]),
        pytest.param({"extra": "{not JSON"}, ["extra", "not JSON"], marks=pytest.mark.needs_airflow("!=3.0.*")),
        pytest.param({"extra": "[1, 2]"}, ["extra", "not a JSON object"], marks=pytest.mark.needs_airflow("!=3.0.*")),
        ({"extra": {"timeout": "soon"}}, ["'timeout'", "number of seconds"]),
        ({"extra": {"verify": "/no/such/bundle.pem"}}, ["'verify'", "CA bundle"]),
        ({"extra": {"max_upload_bytes": -1}}, ["'max_upload_bytes'", "above 0"]),
        ({"extra": {"status_map": {"ready": "GREAT"}}}, ["'status_map'", "SUCCEEDED"]),
        ({"extra": {"job_path": "jobs"}}, ["'job_path'", "{job_id}"]),
        ({"extra": {"allow_http": "maybe"}}, ["'allow_http'", "true or false"]),
        ({"extra": {"statusfield": "state"}}, ["'statusfield'", "'status_field'"]),
    ],
)
def test_connections(everything_with, fields, texts):
    server, outcomes = everything_with(**fields)
    for outcome in outcomes.values():
        outcome.assert_failed(AirflowFailException, "datatile_default", *texts)
    assert server.connections == 0


@pytest.mark.needs_airflow("==3.0.*")
@pytest.mark.parametrize("extra", ["{not JSON", "[1, 2]"])
def test_airflow_3_0_does_not_find_a_connection_whose_extra_is_not_an_object(everything_with, extra, monkeypatch):
    monkeypatch.setattr("datatile_provider.hooks.connection.FIRST_READ", 0.1)
    server, outcomes = everything_with(extra=extra)
    for outcome in outcomes.values():
        assert outcome.state == "failed"
        assert outcome.errors
        assert {type(error) for error in outcome.errors} <= {AirflowNotFoundException, AirflowException}
    assert server.connections == 0


def test_a_file_over_the_connections_limit(everything_with):
    server, outcomes = everything_with(extra={"max_upload_bytes": 10})
    for mode in OPERATOR_MODES:
        outcomes[mode].assert_failed(AirflowFailException, "wave 1.csv", "max_upload_bytes", "10")
    assert server.uploads == []


def test_a_connection_that_does_not_exist(everything_with, monkeypatch):
    monkeypatch.setattr("datatile_provider.hooks.connection.FIRST_READ", 0.1)
    server, outcomes = everything_with(conn_id="elsewhere")
    for outcome in outcomes.values():
        # Airflow raises the same error while its API server is down, so it is retried.
        assert (outcome.state, outcome.attempts, len(outcome.errors)) == ("failed", 3, 3)
        assert {type(error) for error in outcome.errors} <= {AirflowNotFoundException, AirflowException}
        assert all("elsewhere" in one_line(error) for error in outcome.errors)
    assert server.connections == 0


@pytest.mark.parametrize(
    "value", [0, -1, -0.5, float("nan"), float("inf"), timedelta(0), timedelta(seconds=-1), "5", None, True]
)
@pytest.mark.parametrize(
    ("operator", "arguments", "name"),
    [
        (DatatileUploadOperator, {"action": "append", "target_hash": "f00d", "dataset": "wave.sav"}, "poll_interval"),
        (DatatileUploadOperator, {"action": "append", "target_hash": "f00d", "dataset": "wave.sav"}, "timeout"),
        (DatatileUploadOperator, {"action": "append", "target_hash": "f00d", "dataset": "wave.sav"}, "accept_timeout"),
        (DatatileJobSensor, {"job_id": "job-7"}, "poke_interval"),
        (DatatileJobSensor, {"job_id": "job-7"}, "timeout"),
    ],
)
def test_invalid_intervals_and_timeouts_fail_when_the_dag_is_parsed(operator, arguments, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number of seconds or a timedelta, over zero"):
        operator(task_id="task", **arguments, **{name: value})
