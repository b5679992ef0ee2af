"""What a server's own responses say about the options of a connection: pure, and total over any response."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

from datatile_provider.api.models import Job, ServerConfig
from datatile_provider.api.responses import parse, word
from datatile_provider.api.states import JobState, folded, state_of
from datatile_provider.api.validation import is_job_id
from datatile_provider.cli.rehearsal.exchange import Exchange, Step, reading

_MOST_IDS = 5
_ID_NAME = re.compile(r"id$|_id|job|task|ticket|number|receipt|queue|process", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d.*|\d\d:\d\d.*")
#: Paths that APIs use for the status of a job, tried only with the id of a job of the rehearsal itself.
_JOB_PATHS = (
    "{api_path}/jobs/{job_id}",
    "{api_path}/job/{job_id}",
    "{api_path}/jobs/{job_id}/status",
    "{api_path}/job/{job_id}/status",
    "{api_path}/tasks/{job_id}",
    "{api_path}/task/{job_id}",
    "{api_path}/status/{job_id}",
    "{api_path}/upload/{job_id}",
    "{api_path}/uploads/{job_id}",
    "{api_path}/upload/status/{job_id}",
)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text, whole number and flag in nested JSON objects with its dotted path, as options name it."""
    if not isinstance(value, dict):
        return
    for name, found in value.items():
        where = f"{path}.{name}" if path else name
        if not name or name != name.strip() or "." in name or not name.isprintable():
            continue
        if text := str(found).lower() if isinstance(found, bool) else word(found):
            yield where, text
        yield from leaves(found, where)


def content(exchange: Exchange) -> Any:
    """Return the JSON value of a response, or None."""
    return parse(exchange.response.body) if exchange.response else None


def id_candidates(server: ServerConfig, exchange: Exchange) -> list[tuple[str, str]]:
    """Return the fields of an upload's response that may hold the job's id, with their values, best first."""
    upload = exchange.upload
    echoed = {upload.target_hash, upload.name, upload.name.rpartition(".")[0], str(upload.size)} if upload else set()
    found = [
        (path, text)
        for path, text in leaves(content(exchange))
        if is_job_id(text)
        and text not in echoed
        and any(c.isdigit() for c in text)
        and not _DATE.fullmatch(text)
        and state_of(server, text) is JobState.UNKNOWN
    ]
    return sorted(found, key=lambda field: not _ID_NAME.search(field[0].rpartition(".")[2]))[:_MOST_IDS]


def job_paths(server: ServerConfig, exchange: Exchange | None, job_id: str) -> list[str]:
    """Return values for ``job_path`` to try for a job: an address in the upload's response first, then usual paths."""
    texts = [text for _, text in leaves(content(exchange))] if exchange else []
    if exchange and exchange.response:
        texts.insert(0, exchange.response.location)
    named = [path for text in texts if (path := _path_of(server, exchange.url if exchange else "", text, job_id))]
    return [path for path in dict.fromkeys([*named, *_JOB_PATHS]) if path != server.job_path]


def _path_of(server: ServerConfig, base: str, text: str, job_id: str) -> str:
    """Return the path of an address on this server, with ``{job_id}`` in place of the id, or ``""``."""
    if not job_id or job_id not in text or "/" not in text:
        return ""
    try:
        address = urljoin(base, text)
    except ValueError:
        return ""
    # Nothing is ever sent to another server: it would get the token.
    prefix = f"{server.url}/"
    path = address[len(prefix) :] if address.startswith(prefix) else ""
    before, _, after = path.rpartition(job_id)
    valid = before.endswith(("/", "=")) and re.fullmatch(r"[^\s#{}]+", path) and ".." not in path
    return f"{before}{{job_id}}{after}" if valid else ""


def is_json(exchange: Exchange) -> bool:
    """Return whether a response is a JSON object."""
    return isinstance(content(exchange), dict)


def is_about(exchange: Exchange, job_id: str) -> bool:
    """Return whether a response is about a job: a JSON object in a 2xx response that holds its id or any state."""
    value = content(exchange) if exchange.succeeded else None
    texts = [text for _, text in leaves(value)]
    server = ServerConfig("")
    return job_id in texts or any(state_of(server, text) is not JobState.UNKNOWN for text in texts)


