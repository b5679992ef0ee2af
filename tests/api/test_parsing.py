"""How the contract reads responses of the usual shapes, and which hashes, job ids and URLs it accepts."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime, timezone

import pytest

from datatile_provider.api import errors, parsing, rejections, responses, states
from datatile_provider.api.models import Action, ServerConfig
from datatile_provider.api.responses import Response
from datatile_provider.api.states import JobState
from datatile_provider.api.validation import check_callback_url, check_hash, check_job_id
from tests.support.reading import SERVER, SUCCESS_WORDS, UPLOAD, one_line, outcome, response_of


@pytest.mark.parametrize(
    ("body", "job_id"),
    [
        ({"job_id": "a-1"}, "a-1"),
        ({"jobId": 17}, "17"),
        ({"job": "x"}, "x"),
        ({"id": 0}, "0"),
        ({"task_id": "t"}, "t"),
        ({"taskId": "t"}, "t"),
        ({"id": "target", "job_id": "j"}, "j"),
        ({"data": {"id": 5}}, "5"),
        ({"result": {"job": {"id": "deep"}}}, "deep"),
        ({"id": "outer", "job": {"id": "inner"}}, "inner"),
        ({"job_id": "j", "data": {"id": "target"}}, "j"),
        ({"payload": {"id": "j"}}, "j"),
        ({"status": "success", "data": {"jobId": "j1"}}, "j1"),
        ('"42ab"', "42ab"),
        ("42ab\n", "42ab"),
        ("\ufeff42", "42"),
        ("1234", "1234"),
        ("550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440000"),
    ],
)
def test_job_ids_that_are_read(body, job_id):
    assert outcome(parsing.read_upload, SERVER, UPLOAD, response_of(body)).id == job_id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\x00",
        "OK",
        '"queued"',
        "true",
        "null",
        "NaN",
        "[1]",
        "[1",
        '{"job_id": "1',
        {},
        {"id": None},
        {"id": True},
        {"id": 1.5},
        {"id": ["1"]},
        {"id": "a b"},
        {"id": "a/b"},
        {"id": "../x"},
        {"id": ".."},
        {"id": "?x=1"},
        {"id": ""},
        {"id": "x" * 201},
        {"status": "queued"},
        [{"id": 1}],
        "<html><body>1234</body></html>",
        "<p>7</p>",
        "two words 2",
        "żółć1",
    ],
)
def test_no_job_id(body):
    error = outcome(parsing.read_upload, SERVER, UPLOAD, response_of(body))
    assert isinstance(error, errors.OutcomeUnknownError)
    for part in ("wave.sav", "abc123", SERVER.processing_log_url):
        assert part in one_line(error)


def test_an_unknown_outcome_names_the_time_of_the_response():
    """A person looks for that time in the server's processing log."""
    response = response_of("", at=datetime(2026, 10, 21, 7, 28, tzinfo=timezone.utc))
    error = outcome(parsing.read_upload, SERVER, UPLOAD, response)
    assert "That was at 2026-10-21 07:28:00 UTC." in one_line(error)


@pytest.mark.parametrize(
    "body",
    [
        {"error": "no such variable"},
        {"errors": ["no such variable"]},
        {"data": {"error": {"message": "no such variable"}}},
        {"success": False, "message": "no such variable"},
        {"ok": False, "detail": "no such variable"},
    ],
)
def test_a_200_with_an_error_inside_leaves_the_outcome_unknown(body):
    """The server may have accepted the file, with the job id in a field of unknown name."""
    for content in (body, {**body, "uploadNumber": "17"}, {**body, "job_id": "job-1"}):
        for whole_body_sent in (True, False):
            error = outcome(parsing.read_upload, SERVER, UPLOAD, response_of(content), whole_body_sent=whole_body_sent)
            assert type(error) is errors.OutcomeUnknownError
            assert "no such variable" in one_line(error)
            assert ("job-1" in one_line(error)) is ("job_id" in content)


