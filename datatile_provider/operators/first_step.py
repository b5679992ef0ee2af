"""What an attempt of an upload task starts with, decided from the record of the attempts before: one table."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from datatile_provider.api import errors
from datatile_provider.operators.upload_state import Numbers, Phase, Record


class Cleared(Enum):
    """Whether a person has cleared the task since the record was written, or Airflow retries by itself."""

    NO = "no"
    YES = "yes"
    UNSURE = "unsure"

    @classmethod
    def since(cls, before: Numbers, now: Numbers) -> Cleared:
        """Return what Airflow's numbers in the record show, compared with those of this attempt."""
        if now.max_tries != before.max_tries:
            return cls.YES
        # With fewer retries than before, a clear may set max_tries to the number that it had.
        cleared_after = now.max_tries - now.retries
        possible = before.try_number <= cleared_after < now.try_number
        same = (now.retries, now.clears) == (before.retries, before.clears)
        return cls.NO if same and not possible else cls.UNSURE


class Step(Enum):
    """What an attempt starts with."""

    UPLOAD = "upload"
    RESUME = "resume the job that the server already has"
    RETURN = "return the job of an attempt that had succeeded"
    UNKNOWN = "fail: an attempt ended after sending and before its response was known"
    CHANGED = "fail: the accepted upload is not the one that the task would send now"
    UNSURE = "fail: whether a person cleared the task to send it again is not known"
    REPORT_AGAIN = "fail as the attempt before did"


#: By the phase of the record, and whether the task would now send another upload: the step after Airflow's own retry,
#: after a clear, and when it can't be told which of them it was.
STEPS = {
    (Phase.SENDING, False): (Step.UNKNOWN, Step.UNKNOWN, Step.UNKNOWN),
    (Phase.SENDING, True): (Step.UNKNOWN, Step.UNKNOWN, Step.UNKNOWN),
    # The worker may have died before its error named that job, so a clear alone does not send another file.
    (Phase.ACCEPTED, False): (Step.RESUME, Step.RESUME, Step.RESUME),
    (Phase.ACCEPTED, True): (Step.CHANGED, Step.CHANGED, Step.CHANGED),
    # Airflow may retry a task that has ended: the report of its end is lost when the API server is down.
    (Phase.REPORTED, False): (Step.REPORT_AGAIN, Step.UPLOAD, Step.REPORT_AGAIN),
    (Phase.REPORTED, True): (Step.REPORT_AGAIN, Step.UPLOAD, Step.REPORT_AGAIN),
    (Phase.DONE, False): (Step.RETURN, Step.UPLOAD, Step.UNSURE),
    (Phase.DONE, True): (Step.CHANGED, Step.UPLOAD, Step.CHANGED),
}


def first_step(phase: Phase, cleared: Cleared, *, differs: bool, harmless: bool) -> Step:
    """
    Return what an attempt starts with when there is a record.

    :param phase: the phase of the record.
    :param cleared: whether a person has cleared the task since.
    :param differs: whether the task would now send another upload.
    :param harmless: whether this upload may be sent again when its outcome is unknown: a reload, or with
        ``on_unknown="resend"``.
    """
    if phase is Phase.SENDING and harmless:
        return Step.UPLOAD
    return STEPS[phase, differs][list(Cleared).index(cleared)]


def comparison_matters(phase: Phase, cleared: Cleared, *, harmless: bool) -> bool:
    """Return whether the first step depends on whether the task would now send another upload."""
    return len({first_step(phase, cleared, differs=differs, harmless=harmless) for differs in (True, False)}) > 1


def stop_error(step: Step, record: Record, differences: Sequence[str]) -> errors.DatatileError:
    """Return the error of an attempt that must not continue without a person."""
    changed = "\n".join(["The task has changed since:", *differences]) if differences else ""
    as_job = f" as job {record.job_id}" if record.job_id else ""
    accepted = f"An earlier attempt was accepted{as_job}"
    if step is Step.CHANGED:
        return errors.TaskChangedError(
            f"{accepted}.\n{changed}",
            subject=record.text,
            hint="The task's upload of now was not sent. Check that job first.\nTo send it, clear this task.",
        )
    if step is Step.UNSURE:
        return errors.AlreadyUploadedError(
            f"{accepted} and succeeded. Airflow does not show whether the task was cleared since, "
            "as after a change of its retries",
            subject=record.text,
            hint="Nothing was sent.\nTo send the file again, clear this task.",
        )
    return errors.OutcomeUnknownError(
        "\n".join(filter(None, ["An earlier attempt ended before its response was known", changed])),
        subject=record.text,
        hint=errors.UNKNOWN_HINT,
    )
