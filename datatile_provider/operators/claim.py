"""What an upload task reads from and writes to the ledger of its connection."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pendulum

from datatile_provider.api import errors
from datatile_provider.api.models import OnRepeat, OnUnknown
from datatile_provider.ledger.entry import Entry, Owner, Phase
from datatile_provider.operators.question import Choice
from datatile_provider.operators.repeats import is_settled, objection

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from datatile_provider.api.settings import Settings
    from datatile_provider.hooks.datatile import DatatileHook
    from datatile_provider.ledger.ledger import Ledger, Stored
    from datatile_provider.operators.upload_state import Sent

#: Seconds between the two polls that must report that an earlier job failed before its content is sent again.
CONFIRM_PAUSE = 10.0


def owner_of(context: Context) -> Owner:
    """Return the task of a context, as the ledger names it."""
    from airflow.providers.common.compat.sdk import conf

    from datatile_provider.version_compat import AIRFLOW_2

    ti: Any = context["ti"]
    deployment = conf.get("webserver" if AIRFLOW_2 else "api", "base_url", fallback="") or ""
    dag_id, run_id, task_id = (str(getattr(ti, name, "")) for name in ("dag_id", "run_id", "task_id"))
    return Owner(deployment, dag_id, run_id, task_id, ti.map_index, ti.try_number or 0)


class Claim:
    """
    The ledger's entry of one attempt of an upload task. Without a ledger it does nothing.

    :param owner: the task.
    :param log: its log.
    """

    def __init__(self, owner: Owner, log: Any) -> None:
        self._owner, self._log = owner, log
        self._ledger: Ledger | None = None
        self._optional = False
        self._id = str(uuid.uuid4())
        self.configured = False  #: Whether the connection has a ledger.
        self._held = ""  # The name of this attempt's entry.
        self._in_doubt = ""  # The name of the entry of an earlier attempt of this task, whose outcome is unknown.
        self.answer: Choice | None = None  #: What a person has answered in this attempt.
        self.repeated_job = ""  #: The job of the upload that this one would repeat.
        self.reported = False  #: Whether an error has said that the outcome of an earlier attempt is unknown.

    def open(self, settings: Settings, subject: str) -> None:
        """
        Open the ledger of a connection, before anything is sent.

        :param subject: the upload, for messages.
        :raises InvalidInputError: it is in a store that can't keep a ledger.
        :raises LedgerUnusableError: it can't be used now, and it is not optional.
        """
        self.configured, self._optional = bool(settings.ledger), settings.ledger_optional
        if not self.configured:
            self._log.info("No ledger: a clear or another run may send this file again")
            return
        from datatile_provider.ledger.ledger import Ledger
        from datatile_provider.ledger.store import store_of

        with self._unusable(subject):
            try:
                ledger = Ledger(store_of(settings.ledger))
                ledger.check()
            except (ValueError, ImportError) as e:
                raise errors.InvalidInputError(
                    f"The ledger {settings.ledger!r} can't be used: {e}",
                    hint="Use a shared folder, or a store of S3, Google Cloud or Azure, with this package's extra.",
                ) from None
            self._ledger = ledger

    def make(self, sent: Sent, subject: str, hook: DatatileHook, on_repeat: OnRepeat, on_unknown: OnUnknown) -> None:
        """
        Claim a content for its target.

        :param sent: what is sent, with the hash of its content.
        :param subject: the upload, for messages.
        :param hook: polls the job of an earlier upload.
        :param on_repeat: what follows if the content went there before.
        :param on_unknown: what follows if an earlier attempt of this task may have sent it.
        :raises RepeatedUploadError: it went there before.
        :raises OutcomeUnknownError: an earlier attempt of this task may have sent it.
        :raises LedgerUnusableError: the ledger can't be used now, and it is not optional.
        :raises LedgerDamagedError: an entry can't be read, and it is not optional.
        """
        if not self._ledger:
            return
        now = pendulum.now("UTC").isoformat()
        where = (sent.server, sent.action, sent.target, sent.sha256, sent.size, sent.name)
        entry = Entry(self._id, *where, Phase.CLAIMED, "", now, self._owner)
        ledger = self._ledger

        def allow(earlier: Stored) -> bool:
            if is_settled(earlier.entry, self._owner, self.answer, on_unknown):
                return True
            if _has_failed(hook, earlier.entry):
                ledger.change(earlier.name, Phase.RELEASED)
                return False
            error = objection(earlier.entry, self._owner, subject, on_repeat)
            if not error:
                return False
            if on_repeat is OnRepeat.WARN and isinstance(error, errors.RepeatedUploadError):
                self._log.warning("%s", error.report("sending it again"))
                return False
            if isinstance(error, errors.OutcomeUnknownError):
                self._in_doubt = earlier.name
                self.reported |= earlier.entry.phase is Phase.UNKNOWN
            else:
                self.repeated_job = earlier.entry.job_id
            raise error

        with self._unusable(subject):
            self._held = ledger.claim(entry, allow)

    @property
    def name(self) -> str:
        """The name of the entry of this task's upload; ``""`` if there is none."""
        return self._held or self._in_doubt

    @property
    def asks(self) -> bool:
        """Whether a person has cleared the task after an error had reported that its outcome is unknown."""
        return bool(self._in_doubt) and self.reported

    def note(self, phase: Phase, job_id: str = "") -> None:
        """Store what became of the upload. An error of the ledger is logged: the entry then says less."""
        if not self._ledger or not self.name:
            return
        try:
            self._ledger.change(self.name, phase, job_id)
        except Exception as e:  # any store's
            self._log.error("The ledger could not store that the upload is %s: %s", phase.value, e)

    def confirm(self, name: str, job_id: str) -> None:
        """Store that a person has seen the upload of an entry in DATATILE."""
        self._held = name
        self.note(Phase.ACCEPTED, job_id)

    def release(self) -> None:
        """Store that the server does not have the upload."""
        if self._held:
            self.note(Phase.RELEASED)
            self._held, self._id = "", str(uuid.uuid4())

    @contextlib.contextmanager
    def _unusable(self, subject: str) -> Iterator[None]:
        try:
            yield
        except errors.DatatileError:
            raise
        except Exception as e:  # any store's
            error: errors.DatatileError = errors.LedgerUnusableError(
                f"The ledger can't be used: {type(e).__name__}: {e}",
                subject=subject,
                hint="Nothing was accepted. Check that the worker can read and write the connection's ledger.",
            )
            if isinstance(e, ValueError):
                error = errors.LedgerDamagedError(
                    f"The ledger has a damaged file: {e}",
                    subject=subject,
                    hint="Nothing was accepted. Look in DATATILE's processing log for this file.\n"
                    "It is not there: release the entry with the command ledger forget.",
                )
            if not self._optional:
                raise error from None
            self._log.warning("%s", error.report("sending nevertheless"))


def _has_failed(hook: DatatileHook, earlier: Entry) -> bool:
    """Return whether two polls report that the job of an earlier upload failed, and both name it."""
    if not earlier.job_id:
        return False
    for pause in (0.0, CONFIRM_PAUSE):
        time.sleep(pause)
        try:
            job = hook.get_job(earlier.job_id, server=earlier.server)
        except errors.DatatileError:
            return False
        if not (job.state.failed and job.named):
            return False
    return True