@pytest.mark.parametrize("word", ["failed", "error", "rejected", "Cancelled"])
@pytest.mark.parametrize(
    "body",
    [
        {"job_id": "j1", "status": "{}"},
        {"status": "{}", "data": {"id": "j1", "status": "queued"}},
        {"data": {"id": "j1", "state": "{}"}},
    ],
    ids=["beside the id", "around it", "inside"],
)
def test_an_upload_response_with_a_job_and_a_failure_leaves_the_outcome_unknown(body, word):
    error = outcome(parsing.read_upload, SERVER, UPLOAD, response_of(json.dumps(body).replace("{}", word)))
    assert type(error) is errors.OutcomeUnknownError
    assert word in one_line(error)
    assert "j1" in one_line(error)


def test_the_failure_of_another_job_does_not_fail_the_upload():
    body = {"job_id": "j1", "status": "queued", "previous": {"id": "j0", "status": "failed"}}
    assert outcome(parsing.read_upload, SERVER, UPLOAD, response_of(body)).id == "j1"


@pytest.mark.parametrize(
    ("body", "state"),
    [
        *(({"status": word}, JobState.SUCCEEDED) for word in SUCCESS_WORDS),
        *(({"status": word}, JobState.QUEUED) for word in ("queued", "Pending", "IN QUEUE", "waiting", "NEW")),
        *(({"status": word}, JobState.RUNNING) for word in ("running", "In progress", "in-progress", "IN_PROGRESS")),
        *(({"status": word}, JobState.FAILED) for word in ("failed", "ERROR", "Rejected", "failure", "fail")),
        *(({"status": word}, JobState.CANCELLED) for word in ("cancelled", "Canceled", "ABORTED", "revoked")),
        *(({"status": word}, JobState.UNKNOWN) for word in ("ok", "200", "frobnicated", "not finished", "готово")),
        ({"state": "SUCCEEDED"}, JobState.SUCCEEDED),
        ({"jobStatus": " Done. "}, JobState.SUCCEEDED),
        ({"data": {"status": "success"}}, JobState.SUCCEEDED),
        ({"status": "success", "data": {"status": "running"}}, JobState.RUNNING),
        ({"status": "success", "data": {"status": "failed"}}, JobState.FAILED),
        ({"status": "success", "data": {"status": "success", "rows": 3}}, JobState.SUCCEEDED),
        ({"status": "success", "message": "job running", "state": "processing"}, JobState.RUNNING),
        ({"status": "success", "state": "queued"}, JobState.QUEUED),
        ({"id": "7", "status": "success", "state": "failed"}, JobState.FAILED),
        ({"id": "7", "status": "success", "state": "finished"}, JobState.SUCCEEDED),
        ({"job_id": "7", "status": "success", "job_state": "running"}, JobState.RUNNING),
        ({"job_id": "7", "jobState": "RUNNING", "file": {"status": "complete"}}, JobState.RUNNING),
        ({"status": "error", "job_id": "7"}, JobState.FAILED),
        (
            {"job_id": "7", "status": "success", "rows": 60, "database": "f00d", "message": "60 rows"},
            JobState.SUCCEEDED,
        ),
        ({"job_id": "7", "status": "done", "progress": 100, "failed_rows": 0, "error": None}, JobState.SUCCEEDED),
        ({"status": "success", "state": "frobnicated"}, JobState.UNKNOWN),
        ({"status": "success", "payload": {"id": "7", "status": "running"}}, JobState.RUNNING),
        ({"status": "success", "jobs": [{"id": "7", "status": "running"}]}, JobState.RUNNING),
        (
            {"status": "done", "jobs": [{"id": "8", "status": "done"}, {"id": "7", "status": "running"}]},
            JobState.RUNNING,
        ),
        ({"status": "success", "jobs": {"7": {"status": "running"}, "8": {"status": "done"}}}, JobState.RUNNING),
        ({"data": {"id": "7", "type": "jobs", "attributes": {"status": "done"}}}, JobState.SUCCEEDED),
        ({"status": "success", "data": {"id": "7", "attributes": {"status": "running"}}}, JobState.RUNNING),
        ({"id": "7", "status": "success", "result": {"status": "running"}}, JobState.RUNNING),
        ({"id": "7", "status": "done", "database": {"id": "8", "status": "active"}}, JobState.SUCCEEDED),
        ({"id": "7", "status": "done", "worker": {"status": "idle"}}, JobState.SUCCEEDED),
        ({"status": "error", "data": {"id": "7", "status": "failed"}}, JobState.FAILED),
        ({"status": "error", "data": {"id": "7", "status": "running"}}, JobState.RUNNING),
        ({"status": "done", "rows": 3, "details": {"weighted": True}}, JobState.SUCCEEDED),
        ({"task_id": "7", "status": "SUCCESS", "result": None}, JobState.SUCCEEDED),
        ({"status": "done", "errors": []}, JobState.SUCCEEDED),
        ({"status": 3}, JobState.UNKNOWN),
    ],
)
def test_states(body, state):
    assert outcome(parsing.read_job, SERVER, "7", response_of(body)).state is state


