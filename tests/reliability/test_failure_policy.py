"""The table of what an error means: each row, what must hold for all rows, and its copies in the docs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from datatile_provider import failure_policy
from datatile_provider.api import errors
from datatile_provider.api.models import Action, Job, OnUnknown
from datatile_provider.api.retry import Retry
from datatile_provider.failure_policy import (
    RULES,
    Accepted,
    Airflow,
    Failure,
    Rule,
    StateChange,
    decide,
    failure_of,
)
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.first_step import STEPS, Cleared, Step
from datatile_provider.operators.guard import GuardedUpload
from datatile_provider.operators.upload_state import Numbers, Phase, Record, Sent
from datatile_provider.sensors.datatile import DatatileJobSensor
from datatile_provider.triggers.datatile import DatatileRetryTrigger
from tests.support.reading import one_line
from tests.support.task import Instance, Store
from tests.support.versions import HAS_STATE_STORE

DOCS = Path(__file__).parents[2] / "docs"
FAILS, RETRIES, AS_RAISED, TIMES_OUT, ASKS = "fails", "retries", "as raised", "times out", "asks"
KEEP, FORGET, REPORTED = "kept", "deleted", "reported"
BOTH = (False, True)

#: What Airflow does and what happens to the record, with a state store and without, each for `resend`, `ask` and
#: `fail`. One entry stands for all six. Four entries leave `ask` out: it is then like `fail`.
EXPECTED = {
    (Failure.TRANSIENT, Accepted.NO): [(RETRIES, FORGET)],
    (Failure.TRANSIENT, Accepted.MAYBE): [(RETRIES, FORGET)],
    (Failure.TRANSIENT, Accepted.EARLIER): [(RETRIES, KEEP)],
    (Failure.TRANSIENT, Accepted.YES): [(FAILS, KEEP)],
    (Failure.TRANSIENT, Accepted.WAITING): [(RETRIES, KEEP)],
    (Failure.PERMANENT, Accepted.NO): [(FAILS, FORGET)],
    (Failure.PERMANENT, Accepted.MAYBE): [(FAILS, FORGET)],
    (Failure.PERMANENT, Accepted.EARLIER): [(FAILS, KEEP)],
    (Failure.PERMANENT, Accepted.YES): [(FAILS, KEEP)],
    (Failure.PERMANENT, Accepted.WAITING): [(FAILS, KEEP)],
    (Failure.INVALID, Accepted.NO): [(FAILS, FORGET)],
    (Failure.INVALID, Accepted.EARLIER): [(FAILS, KEEP)],
    (Failure.INVALID, Accepted.YES): [(FAILS, KEEP)],
    (Failure.INVALID, Accepted.WAITING): [(FAILS, KEEP)],
    (Failure.UNKNOWN, Accepted.MAYBE): [(RETRIES, FORGET), (ASKS, KEEP), (FAILS, REPORTED)] * 2,
    (Failure.UNKNOWN, Accepted.EARLIER): [(FAILS, REPORTED), (ASKS, KEEP), (FAILS, REPORTED)] * 2,
    (Failure.UNKNOWN, Accepted.ASKED): [(FAILS, REPORTED), (ASKS, KEEP), (FAILS, REPORTED)] * 2,
    (Failure.ANSWER, Accepted.ASKED): [(FAILS, KEEP)],
    (Failure.RECORD, Accepted.ASKED): [(FAILS, REPORTED)],
    (Failure.RECORD, Accepted.EARLIER): [(FAILS, REPORTED)],
    (Failure.JOB, Accepted.YES): [(FAILS, REPORTED)],
    (Failure.JOB, Accepted.WAITING): [(FAILS, KEEP)],
    (Failure.TIMEOUT, Accepted.YES): [(TIMES_OUT, KEEP)],
    (Failure.TIMEOUT, Accepted.WAITING): [(TIMES_OUT, KEEP)],
    (Failure.EXECUTION_TIMEOUT, Accepted.YES): [(RETRIES, KEEP)] * 2 + [(FAILS, KEEP)] * 2,
    (Failure.EXECUTION_TIMEOUT, Accepted.WAITING): [(RETRIES, KEEP)],
    (Failure.MOVED, Accepted.YES): [(FAILS, KEEP)],
    (Failure.MOVED, Accepted.WAITING): [(FAILS, KEEP)],
    (Failure.KILLED, Accepted.YES): [(FAILS, KEEP)],
    (Failure.OUTSIDE, Accepted.NO): [(AS_RAISED, KEEP)],
    (Failure.OUTSIDE, Accepted.EARLIER): [(AS_RAISED, KEEP)],
    (Failure.OUTSIDE, Accepted.ASKED): [(AS_RAISED, KEEP)] * 3 + [(FAILS, KEEP)] * 3,
    (Failure.OUTSIDE, Accepted.MAYBE): [(AS_RAISED, KEEP)] * 3 + [(FAILS, KEEP)],
    (Failure.OUTSIDE, Accepted.YES): [(AS_RAISED, KEEP)] * 2 + [(FAILS, KEEP)] * 2,
    (Failure.OUTSIDE, Accepted.WAITING): [(AS_RAISED, KEEP)],
}
#: Without a state store there is nothing that could not be stored.
EXPECTED_WITH_STORE = {(Failure.NOT_STORED, Accepted.YES): [(RETRIES, KEEP)]}
DOES = {
    Airflow.FAILS: FAILS,
    Airflow.RETRIES: RETRIES,
    Airflow.TIMES_OUT: TIMES_OUT,
    Airflow.TIMES_OUT_AND_RETRIES: RETRIES,
    Airflow.ASKS: ASKS,
    Airflow.AS_RAISED: AS_RAISED,
}
MODES = (OnUnknown.RESEND, OnUnknown.ASK, OnUnknown.FAIL)


def cases() -> list[tuple[Failure, Accepted, bool, OnUnknown, tuple[str, str]]]:
    found = []
    for (failure, accepted), outcomes in EXPECTED.items():
        all_six = [outcomes[i] for i in (0, 1, 1, 2, 3, 3)] if len(outcomes) == 4 else outcomes
        all_six = all_six if len(all_six) == 6 else all_six * 6
        for (store, on_unknown), outcome in zip(product((True, False), MODES), all_six, strict=True):
            found.append((failure, accepted, store, on_unknown, outcome))
    for (failure, accepted), [outcome] in EXPECTED_WITH_STORE.items():
        found += [(failure, accepted, True, on_unknown, outcome) for on_unknown in MODES]
    return found


def case_id(value: object) -> str:
    return str(getattr(value, "name", value))


@pytest.mark.parametrize(("failure", "accepted", "store", "on_unknown", "outcome"), cases(), ids=case_id)
def test_a_row(failure, accepted, store, on_unknown, outcome):
    rule = decide(failure, accepted, store=store, on_unknown=on_unknown)
    assert (DOES[rule.airflow], rule.change.value.strip("`")) == outcome
    assert rule is not RULES[-1]


def test_each_row_is_used_by_a_case():
    used = {RULES.index(decide(f, a, store=s, on_unknown=u)) for f, a, s, u, _ in cases()}
    assert used == set(range(len(RULES) - 1))


@pytest.mark.parametrize(
    ("failure", "accepted", "store", "on_unknown"), list(product(Failure, Accepted, BOTH, OnUnknown)), ids=case_id
)
def test_airflow_never_sends_a_file_again_that_the_server_may_have(failure, accepted, store, on_unknown):
    """Over all combinations, also those that no code raises."""
    harmless = on_unknown is OnUnknown.RESEND
    rule = decide(failure, accepted, store=store, on_unknown=on_unknown)
    if rule.airflow in (Airflow.RETRIES, Airflow.TIMES_OUT_AND_RETRIES, Airflow.AS_RAISED):
        # With a state store, the next attempt reads what this one has stored.
        remembers = store and rule.change is StateChange.KEEP
        nothing_sent = accepted in (Accepted.NO, Accepted.EARLIER, Accepted.WAITING)
        assert remembers or nothing_sent or harmless or failure is Failure.TRANSIENT
    if rule.change is StateChange.FORGET:
        assert accepted in (Accepted.NO, Accepted.MAYBE)
        assert harmless or failure is not Failure.UNKNOWN
    if "the file is not sent again" in rule.steps:
        assert store


def test_each_error_has_a_kind():
    for code, kind in errors.BY_CODE.items():
        assert failure_of(kind(code)) in Failure
    assert failure_of(errors.JobTimeoutError("")) is Failure.TIMEOUT
    assert failure_of(errors.ExecutionTimeoutError("")) is Failure.EXECUTION_TIMEOUT
    assert failure_of(errors.DatatileError("an event that can't be read")) is Failure.TRANSIENT


@pytest.mark.parametrize(
    ("accepted", "hint", "expected"),
    [
        (Accepted.NO, "Put the current token into the connection.", "After the fix, clear this task"),
        (Accepted.NO, "", "To send the file, clear this task"),
        (Accepted.WAITING, "", "To poll again, clear only this sensor"),
    ],
)
def test_the_next_steps_ask_for_a_fix_only_if_the_error_names_one(accepted, hint, expected):
    error = errors.TransientError("what happened", hint=hint)
    rule = decide(failure_of(error), accepted, store=False, on_unknown=OnUnknown.FAIL)
    assert expected in rule.next_steps(error)


@pytest.mark.parametrize("discards", BOTH)
def test_the_next_steps_say_how_a_clear_keeps_the_record(monkeypatch, discards):
    monkeypatch.setattr(failure_policy, "CLEAR_DISCARDS_STATE", discards)
    found = {rule.steps: rule.next_steps(errors.DatatileError("")) for rule in RULES if rule.steps}
    kept = {steps for steps, shown in found.items() if "Keep task state and resume" in shown}
    reading = {
        steps for steps in found if any(t in steps for t in ("not sent again", "compares", "asks again", "Cleared"))
    }
    assert kept == (reading if discards else set())
    assert len(reading) == 3


# The rows applied to a task.

ERRORS = {
    Failure.TRANSIENT: errors.ServerUnreachableError,
    Failure.PERMANENT: errors.TokenRefusedError,
    Failure.INVALID: errors.InvalidInputError,
    Failure.UNKNOWN: errors.OutcomeUnknownError,
    Failure.ANSWER: errors.AnswerInvalidError,
    Failure.RECORD: errors.TaskChangedError,
    Failure.JOB: errors.JobFailedError,
    Failure.TIMEOUT: errors.JobTimeoutError,
    Failure.EXECUTION_TIMEOUT: errors.ExecutionTimeoutError,
    Failure.MOVED: errors.ConnectionChangedError,
    Failure.KILLED: errors.UploadInterruptedError,
    Failure.NOT_STORED: errors.StateNotStoredError,
    Failure.OUTSIDE: AirflowTaskTimeout,
}
RAISED = {FAILS: AirflowFailException, TIMES_OUT: AirflowSensorTimeout}
RECORD = Record(
    Phase.SENDING, "append of a wave", Sent("https://d.example.com/api/v2", "append", "f00d"), "", Numbers(0, 0, 1, -1)
)


@pytest.mark.parametrize(
    ("failure", "accepted", "store", "on_unknown", "outcome"),
    # Airflow before 3.3 has no state store.
    [case for case in cases() if case[1] is not Accepted.WAITING and (HAS_STATE_STORE or not case[2])],
    ids=case_id,
)
def test_a_row_applied_to_an_upload(failure, accepted, store, on_unknown, outcome):
    task = DatatileUploadOperator(
        task_id="upload", action="append", target_hash="f00d", dataset="/wave.sav", on_unknown=on_unknown.value
    )
    rows = Store()
    rows.set("datatile_upload", RECORD.as_dict())
    context: Any = {"ti": Instance(0), **({"task_state_store": rows} if store else {})}
    upload = GuardedUpload(task, context)
    if store:
        upload._state._known = RECORD
    if accepted is Accepted.YES:
        upload.accept(Job("job-7"))
    upload._accepted = accepted
    error = ERRORS[failure]("what happened")
    with pytest.raises(BaseException) as caught, upload:  # noqa: PT011 - SystemExit is not an Exception
        raise error
    # Nothing can be asked here.
    does, change = (FAILS, REPORTED) if outcome[0] == ASKS else outcome
    if does == AS_RAISED:
        assert caught.value is error
    elif failure is Failure.EXECUTION_TIMEOUT and does == RETRIES:
        assert type(caught.value) is AirflowTaskTimeout
    else:
        assert type(caught.value) is RAISED.get(does, Airflow.RETRIES.value)
        assert "what happened" in str(caught.value) or failure is Failure.OUTSIDE
        assert "f00d" in str(caught.value) or accepted is not Accepted.YES
    record = rows.get("datatile_upload")
    if not store or change == KEEP:
        assert record == RECORD.as_dict()
    elif change == FORGET:
        assert record is None
    else:
        assert record["phase"] == change


def guarded(instance: Instance, *, rows: Store | None = None, **options: bool) -> GuardedUpload:
    """Return an append, on an Airflow without a state store if there are no rows."""
    task = DatatileUploadOperator(task_id="upload", action="append", target_hash="f00d", dataset="/wave.sav")
    context: Any = {"ti": instance, **({"task_state_store": rows} if rows else {})}
    return GuardedUpload(task, context, **options)


@pytest.mark.parametrize(
    ("options", "shown"), [({}, False), ({"show_cause": False}, False), ({"show_cause": True}, True)]
)
def test_the_traceback_of_the_original_error_is_shown_only_on_request(options, shown):
    error = errors.TokenRefusedError("what happened")
    with pytest.raises(AirflowFailException) as caught, guarded(Instance(0), **options):
        raise error
    assert caught.value.__cause__ is (error if shown else None)
    assert caught.value.__suppress_context__


def test_a_task_without_retries():
    assert guarded(Instance(0))._state.airflow == Numbers(max_tries=0, retries=0, try_number=0, clears=-1)


@pytest.mark.parametrize(
    "raised",
    [
        AirflowFailException("from a hook of the DAG"),
        AirflowSkipException("from a hook of the DAG"),
        AirflowSensorTimeout("from a hook of the DAG"),
        TaskDeferred(trigger=DatatileRetryTrigger(0.0), method_name="execute_complete"),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_what_airflow_does_not_retry_is_raised_unchanged(raised):
    """After acceptance and without a state store, any other exception fails the task."""
    upload = guarded(Instance(0))
    upload.accept(Job("job-7"))
    with pytest.raises(type(raised)) as caught, upload:
        raise raised
    assert caught.value is raised


@pytest.mark.parametrize(
    ("accepted", "job", "raised", "expected"),
    [
        (
            Accepted.YES,
            Job("job-7"),
            AirflowTaskTimeout("60 s"),
            "The file was accepted as job job-7, then execution_timeout ended the task.",
        ),
        (
            Accepted.YES,
            None,
            ConnectionError("no XCom backend"),
            "The file was accepted, then ConnectionError (no XCom backend) ended the task.",
        ),
        (Accepted.MAYBE, None, AirflowTaskTimeout("60 s"), "execution_timeout ended the task while the file was sent."),
    ],
)
def test_an_error_from_outside_says_what_ended_the_task_and_whether_the_file_was_accepted(
    accepted, job, raised, expected
):
    upload = guarded(Instance(0))
    upload._accepted, upload.job = accepted, job
    with pytest.raises(AirflowFailException) as caught, upload:
        raise raised
    assert expected in one_line(caught.value)


def test_the_job_that_an_earlier_process_has_pushed_is_recalled():
    instance = Instance(0)
    instance.xcom_push("job_id", "job-7")
    assert guarded(instance).accepted_job_id() == "job-7"
    upload = guarded(instance)
    upload.recall_job()
    with pytest.raises(AirflowFailException, match="accepted as job job-7"), upload:
        raise ConnectionError("from a hook of the DAG")


def test_without_a_job_to_recall_the_file_is_not_taken_for_accepted():
    upload = guarded(Instance(0))
    assert upload.accepted_job_id() == ""
    with pytest.raises(ConnectionError), upload:
        raise ConnectionError("from a hook of the DAG")


def test_a_job_id_that_cannot_be_read_leaves_the_outcome_unknown(monkeypatch):
    """Airflow would retry the task, and so send the file again."""

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no XCom backend")

    monkeypatch.setattr(Instance, "xcom_pull", fail)
    upload = guarded(Instance(0))
    with pytest.raises(errors.OutcomeUnknownError, match="no XCom backend"):
        upload.accepted_job_id()
    upload.recall_job()


@pytest.mark.needs_airflow(">=3.3")
def test_a_record_that_cannot_be_stored_does_not_change_what_the_error_means(monkeypatch):
    """The error of the store would make Airflow retry the task."""

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no state store")

    rows = Store()
    rows.set("datatile_upload", RECORD.as_dict())
    monkeypatch.setattr(rows, "set", fail)
    upload = guarded(Instance(0), rows=rows)
    assert upload._state.read() == RECORD
    upload.accept(Job("job-7"))
    with pytest.raises(AirflowFailException, match="what happened"), upload:
        raise errors.JobFailedError("what happened")
    assert rows.get("datatile_upload") == RECORD.as_dict()


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [(case[0], case[4]) for case in cases() if case[1] is Accepted.WAITING and case[0] is not Failure.OUTSIDE],
    ids=case_id,
)
def test_a_row_applied_to_a_sensor(failure, outcome):
    sensor = DatatileJobSensor(task_id="wait", job_id="job-7")
    found = sensor._decided(ERRORS[failure]("what happened"))
    does, _ = outcome
    expected: Any = AirflowTaskTimeout if failure is Failure.EXECUTION_TIMEOUT else RAISED.get(does)
    assert type(found) is (expected or Airflow.RETRIES.value)
    assert ("job job-7" in str(found)) is (failure is not Failure.INVALID)


# The tables in the docs.

ERROR_NAMES = {
    Failure.TRANSIENT: "transient",
    Failure.PERMANENT: "permanent",
    Failure.INVALID: "bad input",
    Failure.UNKNOWN: "outcome unknown",
    Failure.ANSWER: "a person's answer can't be used",
    Failure.RECORD: "the record does not fit the task",
    Failure.JOB: "the job failed or was cancelled",
    Failure.TIMEOUT: "the job was not finished in time",
    Failure.EXECUTION_TIMEOUT: "`execution_timeout` while deferred",
    Failure.MOVED: "the connection has another server",
    Failure.KILLED: "killed, and ended normally",
    Failure.NOT_STORED: "the success could not be stored",
    Failure.OUTSIDE: "from outside: `execution_timeout`, SIGTERM, XCom, hooks",
}
ACCEPTED_NAMES = {
    Accepted.NO: "no",
    Accepted.MAYBE: "being sent",
    Accepted.EARLIER: "by an earlier attempt?",
    Accepted.ASKED: "a person was asked",
    Accepted.YES: "yes",
    Accepted.WAITING: "a sensor's wait",
}
AIRFLOW_NAMES = {
    Airflow.FAILS: "fails, no retry",
    Airflow.RETRIES: "retries",
    Airflow.TIMES_OUT: "times out, no retry",
    Airflow.TIMES_OUT_AND_RETRIES: "times out, retries",
    Airflow.ASKS: "waits for an answer",
    Airflow.AS_RAISED: "retries, as after any error",
}
CLEAR_NAMES = {
    failure_policy._FIX_AND_SEND_STEPS: "sends the file",
    failure_policy._COMPARE_STEPS: "compares the file",
    failure_policy._REPLACE_STEPS: "sends the file",
    failure_policy._RESUME_STEPS: "resumes the job",
    failure_policy._SENDS_AGAIN_STEPS: "sends the file again",
    failure_policy._CONTINUES_STEPS: "sends the file again",
    failure_policy._REPLACE_THERE_STEPS: "clear the upload",
    failure_policy._RESUME_SENSOR_STEPS: "resumes the wait",
    failure_policy._POLL_AGAIN_STEPS: "polls again",
    failure_policy._ASK_AGAIN_STEPS: "asks again",
    failure_policy._MARK_OR_SEND_STEPS: "sends the file again",
}
#: Where a rule has no steps of its own: the error's hint says it, or the next attempt decides.
CLEAR_NAMES_WITHOUT_STEPS: dict[Failure, str] = {
    Failure.UNKNOWN: "sends the file: look for the upload first",
    Failure.RECORD: "sends the file: the error says what to check",
    Failure.NOT_STORED: "resumes the job",
    Failure.INVALID: "polls again",
}


def test_the_documented_tables(request):
    page = (DOCS / "reliability.md").read_text("utf-8")
    written = page
    for name, rows in {"failed uploads": failed_uploads(), "first steps": first_steps(), "errors": rules()}.items():
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        begin, end = f"<!-- table: {name} -->\n", "\n<!-- end of table -->"
        assert written.count(begin) == 1
        before, rest = written.split(begin)
        written = before + begin + table + end + rest.split(end, 1)[1]
    if request.config.getoption("--write-tables"):
        (DOCS / "reliability.md").write_text(written, "utf-8")
        page = written
    assert page == written, "pytest tests/reliability/test_failure_policy.py --write-tables"


def failed_uploads() -> list[tuple[str, ...]]:
    """What the hook does after a failed attempt."""

    def does(kind: type[errors.DatatileError], action: Action) -> str:
        try:
            Retry(action, deadline=60.0).after(kind("what happened"), 0.0)
        except errors.DatatileError:
            return "fails, no retry"
        return "sent again" if kind is errors.OutcomeUnknownError else "retried"

    kinds = {
        "not accepted, transient": errors.TransientError,
        "not accepted, permanent": errors.PermanentError,
        "unknown": errors.OutcomeUnknownError,
    }
    rows: list[tuple[str, ...]] = [("class", "`create`, `append`", "`reload`"), ("---",) * 3]
    for name, kind in kinds.items():
        create, append, reload = (does(kind, action) for action in (Action.CREATE, Action.APPEND, Action.RELOAD))
        assert create == append
        rows.append((name, create, reload))
    return rows


STEP_NAMES = {
    Step.UPLOAD: "uploads",
    Step.RESUME: "resumes the job",
    Step.RETURN: "returns the job id, uploads nothing",
    Step.UNKNOWN: "fails: *unknown*",
    Step.CHANGED: "fails: names the job and the difference",
    Step.UNSURE: "fails: asks for another clear",
    Step.REPORT_AGAIN: "fails again with the same message",
}


def first_steps() -> list[tuple[str, ...]]:
    columns = {
        Cleared.NO: "Airflow's own retry",
        Cleared.YES: "a person cleared the task",
        Cleared.UNSURE: "it can't be told",
    }
    assert [*columns] == [*Cleared]
    rows = [("phase of the record", "the task's upload", *columns.values()), ("---",) * 5]
    rows.append(("no record", "any", *["uploads"] * 3))
    for phase in Phase:
        same, other = ([STEP_NAMES[step] for step in STEPS[phase, differs]] for differs in BOTH)
        if same == other:
            rows.append((f"`{phase.value}`", "any", *same))
        else:
            rows += [(f"`{phase.value}`", "the same", *same), (f"`{phase.value}`", "another", *other)]
    return rows


def rules() -> list[tuple[str, ...]]:
    def names(members: Any, flags: Any) -> str:
        return ", ".join(name for flag, name in members.items() if flag in flags)

    def clear(rule: Rule) -> str:
        if rule.steps:
            return CLEAR_NAMES[rule.steps]
        if rule.airflow is Airflow.AS_RAISED:
            return "as a retry"
        if rule.airflow is Airflow.ASKS:
            return "asks again; without a state store, sends the file"
        if Failure.OUTSIDE in rule.failure:
            return CLEAR_NAMES_WITHOUT_STEPS[Failure.UNKNOWN]
        return next(
            (name for kind, name in CLEAR_NAMES_WITHOUT_STEPS.items() if kind in rule.failure), "sends the file"
        )

    yes_no = {None: "any", True: "yes", False: "no"}
    rows: list[tuple[str, ...]] = [
        ("error", "file accepted", "state store", "`on_unknown`", "Airflow", "record", "a clear"),
        ("---",) * 7,
    ]
    rows += [
        (
            names(ERROR_NAMES, rule.failure),
            names(ACCEPTED_NAMES, rule.accepted),
            yes_no[rule.store],
            f"`{rule.on_unknown.value}`" if rule.on_unknown else "any",
            AIRFLOW_NAMES[rule.airflow],
            rule.change.value if rule.store is not False else "none",
            clear(rule),
        )
        for rule in RULES[:-1]
    ]
    return rows
