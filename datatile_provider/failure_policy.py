"""
What an error of an upload or of a wait means: one table.

The table of ``docs/reliability.md`` is written from it. The operator and the sensor each apply it in one place.
"""

from __future__ import annotations

import asyncio
from enum import Enum, Flag, auto
from typing import NamedTuple

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from datatile_provider.api import errors
from datatile_provider.api.models import OnUnknown
from datatile_provider.version_compat import CLEAR_DISCARDS_STATE, AirflowTaskTerminated


class Failure(Flag):
    """The kind of an error."""

    TRANSIENT = auto()  #: Not accepted, or not polled; another attempt may succeed.
    PERMANENT = auto()  #: Not accepted, or not polled; another attempt changes nothing.
    INVALID = auto()  #: Bad input.
    UNKNOWN = auto()  #: The server may have the file or not.
    ANSWER = auto()  #: A person's answer about an unknown outcome can't be used.
    RECORD = auto()  #: The record of an earlier attempt does not fit the task, so a person must decide.
    JOB = auto()  #: The job failed or was cancelled.
    TIMEOUT = auto()  #: The job was not finished in time.
    EXECUTION_TIMEOUT = auto()  #: ``execution_timeout`` passed while the task was deferred.
    MOVED = auto()  #: The connection points to another server than the job's.
    KILLED = auto()  #: The task was ended by a person or by Airflow, and went on until its end.
    NOT_STORED = auto()  #: Airflow could not store that the upload is done.
    OUTSIDE = auto()  #: ``execution_timeout``, SIGTERM, or an error of Airflow, an XCom backend or a hook of the DAG.


class Accepted(Flag):
    """Whether the server had accepted the file before the error."""

    NO = auto()
    MAYBE = auto()  #: It was being sent.
    EARLIER = auto()  #: An earlier attempt may have sent it; this one had sent nothing yet.
    ASKED = auto()  #: A person was asked, and this process has sent nothing yet.
    YES = auto()
    WAITING = auto()  #: The task only waits for the job of another task.


class Airflow(Enum):
    """What Airflow does."""

    RETRIES = AirflowException
    FAILS = AirflowFailException
    TIMES_OUT = AirflowSensorTimeout
    TIMES_OUT_AND_RETRIES = AirflowTaskTimeout
    ASKS = object  #: The task waits for a person's answer, without a worker.
    AS_RAISED = BaseException  #: The error is raised unchanged. Airflow retries the task after most of them.


class StateChange(Enum):
    """What happens to the record in the task's state store."""

    KEEP = "kept"
    FORGET = "deleted"
    REPORTED = "`reported`"


class Rule(NamedTuple):
    """
    A row of the table.

    :param failure: the kinds of error.
    :param accepted: whether the server had accepted the file.
    :param store: whether this Airflow has a state store; None for both.
    :param on_unknown: the task's ``on_unknown``, which for a reload is always ``resend``; None for all.
    :param airflow: what Airflow does.
    :param change: what happens to the record.
    :param steps: what a person can do next.
    """

    failure: Failure
    accepted: Accepted
    store: bool | None
    on_unknown: OnUnknown | None
    airflow: Airflow
    change: StateChange = StateChange.KEEP
    steps: str = ""

    def error(self, text: str) -> BaseException:
        """Return the exception for Airflow with a text."""
        kind: type[BaseException] = self.airflow.value
        return kind(text)

    def next_steps(self, error: errors.DatatileError) -> str:
        """Return what a person can do after an error of an upload."""
        if self.steps == _FIX_AND_SEND_STEPS and not error.hint:
            return _SEND_STEPS
        reads_record = self.steps in (_RESUME_STEPS, _COMPARE_STEPS, _ASK_AGAIN_STEPS)
        return f"{self.steps}\n{_KEEP_STATE_STEPS}" if reads_record and CLEAR_DISCARDS_STATE else self.steps