@pytest.mark.parametrize(
    ("body", "field"),
    [
        # The status of the request itself: an error of it reads like a failed job, a success like a finished one.
        ({"status": "error", "message": "Unable to communicate with database"}, "status"),
        ({"status": "failed", "data": None, "message": "try again later"}, "status"),
        ({"status": "cancelled", "code": 1}, "status"),
        ({"status": "success", "data": {}}, "status"),
        ({"status": "success", "data": None}, "status"),
        ({"status": "success", "data": []}, "status"),
        ({"status": "success", "message": "job running"}, "status"),
        ({"status": "success", "progress": 40}, "status"),
        ({"status": "success", "data": {"status": "success", "data": {"progress": 40}}}, "data.status"),
        # Another field contradicts the status.
        ({"id": "7", "status": "succeeded", "errors": [{"row": 3}]}, "status"),
        ({"id": "7", "status": "done", "error": "disk full"}, "status"),
        ({"status": "done", "success": False}, "status"),
        ({"id": "7", "status": "done", "state": "failed"}, "status"),
        ({"status": "error", "data": {"id": "7", "status": "done"}}, "data.status"),
        ({"id": "7", "status": "completed", "result": "failed"}, "status"),
        ({"id": "7", "status": "completed", "outcome": "error"}, "status"),
        ({"id": "7", "status": "completed", "error_message": "too large"}, "status"),
        ({"id": "7", "status": "completed", "failed": True}, "status"),
        ({"id": "7", "status": "success", "data": {"phase": "importing", "percent": 40}}, "status"),
        ({"id": "7", "status": "success", "percent": 40}, "status"),
        ({"id": "7", "status": "finished", "phase": "importing"}, "status"),
        ({"id": "7", "status": "SUCCESS", "result": {"rows": 3}}, "status"),
        ({"id": "7", "state": "finished", "status": "active"}, "state"),
        ({"status": "succeeded", "database": {"hash": "ab", "status": "active"}}, "status"),
        ({"id": "7", "status": "error", "message": "status service unavailable"}, "status"),
        ({"upload": {"status": "completed"}, "job_state": "importing 3 of 7"}, None),
        ({"status": "success", "data": {"validation": {"status": "failed"}}}, "status"),
    ],
)
def test_a_final_status_that_is_not_clearly_the_jobs_does_not_end_the_wait(body, field):
    error = outcome(parsing.read_job, SERVER, "7", response_of(body))
    if field is None:
        assert isinstance(error, errors.UnexpectedResponseError) or not error.state.finished
        return
    assert type(error) is errors.UnexpectedResponseError
    assert (json.dumps({"status_field": field})) in error.hint
    # The option that the hint names resolves it.
    named = ServerConfig("https://x", status_field=field)
    assert outcome(parsing.read_job, named, "7", response_of(body)).state.finished


@pytest.mark.parametrize(
    "body",
    [
        {"id": "other", "status": "SUCCEEDED"},
        {"job_id": "other", "status": "failed"},
        {"data": {"id": "other", "status": "done"}},
        {"jobs": [{"id": "a", "status": "done"}, {"id": "b", "status": "done"}]},
        {"id": "request-1", "data": {"status": "done"}},
    ],
)
def test_the_status_of_another_job_is_ignored(body):
    error = outcome(parsing.read_job, SERVER, "7", response_of(body))
    assert type(error) is errors.UnexpectedResponseError
    assert "another" in one_line(error)


