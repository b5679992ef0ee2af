"""The triggers, and the events that tasks are resumed with: only a well-formed success counts."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.triggers.base import TriggerEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from datatile_provider.triggers.datatile import DatatileJobTrigger
from datatile_provider.version_compat import resume_pause
from tests.provider.modes import OPERATOR_WAITS, SENSOR_MODES
from tests.support.rawserver import TOKEN
from tests.support.task import first_event

RUNNING = (200, {"status": "running"})
JOB = {"id": "job-f00d", "state": "SUCCEEDED", "status": "done", "message": "", "details": {}}
MALFORMED: list[Any] = [
    None,
    {},
    [],
    "x",
    7,
    True,
    {"job": None},
    {"job": {}},
    {"job": "SUCCEEDED"},
    {"job": [JOB]},
    [{"job": JOB}],
    JOB,
    {"status": "success"},
    {"job": {**JOB, "id": ""}},
    {"job": {**JOB, "id": None}},
    {"job": {**JOB, "id": "another-job"}},
    {"job": {**JOB, "state": "RUNNING"}},
    {"job": {**JOB, "state": "FAILED"}},
    {"job": {**JOB, "state": "UNKNOWN"}},
    {"job": {**JOB, "state": "succeeded"}},
    {"job": {**JOB, "state": None}},
    {"job": {**JOB, "state": ["SUCCEEDED"]}},
    {"job": JOB, "error": None},
    {"error": "JobFailedError"},
    {"error": {"deep": []}, "what": [], "server_message": {}, "hint": 5},
]


@pytest.fixture
def resume_with(run, script, survey, monkeypatch):
    """Run a task that is deferred, and resumed with this event."""

    def resume_with(operator, event):
        async def run_trigger(self):
            yield TriggerEvent(event)

        monkeypatch.setattr(DatatileJobTrigger, "run", run_trigger)
        script(RUNNING)
        if operator is DatatileJobSensor:
            return run(operator, job_id="job-f00d", **SENSOR_MODES["deferrable"])
        upload = {"action": "append", "target_hash": "f00d", "dataset": str(survey)}
        return run(operator, **upload, **OPERATOR_WAITS["wait_deferred"])

    return resume_with


@pytest.mark.parametrize("event", [None, {}, {"job": {**JOB, "id": "another-job"}}], ids=repr)
@pytest.mark.parametrize(
    ("operator", "kind", "attempts"),
    # The sensor may poll again; an accepted upload must not be sent again.
    [(DatatileJobSensor, AirflowException, 3), (DatatileUploadOperator, AirflowFailException, 1)],
)
def test_a_task_resumed_by_a_malformed_event_fails(resume_with, operator, kind, attempts, event):
    outcome = resume_with(operator, event)
    assert (outcome.state, outcome.attempts, outcome.result) == ("failed", attempts, None)
    assert {type(error) for error in outcome.errors} == {kind}
    assert "processing log" in str(outcome.errors[0])


@pytest.mark.parametrize("operator", [DatatileJobSensor, DatatileUploadOperator])
def test_a_task_resumed_by_a_success_succeeds(resume_with, operator):
    outcome = resume_with(operator, {"job": JOB})
    assert (outcome.state, outcome.attempts) == ("success", 1)
    assert outcome.result == (JOB if operator is DatatileJobSensor else "job-f00d")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
near_misses = st.builds(
    lambda change, missing: {"job": {k: v for k, v in {**JOB, **change}.items() if k not in missing}},
    st.dictionaries(st.sampled_from([*JOB]), json_values, max_size=2),
    st.sets(st.sampled_from([*JOB]), max_size=1),
)


@pytest.mark.parametrize("operator", [DatatileJobSensor, DatatileUploadOperator])
def test_any_event_is_a_success_or_raises_an_airflow_exception(run, survey, operator):
    class Resumed(operator):  # type: ignore[valid-type,misc]  # a class from a parameter
        """Is resumed, in a real task's context, with many events."""

        def execute(self, context):
            @settings(max_examples=50, deadline=None, database=None)
            @given(event=json_values | near_misses)
            def check(event):
                try:
                    result = self.execute_complete(context, event=event)
                except AirflowException:
                    return
                assert "error" not in event
                assert event["job"]["state"] == "SUCCEEDED"
                job_id = result["id"] if operator is DatatileJobSensor else result
                assert job_id == event["job"]["id"] == "job-f00d"

            context["ti"].xcom_push(key="job_id", value="job-f00d")
            assert self.execute_complete(context, event={"job": JOB}) == (
                JOB if operator is DatatileJobSensor else "job-f00d"
            )
            for malformed in MALFORMED:
                with pytest.raises(AirflowException):
                    self.execute_complete(context, event=malformed)
            check()

    arguments = {
        DatatileJobSensor: {"job_id": "job-f00d"},
        DatatileUploadOperator: {"action": "append", "target_hash": "f00d", "dataset": str(survey)},
    }
    outcome = run(Resumed, retries=0, **arguments[operator])
    assert (outcome.state, outcome.errors) == ("success", [])


