"""Uploads from a real S3 server, through an Airflow connection to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from datatile_provider.api import errors
from datatile_provider.api.client import DatatileClient
from datatile_provider.api.models import Action, Upload
from datatile_provider.api.states import JobState
from datatile_provider.hooks.dataset import dataset_of
from datatile_provider.hooks.read_ahead import PART
from tests.benchmarks import s3
from tests.support.clients import finished, settings_for, upload_of
from tests.support.rawserver import Peer, RawServer

pytestmark = [pytest.mark.bench, pytest.mark.timeout(120)]

URI = f"s3://store@{s3.BUCKET}/2026/wave 1.csv"
ROW = b"%08d,1\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with s3.s3(tmp_path_factory.mktemp("s3")) as port:
        yield port


@pytest.fixture
def store(server: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An S3 client of the server that the Airflow connection ``store`` points to."""
    monkeypatch.setenv("AIRFLOW_CONN_STORE", s3.connection(server))
    return s3.client(server)


def put(store: Any, content: bytes) -> None:
    store.put_object(Bucket=s3.BUCKET, Key="2026/wave 1.csv", Body=content)


def test_object_of_many_parts_arrives_unchanged(store):
    content = os.urandom(3 * PART + 5)
    put(store, content)
    received = []

    def handle(peer: Peer) -> None:
        received.append(peer.request()[1])
        peer.respond(200, b'{"job_id": "1"}')

    dataset = dataset_of(URI)
    with RawServer(handle) as server:
        DatatileClient(settings_for(server.url)).upload(upload_of(dataset), dataset)
    assert content in received[0]
    assert b'filename="wave 1.csv"' in received[0]


def test_sandbox_accepts_it(sandbox, hook, store):
    put(store, b"respondent,vote\n" + b"".join(ROW % n for n in range(1000)))
    job = finished(hook, hook.upload("create", sandbox.folder, URI))
    assert (job.state, job.details["total_rows"]) == (JobState.SUCCEEDED, 1000)


@pytest.mark.parametrize("size", [3 * PART, 3 * PART + 100])
def test_object_that_changes_while_it_is_sent(sandbox, store, size):
    put(store, bytes(3 * PART))
    dataset = dataset_of(URI)

    def change(sent: int, total: int) -> None:
        # Once, while later parts are not read yet.
        if not changed:
            changed.append(sent)
            put(store, os.urandom(size))

    changed: list[int] = []
    client = DatatileClient(settings_for(sandbox.url))
    upload = Upload(Action.APPEND, sandbox.add_database(), dataset.name, dataset.size)
    with pytest.raises(errors.DatasetChangedError, match=r"wave 1\.csv"):
        client.upload(upload, dataset, on_progress=change)
    assert sandbox.uploads() == []


def test_object_that_becomes_shorter_while_it_is_sent(sandbox, store):
    put(store, bytes(5 * PART))
    dataset = dataset_of(URI)
    client = DatatileClient(settings_for(sandbox.url))
    upload = Upload(Action.APPEND, sandbox.add_database(), dataset.name, dataset.size)
    with pytest.raises(errors.DatasetUnreadableError, match=r"wave 1\.csv"):
        client.upload(upload, dataset, on_progress=lambda sent, total: put(store, bytes(10)))
    assert sandbox.uploads() == []


@pytest.mark.parametrize("uri", [f"s3://store@{s3.BUCKET}/none.csv", "s3://store@no-such-bucket/wave.csv"])
def test_no_such_object(sandbox, hook, store, uri):
    with pytest.raises(errors.InvalidInputError) as caught:
        hook.upload("append", "abc", uri)
    assert f"There is no file '{uri}'" in str(caught.value)
    assert "Check the URI" in str(caught.value)
    assert sandbox.uploads() == []


def test_rejected_credentials(sandbox, hook, tmp_path, monkeypatch):
    # Makes the server check credentials; none are registered.
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1")
    with s3.s3(tmp_path) as port:
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", s3.connection(port))
        with pytest.raises(errors.InvalidInputError) as caught:
            hook.upload("append", "abc", f"s3://other@{s3.BUCKET}/wave.csv")
    assert f"The store denied access to the file 's3://other@{s3.BUCKET}/wave.csv'" in str(caught.value)
    assert "Check the credentials in the store's Airflow connection" in str(caught.value)
    assert sandbox.uploads() == []


def test_no_such_connection(sandbox, hook):
    with pytest.raises(errors.DatatileError, match="nowhere"):
        hook.upload("append", "abc", f"s3://nowhere@{s3.BUCKET}/wave.csv")
    assert sandbox.uploads() == []