def test_the_status_of_another_job_is_ignored_at_the_configured_path_too():
    server = ServerConfig("https://x", status_field="data.status")
    assert type(outcome(parsing.read_job, server, "7", response_of({"data": {"job_id": "8", "status": "done"}}))) is (
        errors.UnexpectedResponseError
    )
    mapped = ServerConfig("https://x", status_field="data.status", job_id_field="data.nr")
    found = outcome(parsing.read_job, mapped, "7", response_of({"data": {"id": "db", "nr": 7, "status": "failed"}}))
    assert (found.state, found.named) == (JobState.FAILED, True)


def test_status_words_that_differ_only_in_punctuation_are_distinct():
    words = {"-1": JobState.FAILED, "0": JobState.RUNNING, "1": JobState.SUCCEEDED}
    server = ServerConfig("https://x", status_map=words)
    for word, state in words.items():
        assert outcome(parsing.read_job, server, "7", response_of({"id": "7", "status": int(word)})).state is state


def test_a_boolean_status_can_be_mapped():
    server = ServerConfig(
        "https://x", status_field="done", status_map={"true": JobState.SUCCEEDED, "false": JobState.RUNNING}
    )
    for done, state in ((True, JobState.SUCCEEDED), (False, JobState.RUNNING)):
        assert outcome(parsing.read_job, server, "7", response_of({"job_id": "7", "done": done})).state is state


def test_a_uuid_is_compared_case_insensitively_and_another_id_is_not():
    uuid = "550e8400-e29b-41d4-a716-44665544abcd"
    assert outcome(parsing.read_job, SERVER, uuid, response_of({"id": uuid.upper(), "status": "done"})).named
    assert isinstance(
        outcome(parsing.read_job, SERVER, "job-a", response_of({"id": "JOB-A", "status": "done"})), Exception
    )


def test_an_error_of_the_request_is_not_the_jobs_although_it_holds_the_job_id():
    """Otherwise two such polls would be enough to send the file again."""
    server = ServerConfig("https://x", status_field="status")
    found = outcome(parsing.read_job, server, "7", response_of({"status": "error", "data": {"id": "7"}}))
    assert (found.state, found.named) == (JobState.FAILED, False)


@pytest.mark.parametrize(
    "body",
    [
        {"code": 500, "msg": "internal error", "id": "req-8871"},
        {"success": 0, "id": "1"},
        {"success": "false", "id": "1"},
        {"status": 500, "id": "1"},
        {"status": "ko", "id": "1"},
        {"error_code": 17, "error_message": "too large", "id": "1"},
        "0",
        "-1",
        "E17",
        "error-1001",
    ],
)
def test_upload_responses_that_are_not_an_acceptance(body):
    assert type(outcome(parsing.read_upload, SERVER, UPLOAD, response_of(body))) is errors.OutcomeUnknownError


@pytest.mark.parametrize(
    ("body", "rows", "database"),
    [
        ({"status": "done", "stats": {"cases": 7}, "target": {"hash": "d1"}}, 7, "d1"),
        # The options win over the usual names, in every layer.
        ({"status": "done", "rows": 1, "database": "d0", "stats": {"cases": 7}, "target": {"hash": "d1"}}, 7, "d1"),
        ({"data": {"status": "done", "rows": 1}, "stats": {"cases": 7}}, 7, ""),
        # What the options name is missing.
        ({"status": "done", "rows": 3, "stats": None}, 3, ""),
    ],
)
def test_configured_fields_of_the_result(body, rows, database):
    server = ServerConfig("https://x", rows_field="stats.cases", database_field="target.hash")
    found = outcome(parsing.read_job, server, "7", response_of(body))
    assert (found.state, found.rows, found.database) == (JobState.SUCCEEDED, rows, database)


