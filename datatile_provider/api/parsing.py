"""What the responses of the Data Collector API mean: pure, and total over any response."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import pendulum

from datatile_provider.api import errors, responses, states
from datatile_provider.api.models import Job, ServerConfig, Upload
from datatile_provider.api.rejections import Rejection, codebook_rejection, poll_rejection, upload_rejection
from datatile_provider.api.responses import MAX_CODEBOOK_BYTES, MAX_POLL_BYTES, Response
from datatile_provider.api.states import JobState
from datatile_provider.api.validation import is_job_id


def read_upload(server: ServerConfig, upload: Upload, response: Response, *, whole_body_sent: bool = True) -> Job:
    """
    Return the job that the response to an upload names.

    :param whole_body_sent: whether the last byte of the body was sent before the response came. Before that, the server
        can't have the file.
    :raises TransientError: not accepted; another attempt may succeed.
    :raises PermanentError: not accepted; another attempt changes nothing.
    :raises OutcomeUnknownError: the server may have the upload.
    """
    url = server.upload_url(upload.action, upload.target_hash)
    location = _absolute(url, response.location)
    accepted = 200 <= response.status < 300
    job_id = server.job_id_in(location) if accepted or response.status in (301, 302, 303) else ""
    if not accepted and not job_id:
        moved = _same_path_elsewhere(url, location)
        found = upload_rejection(
            response.status, whole_body_sent=whole_body_sent, moved=moved, codes=server.status_codes
        )
        if found is None:
            raise unknown_outcome(
                server, upload, "The whole file was sent. The response does not show whether it was accepted", response
            )
        raise _rejected(found, response, str(upload), server, upload.action.target)
    value = responses.parse(response.body)
    job_id = (_job_id(server, value, response) if accepted else "") or job_id
    doubt = _doubt_about_acceptance(server, job_id, value, whole_body_sent=whole_body_sent)
    if doubt:
        raise unknown_outcome(server, upload, doubt, response)
    status = states.status_of(server, job_id, value)
    state = status.state if status.word and not status.unclear else JobState.QUEUED
    return Job(job_id, state, status.word, status.message, value if isinstance(value, dict) else {}, status.names_job)


def _doubt_about_acceptance(server: ServerConfig, job_id: str, value: Any, *, whole_body_sent: bool) -> str:
    """Return why a response of success does not clearly mean that the file was accepted, or ``""``."""
    job = f"with the job {job_id} " if job_id else ""
    if not whole_body_sent:
        return f"The server returned success {job}before the whole file was sent"
    if responses.inner_error(value) or responses.has_error_status(value):
        return f"The server returned success {job}with an error inside"
    if failure := states.reports_failure(server, job_id, value):
        return f"The server returned success {job}with the status {failure!r}"
    if job_id:
        return ""
    return "The server returned success without a job id that can be read (option job_id_field says where it is)"


def unknown_outcome(
    server: ServerConfig, upload: Upload, why: str, response: Response | None = None
) -> errors.OutcomeUnknownError:
    """
    Return the error for an upload that may or may not have been accepted.

    :param why: what happened, as a sentence without its full stop.
    :param response: the response, if there was one.
    """
    at = response.at if response else pendulum.now("UTC")
    return errors.OutcomeUnknownError(
        f"{why}.\nThat was at {at:%Y-%m-%d %H:%M:%S} UTC",
        subject=str(upload),
        server_message=responses.server_message(response) if response else "",
        hint=errors.UNKNOWN_HINT,
        log_url=server.processing_log_url,
        status=response.status if response else None,
        retry_after=responses.retry_after_seconds(response) if response else None,
    )


def read_job(server: ServerConfig, job_id: str, response: Response) -> Job:
    """
    Return the job that was polled.

    :param response: the response, as far as it was read: one byte over the limit shows that it is longer.
    :raises TransientError: the response does not show the job's status, or not clearly; poll again.
    :raises PermanentError: the server will not report it (401, 403, 404 and others).
    """
    subject = f"job {job_id}"
    if not 200 <= response.status < 300:
        raise _rejected(poll_rejection(response.status, server.status_codes), response, subject, server, "job")
    if len(response.body) > MAX_POLL_BYTES:
        raise errors.UnexpectedResponseError(
            f"The response has more than {MAX_POLL_BYTES:,} bytes, too many for a job's status",
            subject=subject,
            hint="Check the connection's api_path and job_path.",
            status=response.status,
        )
    value = responses.parse(response.body)
    status = states.status_of(server, job_id, value if isinstance(value, dict) else None)
    if status.unclear:
        raise errors.UnexpectedResponseError(
            status.unclear,
            subject=subject,
            server_message=responses.server_message(response),
            hint=status.hint,
            status=response.status,
        )
    message = status.message or _job_message(value)
    details = _with_result(value, {"rows": server.rows_field, "database": server.database_field})
    return Job(job_id, status.state, status.word, message, details, status.names_job)


def _with_result(value: dict[str, Any], paths: Mapping[str, str | None]) -> dict[str, Any]:
    """Return a response with a copy of what is at these paths, under the usual names and where they are read first."""
    found = {name: responses.dig(value, path) for name, path in paths.items() if path}
    return responses.with_innermost(value, {name: detail for name, detail in found.items() if detail is not None})


def read_codebook(server: ServerConfig, subject: str, response: Response, size: int) -> None:
    """
    Check that a response is a codebook: an Excel file (documented).

    :param subject: the codebook, for messages.
    :param response: the response, with the first bytes of the body.
    :param size: the bytes of the body, as far as it was read: one over the limit shows that it is longer.
    :raises TransientError: no usable response now.
    :raises PermanentError: the server will not return it.
    """
    _check_codebook_status(server, subject, response)
    if size > MAX_CODEBOOK_BYTES:
        what = f"The response has more than {MAX_CODEBOOK_BYTES:,} bytes, too many for a codebook"
    # A workbook is a zip archive.
    elif not response.body.startswith(b"PK\3\4"):
        what = "The response is not an Excel file"
    else:
        return
    raise errors.UnexpectedResponseError(
        what,
        subject=subject,
        server_message=responses.server_message(response) if size <= MAX_CODEBOOK_BYTES else "",
        hint="Check the connection's api_path and codebook_export_path.",
        status=response.status,
    )


def read_codebook_import(server: ServerConfig, subject: str, response: Response) -> None:
    """
    Check that a response reports the import of a codebook: 2xx with JSON without an error, or no body (assumed).

    :param subject: the codebook, for messages.
    :raises TransientError: no usable response now; the codebook may be sent again.
    :raises PermanentError: it was rejected.
    """
    _check_codebook_status(server, subject, response)
    value = responses.parse(response.body)
    if responses.inner_error(value) or responses.has_error_status(value):
        what = "The server returned success with an error inside"
    elif failure := states.reports_failure(server, "", value):
        what = f"The server returned success with the status {failure!r}"
    elif response.body.strip() and not isinstance(value, dict):
        what = "The response does not show whether the codebook was imported"
    else:
        return
    raise errors.UnexpectedResponseError(
        what,
        subject=subject,
        server_message=responses.server_message(response),
        hint="Check the codebook, and the connection's api_path and codebook_import_path.",
        status=response.status,
    )


def _check_codebook_status(server: ServerConfig, subject: str, response: Response) -> None:
    if not 200 <= response.status < 300:
        rejection = codebook_rejection(response.status, server.status_codes)
        raise _rejected(rejection, response, subject, server, "database")


def read_probe(server: ServerConfig, path: str, response: Response) -> None:
    """
    Check the response to a request for something that can't exist: a working API says so, in JSON (assumed).

    :param path: the address that was requested, for the message.
    :raises PermanentError: the token, the roles or the address are wrong.
    :raises TransientError: no usable response now.
    """
    if _is_api_error(server, response):
        return
    subject = f"test of {path}"
    rejection = None if 200 <= response.status < 300 else poll_rejection(response.status, server.status_codes)
    # DATATILE would not reject the test itself, and its 404 would be JSON.
    if rejection and rejection.kind not in (errors.PermanentError, errors.NotFoundError):
        raise _rejected(rejection, response, subject, server, "path")
    raise errors.NotDatatileError(
        "The response is not one of DATATILE's API",
        subject=subject,
        server_message=responses.server_message(response),
        hint="Check the connection's host, api_path and job_path.",
        status=response.status,
    )


def check_token_is_verified(server: ServerConfig, path: str, yours: Response, made_up: Response) -> None:
    """
    Compare the responses to two tokens. DATATILE rejects a token that it did not issue, with another status (assumed).

    :param path: the address that was requested, for the message.
    :param yours: the response to the connection's token.
    :param made_up: the response to a random token.
    :raises PermanentError: they are alike, so the server does not check tokens.
    :raises TransientError: the server is too busy to check it.
    """
    subject = f"test of {path}"
    rejection = poll_rejection(made_up.status, server.status_codes)
    if rejection.kind is errors.RateLimitedError or made_up.status == 503:
        raise _rejected(rejection, made_up, subject, server, "path")
    if made_up.status == yours.status and _is_api_error(server, made_up):
        raise errors.NotDatatileError(
            "The server responds to a made-up token as it does to yours, so it does not check tokens",
            subject=subject,
            server_message=responses.server_message(made_up),
            hint="Check the connection's host, api_path and job_path.",
            status=made_up.status,
        )


def _is_api_error(server: ServerConfig, response: Response) -> bool:
    meaning = server.status_codes.get(response.status)
    expected = meaning not in ("token", "role") if meaning else response.status in (400, 404, 409, 422, 429)
    return expected and isinstance(responses.parse(response.body), dict)


def _job_message(value: Any) -> str:
    texts = (responses.word(layer.get(n)) for layer in reversed(responses.layers(value)) for n in ("message", "reason"))
    return next(filter(None, texts), "") or responses.inner_error(value)


def _job_id(server: ServerConfig, value: Any, response: Response) -> str:
    if server.job_id_field:
        found = responses.word(responses.dig(value, server.job_id_field))
        return found if is_job_id(found) else ""
    inside_out = responses.layers(value)[::-1]
    # Beside a field that is certainly the job's id, "id" may be the folder's or the request's.
    for names in (states.SURE_JOB_IDS, states.JOB_IDS):
        for layer in inside_out:
            for name in names:
                if is_job_id(found := responses.word(layer.get(name))):
                    return found
    if isinstance(value, (dict, list)):
        return ""
    bare = responses.word(value) or responses.plain_text(response)
    # A number, a hash and a UUID are ids; "OK", "queued", "0" and "E17" are not.
    return bare if is_job_id(bare) and re.fullmatch(r"[1-9][\w-]*|0[\w-]+|[0-9a-fA-F-]{8,}", bare, re.ASCII) else ""


def _rejected(
    found: Rejection, response: Response, subject: str, server: ServerConfig, requested: str
) -> errors.DatatileError:
    """Return the error for a response that means "not accepted"."""
    filled = {"requested": requested, "location": response.location[:200]}
    return found.kind(
        found.what.format(**filled),
        subject=subject,
        server_message=responses.server_message(response),
        hint=found.hint.format(**filled),
        log_url=server.processing_log_url if found.kind is errors.DestinationBusyError else "",
        status=response.status,
        retry_after=responses.retry_after_seconds(response),
    )


def _absolute(url: str, location: str) -> str:
    try:
        return urljoin(url, location) if location else ""
    except ValueError:
        return ""


def _same_path_elsewhere(url: str, location: str) -> bool:
    try:
        here, there = urlsplit(url), urlsplit(location)
    except ValueError:
        return False
    return here[:2] != there[:2] and here[2:4] == there[2:4]
