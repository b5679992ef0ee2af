"""Databases as assets: their URIs, and what an asset event holds about the job."""

from __future__ import annotations

import json
import uuid
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import DAG, Asset

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.api.models import Job
from datatile_provider.assets.datatile import database_asset
from datatile_provider.assets.uris import file_uri, sanitize_uri
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.provider.modes import OPERATOR_MODES, SENSOR_MODES, add_tasks


@pytest.mark.parametrize(
    ("server", "uri"),
    [
        ("datatile.example.com", "datatile://datatile.example.com/databases/f00d"),
        ("https://DATATILE.example.com:443/", "datatile://datatile.example.com/databases/f00d"),
        ("http://127.0.0.1:8080/base", "datatile://127.0.0.1:8080/base/databases/f00d"),
        ("https://[::1]:8443", "datatile://[::1]:8443/databases/f00d"),
    ],
)
def test_the_asset_of_a_server_and_a_hash(server, uri):
    assert database_asset("f00d", server=server).uri == uri


def test_the_asset_of_a_connection_and_a_hash(monkeypatch):
    connection = {"conn_type": "datatile", "host": "https://datatile.example.com:8443", "password": "token"}
    monkeypatch.setenv("AIRFLOW_CONN_STUDY", json.dumps(connection))
    asset = database_asset("f00d", datatile_conn_id="study", extra={"wave": 2})
    assert asset.uri == "datatile://datatile.example.com:8443/databases/f00d"
    assert asset.extra == {"wave": 2}


@pytest.mark.parametrize("database_hash", ["", "a b", "../x", "a/b"])
def test_invalid_hashes(database_hash):
    with pytest.raises(InvalidInputError):
        database_asset(database_hash, server="datatile.example.com")


@pytest.mark.parametrize(
    "uri",
    [
        "datatile:///databases/f00d",
        "datatile://server",
        "datatile://server/databases",
        "datatile://server/databases/",
        "datatile://server/databases/a/b",
        "datatile://server/folders/f00d",
        "datatile://server:port/databases/f00d",
        "datatile://user@server/databases/f00d",
        "datatile://server/databases/f00d?x=1",
    ],
)
def test_uris_that_are_not_of_a_database(uri):
    with pytest.raises(ValueError, match="datatile://"):
        sanitize_uri(urlsplit(uri))


def test_airflow_calls_the_handler():
    assert Asset(uri="DATATILE://Server:443/databases/F00d/").uri == "datatile://server/databases/F00d"


@pytest.mark.needs_airflow(">=3")
def test_airflow_rejects_what_the_handler_rejects():
    with pytest.raises(ValueError, match=r"is not the URI of a DATATILE database: .* is not a hash"):
        Asset(uri="datatile://server/folders/f00d")


@pytest.fixture
def events_of(run_dag):
    """Return the asset, and the extras of the events of each task's outlets."""

    def events_of(operator, modes, **arguments):
        asset = database_asset("f00d", server=f"{uuid.uuid4().hex}.example.com")
        seen = {}

        def record(context, result):
            accessors = context["outlet_events"]
            seen[context["ti"].task_id] = [accessors[outlet].extra for outlet in context["task"].outlets]

        other = Asset(uri=f"x-other://{uuid.uuid4().hex}")
        with DAG(f"test_{uuid.uuid4().hex}", schedule=None) as dag:
            add_tasks(operator, modes, outlets=[asset, other], post_execute=record, **arguments)
        assert run_dag(dag).state == "success"
        return asset, seen

    return events_of


@pytest.mark.needs_airflow("!=3.0.*")  # Its `dag.test()` registers no assets, and fails the task.
def test_the_event_of_an_upload_holds_its_job(events_of, sandbox, survey):
    upload = {"action": "create", "target_hash": sandbox.folder, "dataset": str(survey), "poll_interval": 0.05}
    _, seen = events_of(DatatileUploadOperator, OPERATOR_MODES, **upload)
    jobs = {job["job_id"] for job in sandbox.jobs()}
    assert set(seen) == set(OPERATOR_MODES)
    for mode, (extra, other) in seen.items():
        assert extra.pop("job_id") in jobs
        assert extra == {"action": "create"} if mode == "fire_and_forget" else {"action": "create", "rows": 3}
        assert other == {}


@pytest.mark.needs_airflow("!=3.0.*")
def test_the_event_of_a_wait_holds_its_job(events_of, script):
    done = {"status": "done", "action": "append", "rows": 3}
    script((200, {"status": "queued"}), (200, {"status": "queued"}), (200, done))
    _, seen = events_of(DatatileJobSensor, SENSOR_MODES, job_id="job-{mode}", poke_interval=0.05)
    assert seen == {mode: [{"job_id": f"job-{mode}", "action": "append", "rows": 3}, {}] for mode in SENSOR_MODES}


@pytest.mark.parametrize(
    ("details", "rows"),
    [
        ({"rows": 3}, 3),
        ({"data": {"row_count": 0}}, 0),
        ({"rows": "3"}, None),
        ({"rows": True}, None),
        ({"rows": -1}, None),
        ({}, None),
    ],
)
def test_rows_are_reported_only_if_the_server_sends_a_number(details, rows):
    assert Job("7", details=details).rows == rows


@pytest.mark.parametrize(
    ("details", "found"),
    [
        ({"database": "f00d", "action": "append"}, ("f00d", "append")),
        ({"result": {"database_hash": "f00d"}}, ("f00d", "")),
        ({"database": "a b", "action": "delete"}, ("", "")),
        ({"database": ["f00d"], "action": 1}, ("", "")),
    ],
)
def test_database_and_action_of_a_job(details, found):
    job = Job("7", details=details)
    assert (job.database, job.action) == found


@pytest.mark.parametrize(
    ("dataset", "uri"),
    [
        ("/data/a b.sav", "file:///data/a b.sav"),
        ("file:///data/a%20b.sav", "file:///data/a b.sav"),
        ("file://localhost/data/a.sav", "file:///data/a.sav"),
        ("s3://aws@surveys/2024/wave.zsav", "s3://surveys/2024/wave.zsav"),
        ("gs://surveys/wave.zsav", "gs://surveys/wave.zsav"),
    ],
)
def test_the_uri_of_a_file_holds_no_connection(dataset, uri):
    assert file_uri(dataset) == uri


def test_the_uri_of_an_open_file(survey):
    with survey.open("rb") as file:
        assert file_uri(file) == f"file://{survey}"