def test_json_in_latin_1_is_read():
    body = '{"id": "7", "status": "done", "message": "geprüft"}'.encode("latin-1")
    assert outcome(parsing.read_job, SERVER, "7", response_of(body)).message == "geprüft"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"id": 7, "status": "failed"}, True),
        ({"status": "failed"}, False),
        ({"jobs": {"7": {"status": "error"}}}, True),
    ],
)
def test_whether_a_response_names_the_job(body, named):
    found = outcome(parsing.read_job, SERVER, "7", response_of(body))
    assert (found.state, found.named) == (JobState.FAILED, named)


@pytest.mark.parametrize(
    "body",
    [b"", "done", '"done"', ["done"], 1, {}, {"status": None}, {"status": True}, {"status": {}}, "<h1>done</h1>"],
)
def test_no_status(body):
    error = outcome(parsing.read_job, SERVER, "7", response_of(body))
    assert isinstance(error, errors.UnexpectedResponseError)
    assert "status_field" in one_line(error)


def test_configured_status_words_and_fields():
    server = ServerConfig(
        "https://x", status_field="info.phase", status_map={"Fertig": JobState.SUCCEEDED, "done": JobState.RUNNING}
    )
    body = {"status": "failed", "info": {"phase": "FERTIG"}}
    assert parsing.read_job(server, "7", response_of(body)).state is JobState.SUCCEEDED
    assert parsing.read_job(server, "7", response_of({"info": {"phase": "done"}})).state is JobState.RUNNING
    assert isinstance(
        outcome(parsing.read_job, server, "7", response_of({"status": "done"})), errors.UnexpectedResponseError
    )
    mapped = ServerConfig("https://x", job_id_field="response.number")
    assert parsing.read_upload(mapped, UPLOAD, response_of({"id": "no", "response": {"number": 9}})).id == "9"
    assert isinstance(
        outcome(parsing.read_upload, mapped, UPLOAD, response_of({"id": "no"})), errors.OutcomeUnknownError
    )


def test_the_largest_response_to_a_poll_that_is_read():
    body = json.dumps({"id": "7", "status": "done"}).encode().ljust(responses.MAX_POLL_BYTES)
    assert outcome(parsing.read_job, SERVER, "7", response_of(body)).state is JobState.SUCCEEDED
    error = outcome(parsing.read_job, SERVER, "7", response_of(body + b" "))
    assert type(error) is errors.UnexpectedResponseError
    assert "more than 65,536 bytes" in one_line(error)


REJECTED, UNKNOWN, SERVER_ERROR = errors.PermanentError, errors.OutcomeUnknownError, errors.ServerError
REDIRECTED, BUSY = errors.RedirectedError, errors.ServerBusyError


