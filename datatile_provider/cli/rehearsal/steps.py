"""The steps of a rehearsal: what is sent to the server, one thing after the other."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from datatile_provider.api import errors
from datatile_provider.api.client import DatatileClient
from datatile_provider.api.models import Action, Job, Upload
from datatile_provider.api.responses import Response
from datatile_provider.api.retry import Retry
from datatile_provider.api.settings import Settings
from datatile_provider.api.states import JobState
from datatile_provider.api.validation import is_hash
from datatile_provider.cli.rehearsal import learning
from datatile_provider.cli.rehearsal.exchange import Exchange, Reading, Record, Step, described, reading
from datatile_provider.cli.rehearsal.survey import dataset, survey

#: Seconds between the polls of a job: the first, and the most. Short jobs must show all of their states.
_FIRST_GAP, _LONGEST_GAP = 0.2, 5.0
#: Seconds for which the server may reject the polls of a new job: not each of its machines may know it yet.
_PATIENCE = 10.0
#: Seconds with the same unknown status after which a person is asked.
_ASK_AFTER = 20.0
_SECOND_ATTEMPTS = 3
_NOWHERE = "rehearsal-nowhere"


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


class _Recorder(DatatileClient):
    """A client that keeps the raw response to its last request."""

    response: Response | None = None
    whole_body_sent: bool = False

    def _ask(self, method: str, url: str, **request: Any) -> Response:
        body = request.get("data")
        try:
            self.response = super()._ask(method, url, **request)
            return self.response
        finally:
            self.whole_body_sent = body is None or body.complete


class Rehearsal:
    """
    One rehearsal. Its record is complete at any moment, also when :meth:`run` was interrupted.

    :param connect: returns the connection's settings with further options.
    :param configured: the options of the connection that say how the server speaks.
    :param ask: asks a person, and returns the answer; None if nobody can be asked.
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
        self._connect, self._plan, self._ask, self._say = connect, plan, ask, say
        self._settings = connect({})
        self._asked: set[str] = set()
        self.record = Record(
            self._settings.server,
            configured,
            plan.folder,
            f"rehearsal-{secrets.token_hex(4)}.sav",
            finished=plan.finished,
            failed=plan.failed,
        )

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
        self._upload(Step.NO_TARGET, Action.APPEND, f"{_NOWHERE}-{secrets.token_hex(4)}")
        self._with_made_up_token()

    def _reach(self) -> None:
        found = self._poll(Step.REACH, _NOWHERE)
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
            second = self._upload(Step.BUSY, Action.RELOAD, self.record.database)
            now = self._poll(Step.BUSY, first)
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
        stranger = replace(self._settings, token=secrets.token_hex(20))
        # The database of this run, so that a server that takes any token changes nothing else.
        target = self.record.database or f"{_NOWHERE}-{secrets.token_hex(4)}"
        action = Action.RELOAD if self.record.database else Action.APPEND
        accepted = self._upload(Step.STRANGER, action, target, settings=stranger)
        if isinstance(accepted, Job):
            self._wait(Step.STRANGER, accepted.id)

    # One upload

    def _accepted(self, step: Step, action: Action, target: str, content: bytes | None = None) -> str:
        """Upload until it is accepted, and return the job's id."""
        retry = Retry(action, time.monotonic() + self._plan.timeout)
        while True:
            found = self._upload(step, action, target, content)
            if isinstance(found, Job):
                return found.id
            if self.record.exchanges[-1].succeeded:
                if job_id := self._find_job(self.record.exchanges[-1]):
                    return job_id
                raise EndedError(f"{step.value}: no job id can be read from the response")
            try:
                delay = retry.after(found, time.monotonic())
            except errors.DatatileError as e:
                raise EndedError(f"{step.value}: {described(found, upload=True)}") from e
            self._say(f"{step.value}: next attempt in {delay:.0f} s")
            time.sleep(delay)

    def _upload(
        self, step: Step, action: Action, target: str, content: bytes | None = None, settings: Settings | None = None
    ) -> Reading:
        file = dataset(self.record.name, survey() if content is None else content)
        upload = Upload(action, target, file.name, file.size)
        callback = self._plan.callback_url if step is Step.CALLBACK else None
        parts = (*((self._settings.server.callback_field,) if callback else ()), "dataset")
        exchange = Exchange(step, "POST", self._settings.server.upload_url(action, target), parts, upload)
        return self._exchange(exchange, settings, lambda client: client.upload(upload, file, callback))

    def _poll(self, step: Step, job_id: str, settings: Settings | None = None) -> Reading:
        url = (settings or self._settings).server.job_url(job_id)
        return self._exchange(
            Exchange(step, "GET", url, job_id=job_id), settings, lambda client: client.get_job(job_id)
        )

    def _exchange(
        self, exchange: Exchange, settings: Settings | None, send: Callable[[DatatileClient], Job]
    ) -> Reading:
        client = _Recorder(settings or self._settings)
        error = None
        try:
            send(client)
        except errors.DatatileError as e:
            error = e
        finally:
            # Also when a signal interrupts the request: the server may have the upload.
            made = replace(exchange, response=client.response, error=error, whole_body_sent=client.whole_body_sent)
            self.record.exchanges.append(made)
        found = reading((settings or self._settings).server, made)
        if exchange.upload:
            self._say(f"{exchange.step.value}: {described(found, upload=True)}")
        return found

    # One job

    def _wait(self, step: Step, job_id: str) -> Job | None:
        """Poll a job until it has finished, and return it; None if it was not seen to in time."""
        begun = changed = time.monotonic()
        gap, last, looked = _FIRST_GAP, "", False
        while True:
            self._poll(step, job_id)
            self._learn(job_id)
            exchange = self.record.exchanges[-1]
            found, now = reading(self._settings.server, exchange), time.monotonic()
            text = described(found, upload=False)
            if text != last:
                self._say(f"{step.value}: {text}")
                last, changed = text, now
            if isinstance(found, Job) and found.state.finished:
                self._learn(job_id, ended=True)
                return found
            lost = isinstance(found, errors.PermanentError) or (exchange.succeeded and not learning.is_json(exchange))
            if lost and now - begun > min(_PATIENCE, self._plan.timeout / 2):
                if looked or not self._find_path(job_id):
                    return None
                looked = True
            if now - begun > self._plan.timeout:
                self._learn(job_id, ended=True)
                return None
            if now - changed > _ASK_AFTER:
                self._ask_word(job_id, found)
            time.sleep(gap)
            gap = min(gap * 1.5, _LONGEST_GAP)

    def _ask_word(self, job_id: str, found: Reading) -> None:
        """Ask what a status means that has not changed for some time, once."""
        text = found.status if isinstance(found, Job) and found.state is JobState.UNKNOWN else ""
        if isinstance(found, errors.UnexpectedResponseError):
            polls = self.record.polls(job_id)
            _, fields = learning.status_fields(self._settings.server, polls, ())
            text = learning.histories(polls)[fields[0]][-1] if len(fields) == 1 else ""
        if self._ask is None or not text or text in self._asked:
            return
        self._asked.add(text)
        page = self._settings.server.page_url(job_id)
        answer = self._ask(f"The job shows {text!r} for some time. Has it succeeded? See {page} [y/n/failed] ").lower()
        if answer.startswith("y"):
            self.record.finished += (text,)
        elif answer.startswith("f"):
            self.record.failed += (text,)

    # Learning

    def _learn(self, job_id: str, *, ended: bool = False) -> None:
        record, polls = self.record, self.record.polls(job_id)
        confirmed = (*record.finished, *record.failed)
        self._use(learning.learn_status_field(self._settings.server, polls, confirmed))
        words = learning.learn_words(
            self._settings.server, [*record.uploads(job_id), *polls], record.finished, record.failed
        )
        # Which of two words is the earlier one is known only at the end.
        new = {text: state for text, state in words.items() if ended or JobState(state).finished}
        if new:
            self._use({"status_map": {**record.learned.get("status_map", {}), **new}})

    def _use(self, options: Mapping[str, Any]) -> None:
        if not options:
            return
        learned = {**self.record.learned, **options}
        try:
            settings = self._connect(learned)
        except errors.InvalidInputError:
            return
        self.record.learned, self._settings, self.record.server = learned, settings, settings.server
        for name, value in options.items():
            self._say(f"learned: {learning.as_json({name: value})}")

    def _find_job(self, exchange: Exchange) -> str:
        """Return the job's id from a response that names it in an unusual field: the one that can be polled."""
        candidates = learning.id_candidates(self._settings.server, exchange)
        paths = dict.fromkeys(
            path for _, job_id in candidates for path in learning.job_paths(self._settings.server, exchange, job_id)
        )
        for path in ("", *paths):
            known = [(field, job_id) for field, job_id in candidates if self._is_job_at(path, job_id)]
            if len({job_id for _, job_id in known}) == 1:
                self._use({"job_id_field": known[0][0], **({"job_path": path} if path else {})})
                return known[0][1]
        return ""

    def _find_path(self, job_id: str) -> bool:
        """Find the address of a job that is not at ``job_path``, and use it."""
        upload = next((e for e in reversed(self.record.exchanges) if e.upload), None)
        for path in learning.job_paths(self._settings.server, upload, job_id):
            if self._is_job_at(path, job_id):
                self._use({"job_path": path})
                return True
        return False

    def _is_job_at(self, path: str, job_id: str) -> bool:
        """Return whether the server knows a job at a path, and no job with a made-up id."""
        learned = {**self.record.learned, **({"job_path": path} if path else {})}
        try:
            settings = self._connect(learned)
        except errors.InvalidInputError:
            return False
        self._poll(Step.FIND, job_id, settings)
        if not learning.is_about(self.record.exchanges[-1], job_id):
            return False
        self._poll(Step.FIND, _NOWHERE, settings)
        return not self.record.exchanges[-1].succeeded
