"""The question about an upload of unknown outcome, which a person answers in Airflow (3.1 and later)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

import pendulum

from datatile_provider.api import errors
from datatile_provider.api.validation import is_job_id
from datatile_provider.triggers.datatile import error_of
from datatile_provider.version_compat import file_question, wait_for_answer

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from datatile_provider.operators.datatile import DatatileUploadOperator

#: The version of the arguments that an answered task is resumed with; see docs/formats.md.
FORMAT = 1
#: The XCom with the upload that a question is open about, or ``""``.
ASKED = "asked"
_JOB_ID = "job_id"
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


class Choice(str, Enum):
    """What a person can answer, as the buttons of the form say it."""

    THERE = "It is there"
    NOT_THERE = "It is not there: send it"
    AGAIN = "Send it again"
    FAIL = "Fail the task"


#: The answers after which the file is sent.
SENDS = (Choice.NOT_THERE, Choice.AGAIN)
#: What a person must know to answer, as Markdown: about an unknown outcome, and about a repeat.
_CHOICE_WORDS = f"""\
- **{Choice.THERE.value}**: nothing is sent. With the job's id, the task continues with that job. Without it, the task
  succeeds without a job, so a sensor behind it can't wait.
- **{Choice.NOT_THERE.value}**: the file is sent. Choose this too if its job failed.
- **{Choice.FAIL.value}**: nothing is sent, and the task fails."""
_REPEAT_WORDS = f"""\
- **{Choice.THERE.value}**: nothing is sent. The task continues with the job of the earlier upload, or with the one that
  you name.
- **{Choice.AGAIN.value}**: the file is sent. DATATILE then has its data twice.
- **{Choice.FAIL.value}**: nothing is sent, and the task fails."""


@dataclass(frozen=True, slots=True)
class Question:
    """
    What is asked, stored with the waiting task.

    :param text: the upload, for messages.
    :param server: the address of the server's API.
    :param file_version: the version of the file that was sent; ``""`` if it is not known, or if the task would send
        another one now.
    :param changed: whether the task would now send another upload than the one in doubt.
    :param error: what the task fails with if nobody confirms the upload, as the event of an error.
    :param repeat: whether the same content was sent before. Otherwise the outcome is unknown.
    :param job_id: the job of the earlier upload; ``""`` if it is not known.
    :param entry: the name of the ledger's entry of the upload in doubt; ``""`` if there is none.
    """

    text: str
    server: str
    file_version: str
    changed: bool
    error: Mapping[str, Any]
    repeat: bool = False
    job_id: str = ""
    entry: str = ""

    def file(self, task: DatatileUploadOperator, context: Context) -> BaseException:
        """Ask, and return the exception with which the task waits for the answer."""
        ti: Any = context["ti"]
        question = {
            "subject": self.subject,
            "body": self.body,
            "options": [
                Choice.THERE.value,
                (Choice.AGAIN if self.repeat else Choice.NOT_THERE).value,
                Choice.FAIL.value,
            ],
            "defaults": [Choice.FAIL.value],
            "multiple": False,
            "params": _form(),
            "assigned_users": task.ask_users or [],
        }
        waits = wait_for_answer(
            ti,
            question,
            timeout=task.ask_timeout,
            method_name=task.resume_answered.__name__,
            kwargs={"question": self.as_dict()},
        )
        # Where Airflow has no state store, only this tells a failed trigger that a question was open.
        ti.xcom_push(key=ASKED, value=self.text)
        shown = file_question(ti, **question)
        if escaped(self.text.splitlines()[0]) not in shown:
            raise RuntimeError("Airflow still shows this task's question about another upload")
        return waits

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Question:
        """Return the question of a task's stored arguments."""
        return cls(**{field.name: stored[field.name] for field in fields(cls) if field.name in stored})

    def as_dict(self) -> dict[str, Any]:
        """Return the question as plain JSON values; :meth:`of` reads them."""
        return {"version": FORMAT, **asdict(self)}

    @property
    def failure(self) -> errors.DatatileError:
        """The error of the task if nobody confirms the upload."""
        return error_of(self.error)

    @property
    def subject(self) -> str:
        """The headline."""
        asked = "Send this file again?" if self.repeat else "Does DATATILE have this upload?"
        return f"{asked} {self.text.splitlines()[0]}"

    @property
    def body(self) -> str:
        """The question in Markdown. All that comes from outside is escaped."""
        error = self.failure
        # The link says it better.
        upload_words = [line for line in self.text.splitlines() if not line.startswith("Processing log:")]
        link = error.log_url.replace("<", "%3C").replace(">", "%3E")
        words = [
            escaped(f"{error.what}."),
            "\n".join(f"- {escaped(fact)}" for fact in upload_words),
            f"The server said: {escaped(error.server_message)}" if error.server_message else "",
            "The task has changed since. **It is there** confirms the earlier upload, and the task then fails, because "
            "its upload of now was not sent."
            if self.changed
            else "",
            f"Look for this upload in [DATATILE's processing log](<{link}>), then answer."
            if link
            else "Look for this upload in DATATILE's processing log, then answer.",
            # Airflow keeps the text of a task's first question.
            "If this task has asked before, its log has the time of its latest upload.",
            _REPEAT_WORDS if self.repeat else _CHOICE_WORDS,
        ]
        return "\n\n".join(filter(None, words))


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What a person answered.

    :param choice: the answer.
    :param by: the person's name; ``""`` if nobody answered in time.
    :param at: when, in ISO 8601.
    :param job_id: the job's id that the person gave, or ``""``.
    """

    choice: Choice
    by: str
    at: str
    job_id: str = ""

    @classmethod
    def of(cls, event: Any) -> Answer:
        """
        Return the answer of the event that Airflow resumes the task with.

        :raises AnswerInvalidError: it can't be read, or its job id can't be one.
        """
        option, by, at, form = _read(event)
        try:
            choice = Choice(option)
        except ValueError:
            raise _unreadable(event) from None
        given = form.get(_JOB_ID)
        job_id = "" if given is None else str(given).strip()
        answer = cls(choice, by, at, job_id)
        if choice is Choice.THERE and job_id and not is_job_id(job_id):
            raise errors.AnswerInvalidError(f"{answer}. {job_id!r} is not a job id")
        return answer

    @classmethod
    def stored(cls, value: Mapping[str, str] | None) -> Answer | None:
        """Return the answer that :meth:`as_dict` has written; None if there is none, or if it can't be read."""
        try:
            return cls(Choice[value["choice"].upper()], value["by"], value["at"], value["job_id"]) if value else None
        except (KeyError, TypeError, AttributeError):
            return None

    def as_dict(self) -> dict[str, str]:
        """Return the answer as plain JSON values."""
        return {"choice": self.choice.name.lower(), "by": self.by, "at": self.at, "job_id": self.job_id}

    def __str__(self) -> str:
        return _as_sentence(self.choice.value, self.by, self.at)