@pytest.mark.parametrize(
    ("status", "sent_whole", "sent_in_part"),
    [
        (101, UNKNOWN, SERVER_ERROR),
        (199, UNKNOWN, SERVER_ERROR),
        (200, UNKNOWN, UNKNOWN),
        (204, UNKNOWN, UNKNOWN),
        (299, UNKNOWN, UNKNOWN),
        (300, UNKNOWN, REDIRECTED),
        (302, UNKNOWN, REDIRECTED),
        (303, UNKNOWN, REDIRECTED),
        (307, REDIRECTED, REDIRECTED),
        (308, REDIRECTED, REDIRECTED),
        (399, UNKNOWN, REDIRECTED),
        (400, REJECTED, REJECTED),
        (401, errors.TokenRefusedError, errors.TokenRefusedError),
        (403, errors.RoleMissingError, errors.RoleMissingError),
        (404, errors.NotFoundError, errors.NotFoundError),
        (408, UNKNOWN, SERVER_ERROR),
        (409, errors.DestinationBusyError, errors.DestinationBusyError),
        (413, errors.FileTooLargeError, errors.FileTooLargeError),
        (422, REJECTED, REJECTED),
        (423, errors.DestinationBusyError, errors.DestinationBusyError),
        (425, UNKNOWN, SERVER_ERROR),
        (429, errors.RateLimitedError, errors.RateLimitedError),
        (499, UNKNOWN, SERVER_ERROR),
        (500, UNKNOWN, SERVER_ERROR),
        (502, UNKNOWN, SERVER_ERROR),
        (503, UNKNOWN, BUSY),
        (504, UNKNOWN, SERVER_ERROR),
        (999, UNKNOWN, SERVER_ERROR),
    ],
)
def test_statuses(status, sent_whole, sent_in_part):
    for whole_body_sent, kind in ((True, sent_whole), (False, sent_in_part)):
        response = response_of("Say what?", status, retry_after="7")
        error = outcome(parsing.read_upload, SERVER, UPLOAD, response, whole_body_sent=whole_body_sent)
        assert type(error) is kind
        assert error.status == status
        assert str(UPLOAD) in one_line(error)
        assert "Say what?" in one_line(error)
        assert error.retry_after == 7
        # The processing log shows the upload that must finish first, or whether this one was accepted.
        logged = kind in (errors.DestinationBusyError, UNKNOWN)
        assert error.log_url == (SERVER.processing_log_url if logged else "")


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("https://elsewhere.example.com{path}", REDIRECTED),
        ("//elsewhere.example.com{path}", REDIRECTED),
        ("http://datatile.example.com{path}", REDIRECTED),
        ("https://datatile.example.com:8443{path}", REDIRECTED),
        ("{path}", UNKNOWN),
        ("https://elsewhere.example.com/login", UNKNOWN),
        ("https://elsewhere.example.com{path}?accepted=1", UNKNOWN),
        ("http://[", UNKNOWN),
    ],
)
def test_only_a_redirect_to_the_same_path_elsewhere_accepted_nothing(location, kind):
    path = "/api/v2/upload/append/abc123"
    for status in (301, 302, 303):
        response = response_of("", status, location=location.format(path=path))
        assert type(outcome(parsing.read_upload, SERVER, UPLOAD, response)) is kind


MEANINGS = {
    "busy": (errors.DestinationBusyError, BUSY),
    "too_large": (errors.FileTooLargeError, None),
    "too_fast": (errors.RateLimitedError, errors.RateLimitedError),
    "token": (errors.TokenRefusedError, errors.TokenRefusedError),
    "role": (errors.RoleMissingError, errors.RoleMissingError),
    "not_found": (errors.NotFoundError, errors.NotFoundError),
    "rejected": (REJECTED, REJECTED),
}


@pytest.mark.parametrize("status", [400, 401, 404, 409, 498])
@pytest.mark.parametrize(("meaning", "kinds"), MEANINGS.items())
def test_configured_statuses(status, meaning, kinds):
    server = ServerConfig("https://x", status_codes={status: meaning})
    response = response_of("Say what?", status)
    for whole_body_sent in (True, False):
        error = outcome(parsing.read_upload, server, UPLOAD, response, whole_body_sent=whole_body_sent)
        assert type(error) is kinds[0]
    error = outcome(parsing.read_job, server, "7", response)
    # A size means nothing for a poll, so the usual meaning counts.
    assert type(error) is (kinds[1] or type(outcome(parsing.read_job, SERVER, "7", response)))
    assert "upload" not in one_line(error)


def test_every_meaning_of_a_status_is_tested():
    assert tuple(MEANINGS) == rejections.MEANINGS


