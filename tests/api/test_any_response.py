"""Property tests: every response is read as a job or raises one of the provider's errors."""

from __future__ import annotations

import html
import json
import time
from datetime import timezone
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from datatile_provider.api import errors, parsing, responses
from datatile_provider.api.models import Job, ServerConfig
from datatile_provider.api.responses import Response
from datatile_provider.api.states import JobState
from datatile_provider.api.validation import check_job_id
from tests.support.reading import SERVER, SUCCESS_WORDS, UPLOAD, one_line, outcome, response_of

SUCCEEDED = JobState.SUCCEEDED
text = st.text(max_size=30) | st.sampled_from([*SUCCESS_WORDS, "running", "failed", "ok", "true", "7", "<p>done</p>"])
names = (
    st.sampled_from(
        ["id", "job_id", "job", "status", "state", "data", "result", "error", "errors", "message", "success"]
    )
    | text
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5), max_leaves=15
)
bodies = (
    st.binary(max_size=200)
    | trees.map(lambda value: json.dumps(value).encode())
    | trees.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    | text.map(lambda value: value.encode("utf-8", "surrogatepass"))
    | text.map(lambda value: f"<html><body><h1>{value}</h1></body></html>".encode("utf-8", "surrogatepass"))
)
any_response = st.builds(
    Response,
    status=st.integers(100, 599),
    body=bodies,
    retry_after=st.text(max_size=40),
    location=st.text(max_size=300),
)
fields = st.none() | st.sampled_from(["status", "data.status", "result.id", "id", "a.b.c"])
servers = st.builds(
    ServerConfig,
    st.just("https://datatile.example.com/base"),
    job_id_field=fields,
    status_field=fields,
    status_map=st.dictionaries(text, st.sampled_from(list(JobState)[:5]), max_size=3),
)


@given(servers, any_response, st.booleans())
def test_upload(server, response, whole_body_sent):
    found = outcome(parsing.read_upload, server, UPLOAD, response, whole_body_sent=whole_body_sent)
    if isinstance(found, Job):
        assert whole_body_sent
        assert 200 <= response.status < 300
        assert check_job_id(found.id) == found.id
    if 200 <= response.status < 300:
        # A 2xx response is never read as "not accepted".
        assert isinstance(found, (Job, errors.OutcomeUnknownError))
    else:
        assert not isinstance(found, Job)
        assert whole_body_sent or not isinstance(found, errors.OutcomeUnknownError)


@given(servers, any_response)
def test_job(server, response):
    found = outcome(parsing.read_job, server, "7", response)
    assert isinstance(found, (Job, errors.TransientError, errors.PermanentError))
    if isinstance(found, Job):
        assert found.id == "7"
        assert found.status
        assert 200 <= response.status < 300


@given(any_response)
def test_probe(response):
    found = outcome(parsing.read_probe, SERVER, "/jobs/x", response)
    assert found is None or isinstance(found, (errors.TransientError, errors.PermanentError))
    if found is None:
        assert response.status in (400, 404, 409, 422, 429)
        assert isinstance(json.loads(response.body), dict)


@given(any_response, any_response)
@example(Response(404, b"{}"), Response(404, b"{}"))
@example(Response(404, b"{}"), Response(401, b"{}"))
@example(Response(429, b"{}"), Response(429, b"{}"))
def test_only_the_same_response_shows_that_tokens_are_not_checked(yours, made_up):
    found = outcome(parsing.check_token_is_verified, SERVER, "/jobs/x", yours, made_up)
    busy = (errors.RateLimitedError, errors.ServerBusyError)
    assert isinstance(found, busy) == (made_up.status in (429, 503))
    if made_up.status not in (429, 503):
        same = yours.status == made_up.status and outcome(parsing.read_probe, SERVER, "/jobs/x", made_up) is None
        assert (type(found) is errors.NotDatatileError) == same
        assert same or found is None


@given(trees, st.sampled_from([None, "status", "data.status"]))
def test_success_is_a_known_word_in_the_status_field(value, status_field):
    server = ServerConfig("https://x", status_field=status_field)
    found = outcome(parsing.read_job, server, "7", response_of(value))
    if not isinstance(found, Job) or found.state is not JobState.SUCCEEDED:
        return
    assert isinstance(value, dict)
    assert "".join(c for c in found.status.casefold() if c.isalnum()) in SUCCESS_WORDS
    layers = responses.layers(value)
    if status_field:
        assert responses.word(responses.dig(value, status_field)) == found.status
        return
    assert json.dumps(found.status) in json.dumps(value)
    assert not any(layer.get("error") or layer.get("errors") for layer in layers)
    assert not any(layer.get("success") is False for layer in layers)