def answered(event: Any) -> tuple[str, str]:
    """
    Return the option that a person has chosen, and who has chosen it when, as a sentence.

    :param event: what Airflow resumes a task with that has asked.
    :raises AnswerInvalidError: it can't be read.
    """
    option, by, at, _ = _read(event)
    return option, _as_sentence(option, by, at)


def _read(event: Any) -> tuple[str, str, str, Mapping[str, Any]]:
    """Return the chosen option, the person's name, the time, and the form's fields."""
    try:
        (option,) = event["chosen_options"]
        form = dict(event.get("params_input") or {})
        user, at = event.get("responded_by_user"), event.get("responded_at")
    except (TypeError, KeyError, ValueError, AttributeError):
        raise _unreadable(event) from None
    name = user.get("name") or user.get("id") if isinstance(user, Mapping) else getattr(user, "name", None)
    return str(option), str(name or "") if user else "", _time(at), form


def _unreadable(event: Any) -> errors.AnswerInvalidError:
    return errors.AnswerInvalidError(f"Airflow's answer can't be read: {str(event)[:200]!r}")


def _as_sentence(option: str, by: str, at: str) -> str:
    time = f"{at[:10]} {at[11:19]} UTC" if at else "(time unknown)"
    return f'{by} answered "{option}" on {time}' if by else f"Nobody answered until {time}"


def _form() -> dict[str, Any]:
    """Return the form's fields besides the choice, as Airflow stores them."""
    from airflow.sdk import Param

    field = Param(
        "",
        type=["string", "null"],
        maxLength=200,
        title="Job id",
        description="For “It is there”: the id of the upload's job in DATATILE, if you know it.",
    )
    return {_JOB_ID: field.serialize()}


def _time(value: Any) -> str:
    """Return a time in ISO 8601, in UTC; ``""`` if it is not one."""
    try:
        # Airflow gives a datetime, and a trigger's stored event may give a text.
        found = pendulum.parse(value if isinstance(value, str) else value.isoformat())
        return found.in_timezone("UTC").isoformat() if isinstance(found, pendulum.DateTime) else ""
    except (ValueError, AttributeError, OverflowError):
        return ""


def escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))