def histories(polls: Sequence[Exchange]) -> dict[str, list[str]]:
    """Return the values of each field over the polls of one job, without repetitions in a row."""
    found: dict[str, list[str]] = {}
    for exchange in polls:
        for path, text in leaves(content(exchange)) if exchange.succeeded else ():
            values = found.setdefault(path, [])
            if not values or values[-1] != text:
                values.append(text)
    return found


def status_fields(
    server: ServerConfig, polls: Sequence[Exchange], confirmed: Sequence[str]
) -> tuple[list[str], list[str]]:
    """
    Return the fields that hold the status, and those that may hold it: their values changed.

    :param polls: the polls of one job, in order.
    :param confirmed: words that a person has confirmed as final ones.
    """
    seen = histories(polls)
    final = {folded(found) for found in confirmed}
    named = [path for path, texts in seen.items() if folded(texts[-1]) in final]
    if named:
        return named, []

    def is_status(texts: list[str]) -> bool:
        states = [state_of(server, text) for text in texts]
        return JobState.UNKNOWN not in states and (len(texts) > 1 or states[-1].finished)

    sure = [path for path, texts in seen.items() if is_status(texts)]
    changed = [p for p, texts in seen.items() if len(texts) > 1 and not any(_is_measure(text) for text in texts)]
    return sure, changed


def _is_measure(text: str) -> bool:
    return bool(_DATE.fullmatch(text) or re.fullmatch(r"[-+.\d]+%?", text))


def learn_status_field(server: ServerConfig, polls: Sequence[Exchange], confirmed: Sequence[str]) -> dict[str, Any]:
    """Return ``status_field`` when the present options read no status, and exactly one field holds it."""
    if not polls or isinstance(reading(server, polls[-1]), Job):
        return {}
    sure, _ = status_fields(server, polls, confirmed)
    if len(sure) != 1:
        return {}
    found = reading(replace(server, status_field=sure[0]), polls[-1])
    return {"status_field": sure[0]} if isinstance(found, Job) else {}


def learn_words(
    server: ServerConfig, exchanges: Sequence[Exchange], finished: Sequence[str], failed: Sequence[str]
) -> dict[str, str]:
    """
    Return the states of the words of one job that no table lists.

    A word that another one followed is not final. Which word is final, only a person can say.

    :param exchanges: the upload and its polls, in order.
    """
    words: list[str] = []
    for exchange in exchanges:
        found = reading(server, exchange)
        if isinstance(found, Job) and found.status and words[-1:] != [found.status]:
            words.append(found.status)
    learned: dict[str, str] = {}
    for place, text in enumerate(words):
        state = state_of(server, text)
        if place < len(words) - 1 and state is JobState.UNKNOWN:
            # Both mean "not finished". The first of two is the queue's.
            learned[text] = "QUEUED" if place == 0 and len(words) > 2 else "RUNNING"
        for said, meant in ((finished, JobState.SUCCEEDED), (failed, JobState.FAILED)):
            if folded(text) in {folded(w) for w in said} and state is not meant and place == len(words) - 1:
                learned[text] = meant.value
    return learned


def fields_with(polls: Sequence[Exchange], text: str) -> list[str]:
    """Return the fields that hold a value in all of these responses."""
    found = [{path for path, value in leaves(content(exchange)) if value == text} for exchange in polls]
    return sorted(set.intersection(*found)) if found else []


def rejection_codes(exchanges: Sequence[Exchange]) -> dict[Step, int]:
    """Return the codes of 4xx with which steps ended, by the response to the last upload of each."""
    last = {exchange.step: exchange.response.status for exchange in exchanges if exchange.upload and exchange.response}
    return {step: status for step, status in last.items() if 400 <= status < 500}


def as_json(option: Mapping[str, Any]) -> str:
    """Return an option as it is pasted."""
    return json.dumps(option, ensure_ascii=False)