@pytest.mark.parametrize(
    ("codes", "yours", "made_up", "kind"),
    [
        ({403: "token"}, 403, None, errors.TokenRefusedError),
        ({403: "token"}, 404, 403, None),
        ({404: "role"}, 404, None, errors.RoleMissingError),
        ({403: "not_found"}, 403, 401, None),
        ({403: "not_found"}, 403, 403, errors.NotDatatileError),
        ({420: "too_fast"}, 404, 420, errors.RateLimitedError),
        ({}, 404, 503, BUSY),
    ],
)
def test_a_connection_test_with_configured_statuses(codes, yours, made_up, kind):
    server = ServerConfig("https://x", status_codes=codes)
    with pytest.raises(kind) if kind else contextlib.nullcontext():
        parsing.read_probe(server, "/path", response_of({}, yours))
        assert made_up
        parsing.check_token_is_verified(server, "/path", response_of({}, yours), response_of({}, made_up))


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (101, SERVER_ERROR, "responded with an error"),
        (199, SERVER_ERROR, "responded with an error"),
        (200, errors.UnexpectedResponseError, "has no status"),
        (299, errors.UnexpectedResponseError, "has no status"),
        (300, REDIRECTED, "redirects to"),
        (302, REDIRECTED, "redirects to"),
        (399, REDIRECTED, "redirects to"),
        (400, REJECTED, "rejected the request"),
        (401, errors.TokenRefusedError, "rejected the API token"),
        (403, errors.RoleMissingError, "lacks a role"),
        (404, errors.NotFoundError, "no such job"),
        (408, SERVER_ERROR, "timed out"),
        (409, BUSY, "server is busy"),
        (418, REJECTED, "rejected the request"),
        (423, BUSY, "server is busy"),
        (425, BUSY, "server is busy"),
        (429, errors.RateLimitedError, "Requests come too fast"),
        (499, REJECTED, "rejected the request"),
        (500, SERVER_ERROR, "responded with an error"),
        (503, BUSY, "overloaded or down"),
        (999, SERVER_ERROR, "responded with an error"),
    ],
)
def test_statuses_of_a_poll(status, kind, text):
    error = outcome(parsing.read_job, SERVER, "7", response_of("Say what?", status))
    assert type(error) is kind
    assert text in one_line(error)
    assert "Say what?" in one_line(error)
    # The message is about the poll, not about an upload.
    assert "upload" not in one_line(error)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        # An error in JSON is DATATILE's.
        *((status, {"message": "unknown job"}, None) for status in (400, 404, 409, 422, 429)),
        (199, "", SERVER_ERROR),
        (200, {"message": "unknown job"}, errors.NotDatatileError),
        (200, "<h1>Welcome</h1>", errors.NotDatatileError),
        (299, "", errors.NotDatatileError),
        (300, "", REDIRECTED),
        (302, "", REDIRECTED),
        (400, "", errors.NotDatatileError),
        (401, {"message": "no"}, errors.TokenRefusedError),
        (403, {"message": "no"}, errors.RoleMissingError),
        (404, "<h1>Not found</h1>", errors.NotDatatileError),
        (429, "", errors.RateLimitedError),
        (500, {"message": "no"}, SERVER_ERROR),
        (503, "", BUSY),
    ],
)
def test_the_response_to_the_test_of_a_connection(status, body, kind):
    error = outcome(parsing.read_probe, SERVER, "/api/v2/jobs/x", response_of(body, status))
    assert error is None if kind is None else type(error) is kind
    assert error is None or (error.status, error.subject) == (status, "test of /api/v2/jobs/x")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2026 09:28:30 +0200", 30),
        ("Wed, 21 Oct 2026 07:00:00 GMT", 0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("99999999999999999999", None),
    ],
)
def test_retry_after(value, seconds):
    at = datetime(2026, 10, 21, 7, 28, tzinfo=timezone.utc)
    assert responses.retry_after_seconds(Response(429, retry_after=value, at=at)) == seconds


@pytest.mark.parametrize("good", ["a", "0f3b", "A-b_c.d~e", "x" * 200])
def test_hashes(good):
    assert check_hash(good) == good


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "a..b", "a/b", "/", "a b", " a", "a\n", "a?b", "a#b", "a%2Fb", "хэш", "x" * 201, None, 7]
)
def test_bad_hashes(bad):
    with pytest.raises(errors.InvalidInputError, match="hash"):
        check_hash(bad)


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "None", "a/b", "a b", "a\n", "a?b", "[7]", "{'a': 1}", "\ud800", None, 7]
)
def test_bad_job_ids(bad):
    with pytest.raises(errors.InvalidInputError, match="job id"):
        check_job_id(bad)


