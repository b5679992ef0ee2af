"""Stored formats: other versions of the package read and write them as the files in ``formats`` show."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datatile_provider.api import errors
from datatile_provider.api.models import Job
from datatile_provider.api.states import JobState
from datatile_provider.ledger.entry import Entry
from datatile_provider.ledger.entry import Phase as EntryPhase
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.question import Answer, Choice, Question
from datatile_provider.operators.upload_state import Phase, Record
from datatile_provider.sensors.datatile import DatatileJobSensor, _Seen
from datatile_provider.summary import Summary
from datatile_provider.survey.findings import Finding, Result
from datatile_provider.survey.rules import Severity
from datatile_provider.triggers import datatile as triggers
from datatile_provider.triggers.datatile import DatatileJobTrigger, DatatileRetryTrigger
from tests.support.task import Store

FORMATS = Path(__file__).parent / "formats"


def stored(name: str) -> Any:
    return json.loads((FORMATS / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "kind"), [("job_trigger", DatatileJobTrigger), ("retry_trigger", DatatileRetryTrigger)]
)
def test_triggers(name, kind):
    path, arguments = kind(**stored(name)).serialize()
    assert path == f"datatile_provider.triggers.datatile.{kind.__name__}"
    assert arguments == stored(name)


def test_a_trigger_ignores_arguments_of_a_newer_version():
    for kind, name in ((DatatileJobTrigger, "job_trigger"), (DatatileRetryTrigger, "retry_trigger")):
        assert kind(**stored(name), version_9_option=1).serialize()[1] == stored(name)


def test_the_event_of_a_success():
    event = stored("event_succeeded")
    job = triggers.job_of(event, "5f0c1d")
    assert job == Job("5f0c1d", JobState.SUCCEEDED, "done", "", event["job"]["details"])
    assert {"version": triggers.FORMAT, "job": job.as_dict()} == event


def test_the_event_of_a_failure():
    event = stored("event_failed")
    with pytest.raises(errors.JobFailedError) as caught:
        triggers.job_of(event, "5f0c1d")
    assert triggers.ended(caught.value) == event
    assert str(caught.value) == (
        "JOB FAILED\njob 5f0c1d\nThe server reports the status 'failed'.\n"
        'The server said: "Unknown variable Q7"\n'
        "Processing log: https://datatile.example.com/processing-log/5f0c1d\n"
        "Help: docs/troubleshooting.md#job-failed"
    )


async def test_the_event_of_a_backoff():
    trigger = DatatileRetryTrigger(until=0)
    assert [event.payload async for event in trigger.run()] == [stored("event_retry")]


@pytest.mark.parametrize("code", errors.BY_CODE)
def test_each_error_survives_an_event(code):
    error = errors.BY_CODE[code]("It broke", subject="job 7", server_message="no", hint="Look.", status=500)
    event = json.loads(json.dumps(triggers.ended(error)))
    assert event["error"] == code
    with pytest.raises(errors.DatatileError) as caught:
        triggers.job_of(event)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


def test_the_state_of_an_upload():
    record = Record.of(stored("upload_state"))
    assert record.as_dict() == stored("upload_state")
    assert (record.phase, record.job_id, record.sent.size) == (Phase.ACCEPTED, "5f0c1d", 586)
    assert [phase.value for phase in Phase] == ["sending", "accepted", "done", "reported"]


def test_a_question():
    question = Question.of(stored("question"))
    assert question.as_dict() == stored("question")
    assert type(question.failure) is errors.OutcomeUnknownError


def test_a_question_of_an_earlier_version():
    early = {name: value for name, value in stored("question").items() if name not in ("repeat", "job_id", "entry")}
    assert Question.of(early) == replace(Question.of(stored("question")), entry="")


def test_an_entry_of_the_ledger():
    entry = Entry.read(json.dumps(stored("ledger_entry")).encode())
    assert json.loads(entry.as_bytes()) == stored("ledger_entry")
    assert (entry.phase, entry.owner.dag_id, entry.size) == (EntryPhase.ACCEPTED, "tracker", 586)
    assert [phase.value for phase in EntryPhase] == ["claimed", "unknown", "accepted", "released", "expired"]


def test_an_answer():
    answer = Answer.stored(stored("answer"))
    assert answer == Answer(Choice.THERE, "Ada", "2026-01-05T06:20:00+00:00", "5f0c1d")
    assert answer.as_dict() == stored("answer")
    assert [choice.name.lower() for choice in Choice] == ["there", "not_there", "again", "fail"]


@pytest.mark.parametrize("job_id", ["5f0c1d", ""])
def test_the_state_of_a_confirmed_upload(job_id):
    state = {**stored("upload_state"), "phase": "done", "job_id": job_id, "answer": stored("answer")}
    assert Record.of(state).as_dict() == state
    if not job_id:
        with pytest.raises(ValueError, match="job id"):
            Record.of({**state, "phase": "accepted"})
        with pytest.raises(ValueError, match="job id"):
            Record.of({**stored("upload_state"), "job_id": ""})


def test_the_summary_of_a_task():
    summary = Summary.of(stored("summary"))
    assert summary
    assert summary.as_dict() == stored("summary")
    assert (summary.kind, summary.rows, summary.send_seconds) == ("upload", 944, 2.5)
    # A later version of the package may add fields.
    assert Summary.of({**stored("summary"), "more": 1}) == summary


def test_the_state_of_a_rescheduled_wait():
    sensor = DatatileJobSensor(task_id="wait", job_id="5f0c1d")
    store = Store()
    store.set("datatile_wait", stored("wait_state"))
    context: Any = {"task_state_store": store}
    seen = sensor._recall(context, 0.0)
    assert seen == _Seen("queued", 1796000060.0, "https://datatile.example.com/api/v2")
    store.rows.clear()
    sensor._remember(context, seen)
    assert {key: store.get(key) for key in store.rows} == {"datatile_wait": stored("wait_state")}


def test_the_arguments_of_resumed_methods():
    operator = DatatileUploadOperator(task_id="upload", action="append", target_hash="a1", dataset="/x.csv")
    code = inspect.unwrap(type(operator).execute_complete).__code__
    assert code.co_varnames[: code.co_argcount] == ("self", "context", "text", "job_id", "answer", "event")
    code = inspect.unwrap(type(operator).retry_upload).__code__
    names = ("self", "context", "deadline", "failures", "version", "answer", "event")
    assert code.co_varnames[: code.co_argcount] == names
    code = inspect.unwrap(type(operator).resume_answered).__code__
    assert code.co_varnames[: code.co_argcount] == ("self", "context", "question", "event")


def test_the_result_of_a_wave_check():
    scale = Finding("scale-reversed", "vote", "0 = Clinton, 1 = Dole", "0 = Dole, 1 = Clinton", (0.0, 1.0))
    rows = Finding("row-count", before="200 interviews", after="80 interviews")
    note = "wave1.zsav has no respondent, so its interviews were not compared."
    findings = ((Severity.ERROR, scale), (Severity.WARNING, rows))
    assert Result("wave3.zsav", ("wave1.zsav",), 80, findings, (note,)).as_dict() == stored("wave_check")
