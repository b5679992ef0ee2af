"""
Documents as different teams and frameworks write them: the learned extra drives a server that speaks so.

The documents and the truth about their servers were written without the code that reads them.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from datatile_provider.api import errors
from datatile_provider.api.models import Action, Upload
from datatile_provider.api.parsing import read_upload
from datatile_provider.api.responses import Response
from datatile_provider.api.states import JobState
from datatile_provider.cli.commands import main
from datatile_provider.cli.openapi.findings import Certainty
from datatile_provider.cli.openapi.load import load
from datatile_provider.cli.openapi.read import read
from tests.cli.documented import NUMBERS, Truth, serving
from tests.support.fixtures import connect, plain_environment, survey
from tests.support.reading import KIND_OF_MEANING, outcome

__all__ = ["connect", "plain_environment", "survey"]

#: What two documents do not say, or say twice: their extra is not complete.
INCOMPLETE = {
    "09": {"job's id", "words of the status"},
    "10": {"path of a job's status", "job's id", "field of the status", "words of the status"},
}
COMPLETE = [number for number in NUMBERS if number not in INCOMPLETE]
KINDS = {**KIND_OF_MEANING, "invalid": errors.PermanentError}


def learned(truth: Truth, capsys: Any) -> dict[str, Any]:
    """Return the extra that the command prints."""
    capsys.readouterr()
    assert main(["openapi", str(truth.document)]) == 0
    extra: dict[str, Any] = json.loads(capsys.readouterr().out)
    return extra


def test_eight_of_ten_are_complete():
    assert (len(NUMBERS), len(COMPLETE)) == (10, 8)


@pytest.mark.parametrize("number", COMPLETE)
def test_the_extra_drives_the_server(number, connect, survey, capsys):
    truth = Truth.of(number)
    extra = learned(truth, capsys)
    ends = [(state, word) for state in ("SUCCEEDED", "FAILED", "CANCELLED") for word in truth.words[state]]
    with serving(truth, [word for _, word in ends]) as url:
        hook = connect(url, extra=extra)
        callback = "http://127.0.0.1:9/" if truth.values["callback_field"] else None
        for turn, (state, word) in enumerate([*ends, *ends]):
            action = ("create", "reload", "append")[turn % 3]
            job = hook.upload(action, "f00d", survey, callback_url=callback)
            assert job.id == str(4711 + turn)
            assert job.state in (JobState.QUEUED, JobState.RUNNING)
            found = outcome(hook.wait_for_job, job.id, poll_interval=0.01, timeout=20)
            kinds = {"FAILED": errors.JobFailedError, "CANCELLED": errors.JobCancelledError}
            if state == "SUCCEEDED":
                assert (found.state, found.status) == (JobState.SUCCEEDED, word)
            else:
                assert type(found) is kinds[state]


@pytest.mark.parametrize("number", COMPLETE)
def test_the_codes_that_the_document_names_are_read_as_it_says(number, connect, capsys):
    truth = Truth.of(number)
    server = connect("http://127.0.0.1:9", extra=learned(truth, capsys)).get_conn().server
    upload = Upload(Action.APPEND, "f00d", "wave.sav", 1)
    assert truth.values["codes"]
    for code, meaning in truth.values["codes"].items():
        assert type(outcome(read_upload, server, upload, Response(int(code), b"{}"))) is KINDS[meaning], code


@pytest.mark.parametrize("number", INCOMPLETE)
def test_what_a_document_does_not_say_is_named(number, capsys):
    assert main(["openapi", str(Truth.of(number).document)]) == 1
    out, err = capsys.readouterr()
    needed = err.rstrip().rpartition("Needed, and not known: ")[2].rstrip(".")
    assert set(needed.split(", ")) == INCOMPLETE[number]
    assert json.loads(out).keys().isdisjoint({"job_id_field", "status_map"})
    # Two that are equal are both shown, and neither is chosen.
    if number == "10":
        assert all(
            name in err for name in ("result.processId", "result.taskId", "/v2/processes/{id}", "/v2/tasks/{id}")
        )


@pytest.mark.parametrize("number", NUMBERS)
def test_nothing_wrong_is_called_sure(number):
    truth = Truth.of(number)
    values = truth.values
    states = {word: state for state, words in truth.words.items() for word in words}
    truths = {
        "api_path": values["base_path"],
        "job_id_field": values["job_id_field"],
        "status_field": values["status_field"],
        "callback_field": values["callback_field"],
        "job_path": values["job_path"].replace(values["base_path"], "{api_path}", 1),
    }
    sure = [found for found in read(load(truth.document.read_bytes())).findings if found.certainty is Certainty.SURE]
    assert len(sure) >= 5
    for found in sure:
        if word := re.fullmatch("status '(.*)'", found.topic):
            assert found.found == states[word[1]]
        if found.option == "status_codes" and found.value:
            assert found.value.items() <= values["codes"].items()
        if found.option in truths and found.value is not None:
            assert found.value == truths[found.option]
