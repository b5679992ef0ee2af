"""The steps of a rehearsal: what is sent to the server, one thing after the other."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from datatile_provider.api import errors
from datatile_provider.api.models import Action, Job
from datatile_provider.api.retry import Retry
from datatile_provider.api.settings import Settings
from datatile_provider.api.states import JobState
from datatile_provider.api.validation import is_hash
from datatile_provider.cli.rehearsal import learning
from datatile_provider.cli.rehearsal.exchange import Reading, Step, described, reading
from datatile_provider.cli.rehearsal.server import NOWHERE, RecordedServer
from datatile_provider.cli.rehearsal.survey import survey

#: Seconds between the polls of a job: the first, and the most. Short jobs must show all of their states.
_FIRST_GAP, _LONGEST_GAP = 0.2, 5.0
#: A long job is polled less often: each gap is at most this part of the time so far.
_POLLS = 50
#: Seconds for which the server may reject the polls of a new job: not each of its machines may know it yet.
_PATIENCE = 10.0
#: Seconds with the same unknown status after which a person is asked.
_ASK_AFTER = 20.0
_SECOND_ATTEMPTS = 3


class EndedError(Exception):
    """The rehearsal cannot go on; the message says why."""


@dataclass(frozen=True)
class Plan:
    """
    What a person has decided about a rehearsal.

    :param folder: the hash of the folder to create a database in.
    :param timeout: seconds within which each upload must be accepted, and each job must finish.
    :param database: the hash of the database, for a server that does not report it.
    :param callback_url: the URL that the server pushes a job's transitions to.
    :param finished: words of the server for a finished job.
    :param failed: words of the server for a failed job.
    """

    folder: str
    timeout: float = 600.0
    database: str = ""
    callback_url: str = ""
    finished: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


class Rehearsal:
    """
    One rehearsal. Its record is complete at any moment, also when :meth:`run` was interrupted.

    :param connect: returns the connection's settings with further options.
    :param configured: the options of the connection that say how the server speaks.
    :param ask: prompts a person at the terminal, and returns the input; None without a terminal.
    :param say: shows a line to a person.
    """

    def __init__(
        self,
        connect: Callable[[Mapping[str, Any]], Settings],
        plan: Plan,
        *,
        configured: Mapping[str, Any],
        ask: Callable[[str], str] | None,
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._ask, self._say = plan, ask, say
        self._server = RecordedServer(connect, configured, plan.folder, plan.callback_url, say)
        self._asked: set[str] = set()
        self.record = self._server.record
        self.record.finished, self.record.failed = plan.finished, plan.failed

    def run(self) -> None:
        """Run all steps. What cannot be tried is left out, and the record says why it ended early."""
        try:
            self._reach()
            self._create()
            self._upload_and_wait(Step.APPEND, Action.APPEND)
            self._upload_and_wait(Step.RELOAD, Action.RELOAD)
            self._second_upload()
            if self._plan.callback_url:
                self._call_back()
            self._upload_and_wait(Step.DAMAGED, Action.RELOAD, survey()[:-20])
        except EndedError as e:
            self.record.ended = str(e)
            self._say(f"Cannot go on: {e}")
            if not self.record.read(Step.CREATE, upload=True):
                return
        self._server.upload(Step.NO_TARGET, Action.APPEND, f"{NOWHERE}-{secrets.token_hex(4)}")
        self._with_made_up_token()

    def _reach(self) -> None:
        found = self._server.poll(Step.REACH, NOWHERE)
        kinds = (errors.ServerUnreachableError, errors.UntrustedCertificateError, errors.TokenRefusedError)
        if isinstance(found, kinds):
            raise EndedError(found.paragraph)

    def _create(self) -> None:
        job_id = self._accepted(Step.CREATE, Action.CREATE, self._plan.folder)
        job = self._wait(Step.CREATE, job_id)
        done = job is not None and job.state is JobState.SUCCEEDED
        found = job.database if job and done else ""
        if done and not found:
            found = self._plan.database or self._ask_database()
            self.record.database_given = bool(found)
        if found == self._plan.folder:
            raise EndedError(f"the job reports the folder's hash as that of its database, {found}")
        self.record.database = found
        if not found:
            raise EndedError(self._why_no_database(job))

    def _why_no_database(self, job: Job | None) -> str:
        if job is None:
            return f"create: its job was not seen to finish within {self._plan.timeout:g} s"
        if job.state.failed:
            return f"create: its job ended as {job.status!r}"
        return "create: its job does not report the new database's hash: give --database"

    def _ask_database(self) -> str:
        if self._ask is None:
            return ""
        name = self.record.name.rpartition(".")[0]
        answer = self._ask(
            f"The server does not report the new database's hash. Look for {name!r} in DATATILE's Drive.\n"
            "A reload replaces all its data. Its hash (empty: stop here): "
        ).strip()
        return answer if is_hash(answer) else ""

    def _upload_and_wait(self, step: Step, action: Action, content: bytes | None = None) -> None:
        self._finish(step, self._accepted(step, action, self.record.database, content))

    def _finish(self, step: Step, job_id: str) -> None:
        if self._wait(step, job_id) is None:
            raise EndedError(f"{step.value}: its job was not seen to finish within {self._plan.timeout:g} s")

    def _second_upload(self) -> None:
        first = self._accepted(Step.BUSY, Action.RELOAD, self.record.database)
        for _ in range(_SECOND_ATTEMPTS):
            second = self._server.upload(Step.BUSY, Action.RELOAD, self.record.database)
            now = self._server.poll(Step.BUSY, first)
            running = isinstance(now, Job) and not now.state.finished
            self.record.busy_while = now.status if running and isinstance(now, Job) else ""
            if not running or not isinstance(second, errors.RateLimitedError):
                break
            time.sleep(min(second.retry_after or 1.0, _LONGEST_GAP))
        self._finish(Step.BUSY, first)
        if isinstance(second, Job):
            self._finish(Step.BUSY, second.id)

    def _call_back(self) -> None:
        self._upload_and_wait(Step.CALLBACK, Action.RELOAD)
        if self._ask:
            answer = self._ask("Was the callback URL called for this job? [y/n/?] ").strip().lower()
            self.record.callback = {"y": "received", "n": "missing"}.get(answer[:1], "")

    def _with_made_up_token(self) -> None:
        stranger = replace(self._server.settings, token=secrets.token_hex(20))
        # The database of this run, so that a server that takes any token changes nothing else.
        target = self.record.database or f"{NOWHERE}-{secrets.token_hex(4)}"
        action = Action.RELOAD if self.record.database else Action.APPEND
        accepted = self._server.upload(Step.STRANGER, action, target, settings=stranger)
        if isinstance(accepted, Job):
            self._wait(Step.STRANGER, accepted.id)

    # One upload

    def _accepted(self, step: Step, action: Action, target: str, content: bytes | None = None) -> str:
        """Upload until it is accepted, and return the job's id."""
        retry = Retry(action, time.monotonic() + self._plan.timeout)
        while True:
            found = self._server.upload(step, action, target, content)
            if isinstance(found, Job):
                return found.id
            if self.record.exchanges[-1].succeeded:
                if job_id := self._server.find_job(self.record.exchanges[-1]):
                    return job_id
                raise EndedError(f"{step.value}: no job id can be read from the response")
            try:
                delay = retry.after(found, time.monotonic())
            except errors.DatatileError as e:
                raise EndedError(f"{step.value}: {described(found, upload=True)}") from e
            self._say(f"{step.value}: next attempt in {delay:.0f} s")
            time.sleep(delay)

    # One job

    def _wait(self, step: Step, job_id: str) -> Job | None:
        """Poll a job until it has finished, and return it; None if it was not seen to in time."""
        begun = changed = time.monotonic()
        gap, last, looked = _FIRST_GAP, "", False
        while True:
            self._server.poll(step, job_id)
            self._learn(job_id)
            exchange = self.record.exchanges[-1]
            found, now = reading(self._server.settings.server, exchange), time.monotonic()
            text = described(found, upload=False)
            if text != last:
                self._say(f"{step.value}: {text}")
                last, changed = text, now
            if isinstance(found, Job) and found.state.finished:
                self._learn(job_id, ended=True)
                return found
            lost = isinstance(found, errors.PermanentError) or (exchange.succeeded and not learning.is_json(exchange))
            if lost and now - begun > min(_PATIENCE, self._plan.timeout / 2):
                if looked or not self._server.find_path(job_id):
                    return None
                looked = True
            if now - begun > self._plan.timeout:
                self._learn(job_id, ended=True)
                return None
            if now - changed > _ASK_AFTER:
                self._ask_word(job_id, found)
            time.sleep(max(0.0, min(gap, begun + self._plan.timeout - now)))
            gap = min(gap * 1.5, max(_LONGEST_GAP, (now - begun) / _POLLS))

    def _ask_word(self, job_id: str, found: Reading) -> None:
        """Ask what a status means that has not changed for some time, once."""
        text = found.status if isinstance(found, Job) and found.state is JobState.UNKNOWN else ""
        if isinstance(found, errors.UnexpectedResponseError):
            polls = self.record.polls(job_id)
            _, fields = learning.status_fields(self._server.settings.server, polls, ())
            text = learning.histories(polls)[fields[0]][-1] if len(fields) == 1 else ""
        if self._ask is None or not text or text in self._asked:
            return
        self._asked.add(text)
        page = self._server.settings.server.page_url(job_id)
        answer = self._ask(f"The job shows {text!r} for some time. Has it succeeded? See {page} [y/n/failed] ").lower()
        if answer.startswith("y"):
            self.record.finished += (text,)
        elif answer.startswith("f"):
            self.record.failed += (text,)

    def _learn(self, job_id: str, *, ended: bool = False) -> None:
        record, polls = self.record, self.record.polls(job_id)
        confirmed = (*record.finished, *record.failed)
        self._server.use(learning.learn_status_field(self._server.settings.server, polls, confirmed))
        words = learning.learn_words(
            self._server.settings.server, [*record.uploads(job_id), *polls], record.finished, record.failed
        )
        # Which of two words is the earlier one is known only at the end.
        new = {text: state for text, state in words.items() if ended or JobState(state).finished}
        if new:
            self._server.use({"status_map": {**record.learned.get("status_map", {}), **new}})