_FIX_AND_SEND_STEPS = "This attempt stored nothing.\nAfter the fix, clear this task: it sends the file."
_SEND_STEPS = "This attempt stored nothing.\nTo send the file, clear this task."
_COMPARE_STEPS = "An earlier attempt has sent a file. Then clear this task: it compares the two."
_REPLACE_STEPS = (
    "The file was accepted, but its job did not succeed.\nReplace the file, then clear this task: it sends the file."
)
_RESUME_STEPS = "The file was accepted.\nTo resume the wait, clear this task: the file is not sent again."
_SENDS_AGAIN_STEPS = "The file was accepted, and the job may continue.\nClearing this task sends the file again."
_CONTINUES_STEPS = (
    "The job continues in DATATILE.\n"
    "It succeeds: mark this task success. It does not: clear this task, which sends the file again."
)
_REPLACE_THERE_STEPS = (
    "The file was accepted, but its job did not succeed.\n"
    "Replace the file, then clear {upload} and its downstream tasks."
)
_RESUME_SENSOR_STEPS = (
    "The file was accepted, and the job may continue.\nTo resume the wait, clear only this sensor: it sends nothing."
)
_POLL_AGAIN_STEPS = "To poll again, clear only this sensor: it sends nothing."

_KEEP_STATE_STEPS = 'Choose "Keep task state and resume" then, or the file is sent again.'
_ASK_AGAIN_STEPS = "To answer again, clear this task: it asks again, and sends nothing before."
_MARK_OR_SEND_STEPS = "Clearing this task sends the file again. If the file is there, mark this task success."

_F, _A, _S = Failure, Accepted, StateChange
_UNSENT = _A.NO | _A.MAYBE
_DOUBT = _A.EARLIER | _A.ASKED
_FINAL = _F.PERMANENT | _F.INVALID | _F.MOVED
_ANY = ~_F(0)
_IN_WAIT = _FINAL | _F.TRANSIENT | _F.UNKNOWN | _F.KILLED

#: The first row that fits is used.
RULES = (
    # The server has not accepted the file.
    Rule(_F.TRANSIENT, _UNSENT, None, None, Airflow.RETRIES, _S.FORGET, _FIX_AND_SEND_STEPS),
    Rule(_FINAL, _UNSENT, None, None, Airflow.FAILS, _S.FORGET, _FIX_AND_SEND_STEPS),
    Rule(_F.UNKNOWN, _UNSENT, None, OnUnknown.RESEND, Airflow.RETRIES, _S.FORGET),
    Rule(_F.UNKNOWN, _UNSENT | _DOUBT, None, OnUnknown.ASK, Airflow.ASKS),
    Rule(_F.UNKNOWN, _UNSENT | _DOUBT, None, None, Airflow.FAILS, _S.REPORTED),
    Rule(_F.ANSWER, _A.ASKED, True, None, Airflow.FAILS, _S.KEEP, _ASK_AGAIN_STEPS),
    Rule(_F.ANSWER, _A.ASKED, False, None, Airflow.FAILS, _S.KEEP, _MARK_OR_SEND_STEPS),
    Rule(_F.RECORD, _DOUBT, None, None, Airflow.FAILS, _S.REPORTED),
    Rule(_F.TRANSIENT, _A.EARLIER, None, None, Airflow.RETRIES, _S.KEEP, _COMPARE_STEPS),
    Rule(_FINAL, _A.EARLIER, None, None, Airflow.FAILS, _S.KEEP, _COMPARE_STEPS),
    Rule(_F.OUTSIDE, _A.NO | _A.EARLIER, None, None, Airflow.AS_RAISED),
    Rule(_F.OUTSIDE, _A.MAYBE | _A.ASKED, True, None, Airflow.AS_RAISED),
    Rule(_F.OUTSIDE, _A.MAYBE, False, OnUnknown.RESEND, Airflow.AS_RAISED),
    Rule(_F.OUTSIDE, _A.MAYBE | _A.ASKED, False, None, Airflow.FAILS),
    # The server has accepted it.
    Rule(_F.JOB, _A.YES, None, None, Airflow.FAILS, _S.REPORTED, _REPLACE_STEPS),
    Rule(_F.TIMEOUT, _A.YES, True, None, Airflow.TIMES_OUT, _S.KEEP, _RESUME_STEPS),
    Rule(_F.TIMEOUT, _A.YES, False, None, Airflow.TIMES_OUT, _S.KEEP, _SENDS_AGAIN_STEPS),
    Rule(_F.EXECUTION_TIMEOUT, _A.YES, True, None, Airflow.TIMES_OUT_AND_RETRIES, _S.KEEP, _RESUME_STEPS),
    Rule(_F.EXECUTION_TIMEOUT, _A.YES, False, None, Airflow.FAILS, _S.KEEP, _SENDS_AGAIN_STEPS),
    Rule(_IN_WAIT, _A.YES, True, None, Airflow.FAILS, _S.KEEP, _RESUME_STEPS),
    Rule(_IN_WAIT, _A.YES, False, None, Airflow.FAILS, _S.KEEP, _SENDS_AGAIN_STEPS),
    Rule(_F.NOT_STORED, _A.YES, True, None, Airflow.RETRIES),
    Rule(_F.OUTSIDE, _A.YES, True, None, Airflow.AS_RAISED),
    Rule(_F.OUTSIDE, _A.YES, False, None, Airflow.FAILS, _S.KEEP, _CONTINUES_STEPS),
    # A sensor sends nothing, so Airflow may retry it.
    Rule(_F.JOB, _A.WAITING, None, None, Airflow.FAILS, _S.KEEP, _REPLACE_THERE_STEPS),
    Rule(_F.TIMEOUT, _A.WAITING, None, None, Airflow.TIMES_OUT, _S.KEEP, _RESUME_SENSOR_STEPS),
    Rule(_F.EXECUTION_TIMEOUT, _A.WAITING, None, None, Airflow.TIMES_OUT_AND_RETRIES, _S.KEEP, _POLL_AGAIN_STEPS),
    Rule(_F.INVALID, _A.WAITING, None, None, Airflow.FAILS),
    Rule(_FINAL, _A.WAITING, None, None, Airflow.FAILS, _S.KEEP, _POLL_AGAIN_STEPS),
    Rule(_F.TRANSIENT, _A.WAITING, None, None, Airflow.RETRIES, _S.KEEP, _POLL_AGAIN_STEPS),
    Rule(_F.OUTSIDE, _A.WAITING, None, None, Airflow.AS_RAISED),
    # What no code raises. It fails, because it is not known to be safe.
    Rule(_ANY, ~_A(0), None, None, Airflow.FAILS),
)

