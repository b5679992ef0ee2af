"""What follows when the content that a task would send went to the same target before: one function."""

from __future__ import annotations

from datatile_provider.api import errors
from datatile_provider.api.models import OnRepeat, OnUnknown
from datatile_provider.ledger.entry import Entry, Owner, Phase

#: What a person does about a file that was sent before.
REPEAT_HINT = (
    "It was not sent again. It is right as it is: mark this task success.\n"
    "It was the wrong file: correct it, then clear this task.\n"
    "It must be there twice: trigger a run with this conf:\n"
    '{"datatile_on_repeat": "allow"}'
)


def unknown_hint(name: str, *, can_ask: bool) -> str:
    """
    Return what a person does about an upload of unknown outcome, where there is a ledger.

    :param name: the name of its entry; ``""`` if it is not known.
    :param can_ask: whether this Airflow can ask.
    """
    then = "clear this task, and answer its question."
    if not can_ask:
        then = f"run this, then clear this task:\npython -m datatile_provider ledger forget {name or 'NAME'}"
    return (
        "Look for this upload in DATATILE's processing log.\n"
        "It is there: mark this task success.\n"
        f"It is not there, or it failed: {then}"
    )


def objection(
    earlier: Entry, owner: Owner, subject: str, on_repeat: OnRepeat, on_unknown: OnUnknown
) -> errors.DatatileError | None:
    """
    Return why the same content must not be sent again; None if it may.

    :param earlier: the upload in the ledger.
    :param owner: the task that would send it again.
    :param subject: its upload, for messages.
    """
    subject = subject.partition("\n")[0]
    if earlier.phase in (Phase.CLAIMED, Phase.UNKNOWN) and earlier.owner.same_task(owner):
        if on_unknown is OnUnknown.RESEND:
            return None
        return errors.OutcomeUnknownError(
            f"An earlier attempt may have sent this file:\n{earlier}", subject=subject, hint=errors.UNKNOWN_HINT
        )
    if on_repeat is OnRepeat.ALLOW:
        return None
    return errors.RepeatedUploadError(
        f"The same content went to this target before:\n{earlier}",
        subject=subject,
        hint=REPEAT_HINT,
    )
