"""Reads a document: what is learned from it, tried on examples of its own responses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datatile_provider.cli.openapi.answers import server_with
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
    choice = choose_poll(uploads, polls_of(uploads))
    poll = choice.poll
    found = _Found()
    found.add(find_host(uploads), api_path := find_api_path(uploads), find_actions(uploads), find_part(uploads))
    found.add(find_token([*operations, *([poll.operation] if poll else [])]), callback := find_callback(uploads))
    found.add(*find_other_input(operations, {"dataset", callback.found}))
    found.add(find_job_path(choice, api_path.found))
    found.add(job_id := find_job_id(uploads, poll, found.extra))
    if poll:
        name = job_id.found.rpartition(".")[2] if job_id.certainty is Certainty.SURE else ""
        found.add(*find_status(poll, name, found.extra), *find_results(poll))
    else:
        why = "the path of a job's status is not known"
        found.add(Finding("field of the status", Certainty.NOT_FOUND, option="status_field", why=why))
        found.add(Finding("words of the status", Certainty.NOT_FOUND, option="status_map", why=why))
    # With all options set, the response to an upload must still be read as it was without them.
    if find_job_id(uploads, poll, found.extra).certainty is not job_id.certainty:
        found.reject(job_id, "the provider does not read it together with the other options")
    found.add(*find_codes(operations, poll.operation if poll else None))
    notes = [f"The document refers to {name!r}, which was not read." for name in list(document.external)[:5]]
    return Learned(tuple(found.kept), tuple(notes))


class _Found:
    """The findings so far. A value that the connection would not accept is none."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []

    @property
    def extra(self) -> dict[str, Any]:
        """The options that they set."""
        return extra_of(self.kept)

    def add(self, *findings: Finding) -> None:
        """Add findings."""
        for finding in findings:
            self.kept.append(finding)
            if finding.value is not None and server_with(self.extra) is None:
                self.reject(finding, "the connection does not accept it as the option's value")

    def reject(self, finding: Finding, why: str) -> None:
        """Take back a finding that was added."""
        found = finding.found if finding.value is None else str(finding.value)
        rejected = replace(finding, certainty=Certainty.DIFFERS, found=found, value=None, why=why)
        self.kept[self.kept.index(finding)] = rejected