@pytest.mark.parametrize(
    "bad", ["", "x", "//x/y", "ftp://x", "http://", "http://a b", "http://a:99999", "http://a\r\nb", "http://["]
)
def test_bad_callback_urls(bad):
    with pytest.raises(errors.InvalidInputError, match="callback URL"):
        check_callback_url(bad)


def test_actions():
    assert [Action.of(name) for name in ("create", "reload", "append")] == list(Action)
    assert [action for action in Action if action.repeatable] == [Action.RELOAD]
    assert [action for action in Action if action.target == "folder"] == [Action.CREATE]
    for bad in ("", "Create", "delete", "create "):
        with pytest.raises(errors.InvalidInputError, match="Use one of: create, reload, append"):
            Action.of(bad)


def test_urls():
    server = ServerConfig("https://x:8/base", api_path="api/v3", job_path="{api_path}/status?job={job_id}")
    assert server.upload_url(Action.RELOAD, "h") == "https://x:8/base/api/v3/upload/reload/h"
    assert server.job_url("a&b=ö") == "https://x:8/base/api/v3/status?job=a%26b%3D%C3%B6"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"message": "no space\nleft"}, "no space left"),
        ({"error": {"detail": "no space"}}, "no space"),
        ({"errors": ["one", {"message": "two"}]}, "one two"),
        ({"data": {"reason": "inner"}, "message": "outer"}, "inner"),
        ({"odd": 1}, '{"odd": 1}'),
        (
            "<html><head><title>502</title><style>p{}</style></head><body><h1>Bad &amp; worse</h1></body>",
            "502 Bad & worse",
        ),
        ("plain", "plain"),
        ("x" * 500, "x" * 500),
        ("x" * 501, "x" * 499 + "…"),
        ("", ""),
        (b"\xff\x00", "2 bytes that are not text"),
    ],
)
def test_server_message(body, message):
    assert responses.server_message(response_of(body, 500)) == message


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")])
def test_deeply_nested_json_is_cut(opening, closing):
    """Whatever logs or stores it later must not reach Python's recursion limit."""
    value = responses.parse((opening * 200 + "1" + closing * 200).encode())
    assert 5 < json.dumps(value).count(opening) < 20


def test_numbers_that_json_does_not_have_are_none():
    value = responses.parse(b"[7, 0.5, -1e9, 1e999, -1e999, NaN, Infinity, -Infinity]")
    assert value == [7, 0.5, -1e9, None, None, None, None, None]


@pytest.mark.parametrize(
    ("secret", "text", "masked"),
    [
        ("12345", "your token is 12345", "your token is ***"),
        ('12"345', r'{"token": "12\"345"}', '{"token": "***"}'),
        ("12/345", r'{"token": "12\/345"}', '{"token": "***"}'),
        # It would mask a word.
        ("done", "the job is done", "the job is done"),
    ],
)
def test_a_secret_is_masked_wholly(secret, text, masked):
    assert responses.redact(text, secret) == masked


@pytest.mark.parametrize(
    ("progress", "contradicts"),
    [(0, True), (0.5, True), (99.5, True), (1, False), (100, False), (101, False), (-1, False)],
)
def test_a_progress_below_its_end_contradicts_a_success(progress, contradicts):
    """A progress may be a percentage or a fraction, so 1 may be the end of it."""
    status = states.status_of(SERVER, "7", {"job_id": "7", "status": "completed", "progress": progress})
    assert bool(status.unclear) is contradicts


def test_the_message_is_the_one_beside_the_configured_status():
    server = ServerConfig("https://x", status_field="data.status")
    value = {"message": "OK", "data": {"status": "failed", "message": "row 3 is broken"}}
    assert states.status_of(server, "7", value).message == "row 3 is broken"


@pytest.mark.parametrize(
    "body",
    [
        {"id": "7", "status": "failed", "reason": "row 3 is broken"},
        {"message": "row 3 is broken", "data": {"id": "7", "status": "failed"}},
        {"id": "7", "status": "failed", "error": {"detail": "row 3 is broken"}},
    ],
)
def test_the_message_of_a_job_that_failed(body):
    assert outcome(parsing.read_job, SERVER, "7", response_of(body)).message == "row 3 is broken"