@pytest.fixture
def triggers(monkeypatch):
    """The serialized form of each trigger that ran."""
    seen = []
    run_trigger = DatatileJobTrigger.run

    async def run_and_record(self):
        seen.append(self.serialize())
        async for event in run_trigger(self):
            yield event

    monkeypatch.setattr(DatatileJobTrigger, "run", run_and_record)
    return seen


def event_after_restart(stored):
    """Return the event of a trigger that another triggerer has resumed."""
    path, arguments = json.loads(json.dumps(stored))
    assert DatatileJobTrigger(**arguments).serialize() == (path, arguments)
    return first_event(path, arguments)


@pytest.mark.parametrize("kind", ["sensor", "operator"])
def test_a_trigger_survives_a_restart_holds_no_token_and_keeps_its_deadline(run, script, survey, triggers, kind):
    server = script(RUNNING)
    times = {"timeout": 0.3, "deferrable": True}
    if kind == "sensor":
        run(DatatileJobSensor, job_id="job-f00d", poke_interval=0.05, **times)
    else:
        upload = {"action": "append", "target_hash": "f00d", "dataset": str(survey), "poll_interval": 0.05}
        run(DatatileUploadOperator, wait_for_completion=True, **upload, **times)
    (stored,) = triggers
    assert TOKEN not in repr(stored)

    connections = server.connections
    event = event_after_restart(stored)

    assert event["error"] == "job-timed-out"
    assert event["subject"] == "job job-f00d"
    assert server.connections == connections + 1


def test_a_restarted_trigger_reports_a_success(run, script, triggers):
    server = script(RUNNING, RUNNING, (200, {"status": "succeeded"}))
    outcome = run(DatatileJobSensor, job_id="job-f00d", poke_interval=0.05, deferrable=True)
    assert outcome.state == "success"
    assert server.connections == 3
    assert event_after_restart(triggers[0])["job"] == outcome.result


def test_a_connection_that_is_gone_when_the_trigger_starts(run, script, monkeypatch, triggers):
    script(RUNNING)
    run(DatatileJobSensor, job_id="job-f00d", poke_interval=0.05, timeout=1, deferrable=True)
    monkeypatch.delenv("AIRFLOW_CONN_DATATILE_DEFAULT")
    event = event_after_restart(triggers[0])
    assert "error" in event
    assert "datatile_default" in event["what"]


@pytest.mark.needs_airflow(">=3")
@pytest.mark.parametrize(
    ("deferred_for", "pause"), [(0, 0), (2.4, 0), (2.6, 4.4), (5, 2), (6.9, 0.1), (7.1, 0), (3600, 0)]
)
def test_the_pause_before_a_quick_resume(deferred_for, pause):
    assert resume_pause(deferred_for) == pytest.approx(pause)


@pytest.mark.parametrize(
    ("trigger_id", "started", "is_held"),
    # Without an id there is no triggerer, and without a start there was no worker.
    [(1, 1.0, True), (None, 1.0, False), (1, None, False)],
)
async def test_only_an_event_that_resumes_a_deferred_task_is_held_back(
    script, monkeypatch, trigger_id, started, is_held
):
    asked: list[float] = []

    def pause(waited: float) -> float:
        asked.append(waited)
        return 3.0

    monkeypatch.setattr("datatile_provider.triggers.datatile.resume_pause", pause)
    script((200, {"status": "done"}))
    now = time.time()
    trigger = DatatileJobTrigger(
        "7", "datatile_default", poll_interval=1, timeout=30, started=started and now - started
    )
    trigger.trigger_id = trigger_id
    begun = time.monotonic()
    (event,) = [event async for event in trigger.run()]
    assert event.payload["job"]["state"] == "SUCCEEDED"
    assert (time.monotonic() - begun >= 3.0) is is_held
    assert [round(waited) for waited in asked] == ([1] if is_held else [])
