"""The sandbox's OpenAPI document: every response of the sandbox fits it, in any dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from jsonschema import Draft202012Validator, ValidationError

from datatile_provider.api import errors
from datatile_provider.api.models import Action, Upload
from datatile_provider.api.parsing import read_job, read_upload
from datatile_provider.api.responses import Response
from datatile_provider.api.settings import Settings
from datatile_provider.sandbox import Options, Sandbox
from datatile_provider.sandbox.options import STATUS_CODES
from tests.support.dialects import dialects
from tests.support.rawserver import Peer, RawServer
from tests.support.reading import KIND_OF_MEANING
from tests.support.waiting import until

CSV = b"respondent,vote\n1,0\n2,1\n"


class Client:
    """A client that knows of a sandbox only its document and its connection, and checks each response against both."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.document = requests.get(f"{sandbox.url}/openapi.json", timeout=5).json()
        (self._upload_path, self._upload), (self._job_path, self._job), *rest = self.document["paths"].items()
        self._codebooks = {
            operation["operationId"]: (method, path, operation)
            for path, operations in rest
            for method, operation in operations.items()
        }
        connection = sandbox.connection
        self._server = Settings.of(
            "sandbox", host=connection["host"], token=connection["password"], extra=json.dumps(connection["extra"])
        ).server
        (self._callbacks,) = self._upload["post"]["callbacks"]["status"].values()
        self._url, self.token = sandbox.url, sandbox.token

    def upload(self, action: str, target: str, content: bytes = CSV, callback: str = "", multipart: bool = True) -> Any:
        """Return the job's id, or what the rejection means."""
        url = self._url + self._upload_path.format(action=action, hash=target)
        upload = Upload(Action(action), target, "a.csv", len(content))
        assert url == self._server.upload_url(upload.action, target)
        form = self._upload["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        file_field, callback_field = form["properties"]
        assert callback_field == self._server.callback_field
        body: dict[str, Any] = {"files": {file_field: ("a.csv", content)}, "data": {callback_field: callback}}
        response = requests.post(url, headers=self._token(), timeout=10, **(body if multipart else {"data": content}))
        self._check(self._upload["post"]["responses"], response)
        try:
            return read_upload(self._server, upload, _read(response)).id
        except errors.DatatileError as e:
            return e

    def poll(self, job_id: str) -> Any:
        """Return the job, or what the rejection means."""
        values = {
            parameter["name"]: parameter["schema"].get("const", job_id) for parameter in self._job["get"]["parameters"]
        }
        query = {p["name"]: values[p["name"]] for p in self._job["get"]["parameters"] if p["in"] == "query"}
        response = requests.get(self._url + self._job_path.format(**values), query, headers=self._token(), timeout=10)
        assert response.url == self._server.job_url(job_id)
        self._check(self._job["get"]["responses"], response)
        try:
            return read_job(self._server, job_id, _read(response))
        except errors.DatatileError as e:
            return e

    def codebook(self, operation: str, database: str, content: bytes | None = None) -> requests.Response:
        """Return the response to an operation of the codebook API."""
        method, path, documented = self._codebooks[operation]
        url = self._url + path.format(hash=database)
        files = None
        if method == "post":
            assert url == self._server.codebook_import_url(database)
            (field,) = documented["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
            assert field == self._server.codebook_field
            files = {field: ("a.dtcb.xlsx", content)} if content else None
        elif operation == "exportCodebook":
            assert url == self._server.codebook_export_url(database)
        response = requests.request(method, url, headers=self._token(), files=files, timeout=20)
        self._check(documented["responses"], response)
        return response

    def check_event(self, event: Any, state: str, job_id: str) -> None:
        """Check the body of a callback, and the documented meaning of its status."""
        self._validate(self._callbacks["post"]["requestBody"]["content"]["application/json"]["schema"], event)
        job = read_job(self._server, job_id, Response(200, json.dumps(event).encode()))
        status = self.document["components"]["schemas"]["Status"]
        words = [word if isinstance(word, str) else json.dumps(word) for word in status["enum"]]
        assert state.capitalize() in status["x-enum-descriptions"][words.index(_status(self._server, event))]
        assert job.state.value == state or (state, job.state.value) == ("QUEUED", "RUNNING")

    def _token(self) -> dict[str, str]:
        return {self.document["components"]["securitySchemes"]["token"]["name"]: self.token}

    def _check(self, documented: dict[str, Any], response: requests.Response) -> None:
        ((kind, content),) = documented[str(response.status_code)]["content"].items()
        assert response.headers["Content-Type"].partition(";")[0] == kind
        if content["schema"].get("format") == "binary":
            assert response.content.startswith(b"PK")
            return
        is_text = kind == "text/plain" and self.document["components"]["schemas"]["JobId"]["type"] == "string"
        self._validate(content["schema"], response.text if is_text else response.json())

    def _validate(self, schema: dict[str, Any], value: Any) -> None:
        Draft202012Validator({**schema, "components": self.document["components"]}).validate(value)


def _read(response: requests.Response) -> Response:
    return Response(response.status_code, response.content)


def _status(server: Any, event: Any) -> str:
    for name in (server.status_field or "status").split("."):
        event = event[name]
    return event if isinstance(event, str) else json.dumps(event)


def _is(found: Any, reason: str) -> bool:
    return type(found) is KIND_OF_MEANING[reason]


@settings(max_examples=20)
@given(dialects())
def test_processed_jobs_fit_the_document(dialect):
    events: list[Any] = []

    def handle(peer: Peer) -> None:
        events.append(json.loads(peer.request()[1]))
        peer.respond(200)

    with Sandbox(processing_seconds=0, **dialect) as sandbox, RawServer(handle) as listener:
        client = Client(sandbox)
        database = sandbox.add_database("Tracker", rows=1, variables=["vote"])
        assert _is(client.upload("reload", database, b"no form", multipart=False), "rejected")
        jobs = [client.upload("append", database, CSV, listener.url), client.upload("create", sandbox.folder, b"\0")]
        until(lambda: {job["state"] for job in sandbox.jobs()} == {"SUCCEEDED", "FAILED"}, "both jobs are finished")
        until(lambda: len(events) == 3, "three callbacks")
        succeeded, failed = map(client.poll, jobs)
        assert (succeeded.state, succeeded.rows, succeeded.database) == ("SUCCEEDED", 2, database)
        assert (failed.state, failed.rows, failed.database) == ("FAILED", None, "")
        exported = client.codebook("exportCodebook", database).content
        assert client.codebook("importCodebook", database, exported).json() == {"variables": 2}
        codebook = client.codebook("exportCodebookAsJson", database).json()
        assert [variable["name"] for variable in codebook["variables"]] == ["vote", "respondent"]
        for event, state in zip(events, ("QUEUED", "RUNNING", "SUCCEEDED"), strict=True):
            client.check_event(event, state, jobs[0])
        sandbox.set_status(jobs[0], "no documented status")
        with pytest.raises(ValidationError, match="no documented status"):
            client.poll(jobs[0])


@settings(max_examples=20)
@given(dialects())
def test_waiting_jobs_and_rejections_fit_the_document(dialect):
    codes_of = {reason: Options(**dialect).codes(reason) for reason in STATUS_CODES}
    limits = {"processing_seconds": 3600, "max_upload_bytes": 1000, "uploads_per_minute": 0.01}
    with Sandbox(**limits, **dialect) as sandbox:
        client = Client(sandbox)
        database = sandbox.add_database()
        assert _is(client.upload("reload", sandbox.folder), "rejected")
        assert _is(client.upload("reload", "unknown"), "not_found")
        assert _is(client.upload("reload", database, bytes(20_000)), "too_large")
        job_id = client.upload("create", sandbox.folder)
        assert _is(client.upload("create", sandbox.folder), "busy")
        assert _is(client.upload("reload", database), "too_fast")
        assert client.poll(job_id).state in ("QUEUED", "RUNNING")
        sandbox.cancel(job_id)
        assert client.poll(job_id).state == "CANCELLED"
        assert _is(client.poll("4711"), "not_found")
        for content in (b"PK", None):
            assert client.codebook("importCodebook", database, content).status_code in codes_of["rejected"]
        assert client.codebook("importCodebook", database, bytes(2_000)).status_code in codes_of["too_large"]
        for operation in ("exportCodebook", "exportCodebookAsJson", "importCodebook"):
            assert client.codebook(operation, "unknown", b"PK").status_code in codes_of["not_found"]
        sandbox.set_roles()
        assert client.codebook("importCodebook", database, b"PK").status_code in codes_of["role"]
        assert _is(client.upload("create", sandbox.folder), "role")
        client.token = "wrong"
        for operation in ("exportCodebook", "exportCodebookAsJson", "importCodebook"):
            assert client.codebook(operation, database, b"PK").status_code in codes_of["token"]
        assert _is(client.upload("create", sandbox.folder), "token")
        assert _is(client.poll(job_id), "token")
