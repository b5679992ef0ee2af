"""What a rehearsal has found about each row of ``docs/contract.md``, and the options that follow: pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from datatile_provider.api import errors
from datatile_provider.api.models import Job
from datatile_provider.api.rejections import NOT_TRUSTED
from datatile_provider.api.states import JobState
from datatile_provider.cli.rehearsal import learning
from datatile_provider.cli.rehearsal.exchange import GOOD, Exchange, Reading, Record, Step, described
from datatile_provider.cli.rehearsal.survey import ROWS

#: The options that say how a server speaks, as opposed to the way to it.
SPEECH = (
    *("api_path", "job_path", "job_id_field", "status_field", "status_map", "callback_field"),
    *("rows_field", "database_field", "status_codes"),
)
_DAMAGED = "damaged file"
_STATES_SEEN = (Step.CREATE, Step.APPEND, Step.RELOAD, Step.BUSY, Step.CALLBACK, Step.DAMAGED)


class Verdict(str, Enum):
    """What is known about a row. The value is for people."""

    CONFIRMED = "confirmed"
    DIFFERS = "differs: set this"
    UNSEEN = "could not be seen"


@dataclass(frozen=True, slots=True)
class Row:
    """
    A row of the result.

    :param topic: the topic, as in ``docs/contract.md``.
    :param seen: what was seen, and what to do if that is not clear.
    :param option: the option to set, when the server differs.
    :param needed: whether an upload and a wait need it.
    """

    topic: str
    verdict: Verdict
    seen: str
    option: Mapping[str, Any] = field(default_factory=dict)
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Findings:
    """
    The result of a rehearsal.

    :param rows: the rows of ``docs/contract.md``, and what else was seen.
    :param extra: all options that say how the server speaks: those of the connection, and those to set.
    """

    rows: Sequence[Row]
    extra: Mapping[str, Any]

    @property
    def differs(self) -> bool:
        """Whether an option must be set."""
        return any(row.option for row in self.rows)

    @property
    def passed(self) -> bool:
        """Whether all that is needed is confirmed."""
        return all(row.verdict is Verdict.CONFIRMED for row in self.rows if row.needed)


def findings(record: Record) -> Findings:
    """Return what a record shows, however far the run came."""
    rows = [row_of(record) for row_of in _ROWS]
    extra = {**record.configured}
    for row in rows:
        for name, value in row.option.items():
            known = extra.get(name)
            extra[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return Findings(rows, extra)


def _row(
    topic: str, seen: str, *, confirmed: bool, option: Mapping[str, Any] | None = None, needed: bool = False
) -> Row:
    verdict = Verdict.DIFFERS if option else Verdict.CONFIRMED if confirmed else Verdict.UNSEEN
    return Row(topic, verdict, seen, option or {}, needed)


def _last(record: Record, *steps: Step) -> str:
    """Return the last response to an upload in some steps, in plain words."""
    found = record.read(*steps, upload=True)
    return described(found[-1][1], upload=True) if found else "not sent"


def _path(record: Record) -> Row:
    codes = sorted({e.response.status for e, _ in record.read(*GOOD, upload=True) if e.succeeded and e.response})
    if codes:
        return _row("path", f"uploads get {', '.join(map(str, codes))}", confirmed=True, needed=True)
    return _row("path", f"create: {_last(record, Step.CREATE)}", confirmed=False, needed=True)


def _succeeded(record: Record) -> list[Step]:
    return [step for step in GOOD if any(job.state is JobState.SUCCEEDED for job in record.jobs(step))]


def _body(record: Record) -> Row:
    done = bool(_succeeded(record))
    return _row("body", "a job read the file in the part dataset" if done else "no job has read a file", confirmed=done)


def _action(record: Record) -> Row:
    done = _succeeded(record)
    parts = [f"{s.value}: {'succeeded' if s in done else _last(record, s)}" for s in GOOD]
    return _row("action", "; ".join(parts), confirmed=len(done) == len(GOOD), needed=True)


def _target(record: Record) -> Row:
    note = "The wrong kind of target was not tried"
    return _code(record, "target", "not_found", errors.NotFoundError, record.read(Step.NO_TARGET, upload=True), note)


def _response(record: Record) -> Row:
    accepted = [e for e, found in record.read(*GOOD, upload=True) if isinstance(found, Job)]
    if accepted:
        option = {n: record.learned[n] for n in ("job_id_field",) if n in record.learned}
        where = next(iter(option.values()), record.server.job_id_field or "a usual name")
        polled = any(e.succeeded for e, _ in record.read(*GOOD, upload=False))
        seen = f"the job's id is at {where}" + ("" if polled else ", but no poll has confirmed it")
        return _row("response", seen, confirmed=polled, option=option, needed=True)
    answered = [e for e, _ in record.read(*GOOD, upload=True) if e.succeeded]
    if not answered:
        return _row("response", f"create: {_last(record, Step.CREATE)}", confirmed=False, needed=True)
    found = learning.id_candidates(record.server, answered[-1])
    options = [f"{learning.as_json({'job_id_field': path})} (here {text!r})" for path, text in found]
    seen = "no id could be read" + (
        f". Candidates: {'; '.join(options)}" if options else ", and no field looks like one"
    )
    return _row("response", seen, confirmed=False, needed=True)


def _callback(record: Record) -> Row:
    sent = record.read(Step.CALLBACK, upload=True)
    if not sent:
        return _row("callback", "not tried: give --callback-url", confirmed=False)
    accepted = isinstance(sent[-1][1], Job)
    hint = "Look whether the URL was called. If it was not, set callback_field"
    said = {
        "received": "the URL was called",
        "missing": "the URL was not called: set callback_field to the form field that the server reads",
    }
    seen = said.get(record.callback, hint) if accepted else described(sent[-1][1], upload=True)
    return _row("callback", seen, confirmed=accepted and record.callback == "received")


def _header(record: Record) -> Row:
    accepted = any(isinstance(found, Job) for _, found in record.read(*GOOD, upload=True))
    rejected = record.read(Step.STRANGER, upload=True)
    seen = "the connection's token is accepted" if accepted else "no upload was accepted"
    if rejected and isinstance(rejected[-1][1], Job):
        seen += ", but so is a made-up one: the server does not look at tokens"
        accepted = False
    return _row("header", seen, confirmed=accepted)


def _token(record: Record) -> Row:
    return _code(record, "token", "token", errors.TokenRefusedError, record.read(Step.STRANGER, upload=True))


def _roles(record: Record) -> Row:
    refused = [(e, f) for e, f in record.read(*GOOD, upload=True) if isinstance(f, errors.RoleMissingError)]
    if refused:
        return _row("roles", f"{refused[-1][0].step.value}: {described(refused[-1][1], upload=True)}", confirmed=False)
    return _row("roles", "no role is missing, so no such rejection was seen", confirmed=False)


def _one_at_a_time(record: Record) -> Row:
    topic = "one at a time"
    sent = record.read(Step.BUSY, upload=True)
    if len(sent) < 2:
        return _row(topic, "not tried: it needs a database", confirmed=False)
    if not isinstance(sent[-1][1], errors.DestinationBusyError) and not record.busy_while:
        return _row(topic, "the first job had finished before the second upload", confirmed=False)
    if isinstance(sent[-1][1], Job):
        seen = f"the server accepted a second upload while the first job was {record.busy_while!r}"
        return _row(topic, seen, confirmed=False)
    return _code(record, topic, "busy", errors.DestinationBusyError, sent)


def _limit(record: Record, topic: str, kind: type[errors.DatatileError], otherwise: str) -> Row:
    found = [f for _, f in record.read(upload=True) if isinstance(f, kind)]
    return _row(topic, described(found[-1], upload=True) if found else otherwise, confirmed=bool(found))


def _polling(record: Record) -> Row:
    polls = [e for e, _ in record.read(*_STATES_SEEN, upload=False)]
    answered = [e for e in polls if e.succeeded]
    option = {n: record.learned[n] for n in ("job_path",) if n in record.learned}
    if answered:
        return _row("polling", f"jobs are at {record.server.job_path}", confirmed=True, option=option, needed=True)
    seen = "no job could be polled"
    if polls:
        seen = f"{described(record.read(*_STATES_SEEN, upload=False)[-1][1], upload=False)}. Set job_path"
    return _row("polling", seen, confirmed=False, needed=True)


def _status(record: Record) -> Row:
    polls = record.read(*_STATES_SEEN, upload=False)
    option = {n: record.learned[n] for n in ("status_field",) if n in record.learned}
    # A response may be unclear for a moment, but the last one of a job must be clear.
    read = [found for e, found in polls if isinstance(found, Job)]
    if read and isinstance(polls[-1][1], Job):
        where = record.server.status_field or "a usual name"
        return _row("status", f"the status is at {where}", confirmed=True, option=option, needed=True)
    answered = [e for e, _ in polls if e.succeeded]
    if not answered:
        return _row("status", "no job could be polled", confirmed=False, needed=True)
    history = learning.histories(record.polls(answered[-1].job_id))
    sure, maybe = learning.status_fields(record.server, record.polls(answered[-1].job_id), record.finished)
    fields = [
        f"{learning.as_json({'status_field': p})} ({' → '.join(history[p])})" for p in dict.fromkeys(sure + maybe)
    ]
    unread = [f for _, f in polls if isinstance(f, errors.DatatileError)]
    why = unread[-1].what if unread else ""
    seen = why + (f". Candidates: {'; '.join(fields[:6])}" if fields else ". No field changed during the job")
    return _row("status", seen, confirmed=False, needed=True)


def _states(record: Record) -> Row:
    seen = {j.status: j.state for j in _statuses(record, *GOOD, Step.BUSY, Step.CALLBACK) if j.status}
    words = sorted(seen, key=lambda word: list(JobState).index(seen[word]))
    failed = [j.status for j in _statuses(record, Step.DAMAGED) if j.state.failed]
    learned = {w: s for w, s in record.learned.get("status_map", {}).items() if w not in failed}
    done = bool(_succeeded(record))
    shown = " → ".join(map(repr, words)) or "no status was read"
    if done:
        return _row("states", shown, confirmed=True, option=_map(learned), needed=True)
    word = repr(words[-1]) if words else "a word"
    guess = f"No job has succeeded. If {word} means that it has, run again with --finished {word}"
    return Row("states", Verdict.UNSEEN, f"{shown}. {guess}", _map(learned), needed=True)


def _statuses(record: Record, *steps: Step) -> list[Job]:
    both = record.read(*steps, upload=True) + record.read(*steps, upload=False)
    return [found for _, found in both if isinstance(found, Job)]


def _map(words: Mapping[str, str]) -> dict[str, Any]:
    return {"status_map": dict(words)} if words else {}


def _damaged(record: Record) -> Row:
    sent = record.read(Step.DAMAGED, upload=True)
    if not sent:
        return _row(_DAMAGED, "not tried: it needs a database", confirmed=False)
    found = sent[-1][1]
    if not isinstance(found, Job):
        return _code(record, _DAMAGED, "rejected", errors.PermanentError, sent)
    job = record.jobs(Step.DAMAGED)[-1]
    learned = {w: s for w, s in record.learned.get("status_map", {}).items() if w == job.status and s == "FAILED"}
    if job.state.failed:
        seen = f"its job ended as {job.status!r}" + (f": {job.message}" if job.message else "")
        return _row(_DAMAGED, seen, confirmed=True, option=_map(learned))
    if job.state is JobState.SUCCEEDED:
        return _row(_DAMAGED, f"its job ended as {job.status!r}: the server takes damaged files", confirmed=False)
    guess = (
        f". If {job.status!r} means that it has failed, run again with --failed {job.status!r}" if job.status else ""
    )
    return _row(_DAMAGED, f"its job was last {job.status!r}{guess}", confirmed=False)


def _log(record: Record) -> Row:
    known = record.server.log_url
    seen = "a page for people: open it once" + ("" if known else ", and set processing_log_url")
    return _row("processing log", seen, confirmed=False)


def _rows(record: Record) -> Row:
    jobs = [job for job in record.jobs(*GOOD) if job.state is JobState.SUCCEEDED]
    if jobs and all(job.rows == ROWS for job in jobs):
        return _row("rows", f"finished jobs report {ROWS} rows", confirmed=True)
    fields = learning.fields_with([p for j in jobs for p in record.polls(j.id)[-1:]], str(ROWS))
    reported = f"jobs report {', '.join(str(job.rows) for job in jobs)} rows for {ROWS}" if jobs else "no job finished"
    # After one job only, the number may be that of all rows.
    if len(fields) == 1 and len(jobs) > 1:
        return _row("rows", f"{fields[0]} is {ROWS} in each", confirmed=True, option={"rows_field": fields[0]})
    more = f". Candidates for rows_field: {', '.join(fields)}" if fields else ""
    return _row("rows", f"{reported}{more}", confirmed=False)


def _database(record: Record) -> Row:
    jobs = [job for job in record.jobs(Step.CREATE) if job.state is JobState.SUCCEEDED]
    if record.database and not record.database_given:
        used = Step.APPEND in _succeeded(record)
        return _row("database", "the job of a create reports its hash", confirmed=used)
    last = [poll for job in jobs for poll in record.polls(job.id)[-1:]]
    fields = learning.fields_with(last, record.database) if record.database else []
    if len(fields) == 1:
        return _row("database", f"the hash is at {fields[0]}", confirmed=True, option={"database_field": fields[0]})
    seen = "the job of a create does not report its hash" if jobs else "no create has finished"
    return _row("database", f"{seen}. Give --database" if jobs and not record.database else seen, confirmed=False)


def _no_job(record: Record) -> Row:
    found = record.read(Step.REACH, upload=False)
    seen = described(found[-1][1], upload=False) if found else "not tried"
    return _row("unknown job", seen, confirmed=bool(found) and isinstance(found[-1][1], errors.NotFoundError))


def _code(
    record: Record,
    topic: str,
    meaning: str,
    kind: type[errors.DatatileError],
    sent: Sequence[tuple[Exchange, Reading]],
    note: str = "",
) -> Row:
    """Return the row of a rejection: its code is read as what was provoked, or it is to be mapped."""
    after = f". {note}" if note else ""
    if not sent:
        return _row(topic, f"not tried{after}", confirmed=False)
    exchange, found = sent[-1]
    seen = f"{described(found, upload=True)}{after}"
    # The most general kind is that of a rejection for any other reason.
    if type(found) is kind or (kind is not errors.PermanentError and isinstance(found, kind)):
        return _row(topic, seen, confirmed=True)
    code = exchange.response.status if exchange.response else 0
    if not 400 <= code < 499 or code in NOT_TRUSTED:
        return _row(topic, seen, confirmed=False)
    others = [step.value for step, c in learning.rejection_codes(record.exchanges).items() if c == code]
    others.remove(exchange.step.value)
    if others:
        return _row(topic, f"{seen}. The code also stands for: {', '.join(others)}", confirmed=False)
    if meaning == "not_found" and isinstance(found, errors.RoleMissingError):
        return _row(topic, f"{seen}. It may also be a missing permission", confirmed=False)
    general = ". The code is general: any other rejection with it would be read so too" if code == 400 else ""
    return _row(topic, f"{seen}{general}", confirmed=False, option={"status_codes": {str(code): meaning}})


_ROWS: Sequence[Callable[[Record], Row]] = (
    *(_path, _body, _action, _target, _response, _callback, _header, _token, _roles, _one_at_a_time),
    lambda record: _limit(record, "size", errors.FileTooLargeError, "only small files were sent"),
    lambda record: _limit(record, "rate", errors.RateLimitedError, "no upload came too fast"),
    *(_polling, _status, _states, _log, _rows, _database, _no_job, _damaged),
)