#: The kind of each error; the first class that fits is used.
_KINDS: tuple[tuple[type[BaseException], Failure], ...] = (
    (errors.InvalidInputError, Failure.INVALID),
    (errors.ExecutionTimeoutError, Failure.EXECUTION_TIMEOUT),
    (errors.JobTimeoutError, Failure.TIMEOUT),
    (errors.JobStatusUnclearError, Failure.PERMANENT),
    (errors.JobError, Failure.JOB),
    (errors.AnswerInvalidError, Failure.ANSWER),
    (errors.TaskChangedError, Failure.RECORD),
    (errors.AlreadyUploadedError, Failure.RECORD),
    (errors.StateUnreadableError, Failure.RECORD),
    (errors.ConnectionChangedError, Failure.MOVED),
    (errors.PermanentError, Failure.PERMANENT),
    (errors.OutcomeUnknownError, Failure.UNKNOWN),
    (errors.UploadInterruptedError, Failure.KILLED),
    (errors.StateNotStoredError, Failure.NOT_STORED),
    # Also an event that can't be read.
    (errors.DatatileError, Failure.TRANSIENT),
)


def failure_of(error: errors.DatatileError) -> Failure:
    """Return the kind of an error."""
    return next(failure for kind, failure in _KINDS if isinstance(error, kind))


def is_retried(error: BaseException) -> bool:
    """Return whether Airflow retries the task after an error that is not one of this package."""
    if isinstance(error, (AirflowFailException, AirflowSensorTimeout, AirflowSkipException, TaskDeferred)):
        return False
    ends = (AirflowTaskTimeout, AirflowTaskTerminated, SystemExit, KeyboardInterrupt, asyncio.CancelledError)
    return isinstance(error, (Exception, *ends))


def decide(failure: Failure, accepted: Accepted, *, store: bool, on_unknown: OnUnknown) -> Rule:
    """Return the row of the table for an error; see :class:`Rule` for the parameters."""
    return next(
        rule
        for rule in RULES
        if failure in rule.failure
        and accepted in rule.accepted
        and rule.store in (None, store)
        and rule.on_unknown in (None, on_unknown)
    )
