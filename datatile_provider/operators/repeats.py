"""What follows when the content that a task would send went to the same target before: two pure functions."""

from __future__ import annotations

from datatile_provider.api import errors
from datatile_provider.api.models import OnRepeat, OnUnknown
from datatile_provider.ledger.entry import Entry, Owner, Phase
from datatile_provider.operators.question import Choice

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


def is_settled(earlier: Entry, owner: Owner, answer: Choice | None, on_unknown: OnUnknown) -> bool:
    """
    Return whether neither an earlier upload nor those before it are in the way.

    An entry of this task that is in doubt was made after those before it had been allowed.

    :param earlier: the upload in the ledger.
    :param owner: the task that would send the same content again.
    :param answer: what a person has answered in this attempt.
    """
    if answer is Choice.AGAIN:
        return True
    # While a question is open, another task may send the content. The answer is not about that.
    sends = answer is Choice.NOT_THERE or on_unknown is OnUnknown.RESEND
    return sends and _is_own_doubt(earlier, owner)


def objection(earlier: Entry, owner: Owner, subject: str, on_repeat: OnRepeat) -> errors.DatatileError | None:
    """
    Return why the content of an earlier upload that is not settled must not be sent again; None if it may.

    :param earlier: the upload in the ledger.
    :param owner: the task that would send it again.
    :param subject: its upload, for messages.
    """
    subject = subject.partition("\n")[0]
    if _is_own_doubt(earlier, owner):
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


def _is_own_doubt(earlier: Entry, owner: Owner) -> bool:
    return earlier.phase in (Phase.CLAIMED, Phase.UNKNOWN) and earlier.owner.same_task(owner)
