"""Reads a document: what is learned from it, tried on examples of its own responses."""

from __future__ import annotations

from typing import Any

from datatile_provider.cli.openapi.codes import find_codes
from datatile_provider.cli.openapi.credentials import find_other_input, find_token
from datatile_provider.cli.openapi.document import Document
from datatile_provider.cli.openapi.findings import Certainty, Finding, Learned, extra_of
from datatile_provider.cli.openapi.job_ids import find_job_id
from datatile_provider.cli.openapi.jobs import choose_poll, find_job_path, polls_of
from datatile_provider.cli.openapi.polls import find_status
from datatile_provider.cli.openapi.results import find_results
from datatile_provider.cli.openapi.uploads import (
    find_actions,
    find_api_path,
    find_callback,
    find_host,
    find_part,
    uploads_of,
)


def read(value: Any, location: str = "") -> Learned:
    """
    Return what a document says about the server.

    :param value: the document's JSON value.
    :param location: the URL that it was read from, or ``""``.
    :raises DocumentError: it is not the document of DATATILE's Data Collector API.
    """
    document = Document(value, location)
    uploads = uploads_of(document)
    operations = [upload.operation for upload in uploads]
    api_path, callback = find_api_path(uploads), find_callback(uploads)
    polls, why = choose_poll(uploads, polls_of(uploads))
    poll = polls[0] if len(polls) == 1 else None
    job_path = find_job_path(polls, why, str(extra_of([api_path]).get("api_path", api_path.found)))
    findings = [find_host(uploads), api_path, find_actions(uploads), find_part(uploads)]
    findings += [find_token([*operations, *([poll.operation] if poll else [])]), callback]
    findings += find_other_input(operations, {"dataset", callback.found})
    job_id = find_job_id(uploads, poll, extra_of([*findings, job_path]))
    findings += [job_id, job_path]
    if poll:
        name = job_id.found.rpartition(".")[2] if job_id.certainty is Certainty.SURE else ""
        findings += find_status(poll, name, extra_of(findings))
        findings += find_results(poll)
    else:
        why = "the path of a job's status is not known"
        findings.append(Finding("field of the status", Certainty.NOT_FOUND, option="status_field", why=why))
        findings.append(Finding("words of the status", Certainty.NOT_FOUND, option="status_map", why=why))
    findings += find_codes(operations, poll.operation if poll else None)
    notes = [f"The document refers to {name!r}, which was not read." for name in list(document.external)[:5]]
    return Learned(tuple(findings), tuple(notes))