@given(trees.filter(lambda value: not isinstance(value, dict)) | st.sampled_from(SUCCESS_WORDS))
def test_no_success_outside_a_json_object(value):
    for body in (json.dumps(value), f"<html><body>{value}</body></html>", str(value)):
        assume(not body.lstrip().startswith("{"))
        assert isinstance(
            outcome(parsing.read_job, SERVER, "7", response_of(body.encode("utf-8", "replace"))),
            errors.UnexpectedResponseError,
        )


@given(
    st.sampled_from(SUCCESS_WORDS),
    trees.filter(lambda v: not isinstance(v, dict) or not {"status", "state", "data", "result", "job"} & set(v)),
)
def test_success_of_an_envelope_is_not_the_jobs(word, data):
    found = outcome(parsing.read_job, SERVER, "7", response_of({"status": word, "data": data}))
    # Only a word that no API uses for the status of a request can be the job's status.
    assert (
        isinstance(found, errors.UnexpectedResponseError)
        or word not in ("success", "successful")
        or found.state is not SUCCEEDED
    )


@given(st.text("abcXYZ019+/=<&\"'\\%~", min_size=5, max_size=30), st.integers(100, 599), st.booleans())
@example("ab/cd", 500, True)
@example('q"uo\\te', 500, True)
def test_token_is_redacted(token, status, ascii_only):
    assume(token not in "*** The server said: append of 'wave.sav' (10 bytes) to abc123")
    echoed = f"you sent {token} as the token"
    bodies = [
        echoed.encode(),
        json.dumps({"message": echoed}, ensure_ascii=ascii_only).encode(),
        json.dumps({"message": echoed}).replace("/", r"\/").encode(),
        json.dumps({"error": {token: [echoed]}, "id": "1"}).encode(),
        f"<html><body>{html.escape(echoed)}</body></html>".encode(),
        f"https://x/?token={quote(token, safe='')}".encode(),
    ]
    for body in bodies:
        response = Response.of(status, body, {"Location": f"https://x/{token}"}, token)
        for found in (
            outcome(parsing.read_upload, SERVER, UPLOAD, response),
            outcome(parsing.read_job, SERVER, "7", response),
            outcome(parsing.read_probe, SERVER, "/", response),
        ):
            assert token not in one_line(found)
            assert token not in repr(found)
            if isinstance(found, Job):
                assert token not in json.dumps(found.as_dict(), ensure_ascii=False)


@given(st.text(max_size=30) | st.sampled_from(["%2e%2e", "a%2Fb", "..%2f", "7;x", "a:b@c", "…"]))
def test_job_id_stays_in_its_path_segment(job_id):
    if isinstance(outcome(check_job_id, job_id), errors.InvalidInputError):
        return
    parts = urlsplit(SERVER.job_url(job_id))
    assert parts.path.startswith("/api/v2/jobs/")
    last = parts.path.removeprefix("/api/v2/jobs/")
    assert unquote(last) == job_id
    assert "/" not in last
    assert last not in (".", "..")
    assert (parts.query, parts.fragment, parts.netloc) == ("", "", "datatile.example.com")


@given(st.text(max_size=60), st.datetimes(timezones=st.just(timezone.utc)))
def test_retry_after(value, at):
    wait = responses.retry_after_seconds(Response(503, retry_after=value, at=at))
    assert wait is None or 0 <= wait < float("inf")


@pytest.mark.parametrize(
    "piece", ["<!--", "<a ", "<p ' ", "<script>", "</", "<![", "<style", "&#9", '{"a":', "[", "\x00"]
)
def test_largest_response_is_read_quickly(piece):
    body = ("<html>" + piece * responses.MAX_RESPONSE_BYTES)[: responses.MAX_RESPONSE_BYTES].encode()
    started = time.process_time()
    for whole_body_sent in (body, body[6:]):
        outcome(parsing.read_upload, SERVER, UPLOAD, Response(500, whole_body_sent))
        outcome(parsing.read_job, SERVER, "7", Response(200, whole_body_sent))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("digits", [4_000, 5_000, 100_000])
def test_very_long_numbers(digits):
    for body in ("9" * digits, f"<html>&#{'9' * digits};</html>", f'{{"id": {"9" * digits}}}'):
        assert isinstance(outcome(parsing.read_upload, SERVER, UPLOAD, response_of(body)), errors.OutcomeUnknownError)


@pytest.mark.parametrize("name", ["message", "status", "error", "reason"])
def test_very_long_texts_are_cut(name):
    for read in (lambda r: parsing.read_job(SERVER, "7", r), lambda r: parsing.read_upload(SERVER, UPLOAD, r)):
        outcome(read, response_of({"id": 1, "status": "failed", name: "long\n" * 10_000}))
