"""Finds the status in the response to a poll, and what its words mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from datatile_provider.api.models import ServerConfig
from datatile_provider.api.states import JOB_IDS, JobState, state_of
from datatile_provider.cli.openapi.answers import Answer, read_status, server_with
from datatile_provider.cli.openapi.findings import Certainty, Finding
from datatile_provider.cli.openapi.jobs import Poll
from datatile_provider.cli.openapi.names import JOBS, OTHERS, STATUS_NAMES, listed
from datatile_provider.cli.openapi.schemas import Field
from datatile_provider.cli.openapi.statuses import Word, words_of
from datatile_provider.cli.openapi.vocabulary import has_any, tokens

_NO_STATUS = set(listed("url uri href link message text at time date description id name details reason label"))
_PARTS = ("code", "value", "name", "key", "id")
#: The score of a field that is named "status", and of which nothing else is known.
_BY_NAME = 4
_DEFAULT = ServerConfig("")
#: Words to try a status field with, if the document lists none.
_USUAL = tuple(
    Word(word, (state,), True, "")
    for word, state in (
        ("queued", JobState.QUEUED),
        ("running", JobState.RUNNING),
        ("done", JobState.SUCCEEDED),
        ("failed", JobState.FAILED),
        ("success", JobState.SUCCEEDED),
        ("error", JobState.FAILED),
    )
)


def find_status(poll: Poll, job_id_name: str, extra: dict[str, Any]) -> list[Finding]:
    """
    Return the findings for the field of the status and for each of its words.

    :param poll: the operation that reports the job's status.
    :param job_id_name: the name of the job's id in the response to an upload, or ``""``.
    :param extra: what was learned so far.
    """
    topic, option = "field of the status", "status_field"
    answer = Answer.of(poll.operation)
    scores = {f.path: _score(f) for f in answer.fields if f.path}
    best = [f for f in answer.fields if f.path and scores[f.path] == max(scores.values()) and scores[f.path] > 0]
    if len(best) != 1:
        names = [f.dotted for f in best or answer.fields if f.path and f.scalar]
        why = "several fields may be it" if best else "no field of the job's response is named like it"
        where = answer.node.pointer
        return [Finding(topic, Certainty.NOT_FOUND, "", option, None, where, why, tuple(names[:20])), _no_words(where)]
    chosen = best[0]
    words = words_of(chosen, answer.node.text("description"), poll.operation.about)
    found = list(_of_words(words, chosen))
    learned = [finding.value for finding in found if finding.value and finding.certainty is not Certainty.NOT_FOUND]
    status_map = {word: state for value in learned for word, state in value.items()}
    id_names = tuple(dict.fromkeys(filter(None, (job_id_name, poll.parameter, *JOB_IDS))))
    known = [word for word in words if len(word.states) == 1] or list(_USUAL)
    why = "the provider does not read it there"
    for value in (None, chosen.dotted):
        server = server_with({**extra, "status_map": status_map, **({option: value} if value else {})})
        if server and all(_reads(server, answer, chosen, word, id_names) for word in known):
            explained = len({word.states for word in words if len(word.states) == 1}) > 2
            certain = Certainty.SURE if explained or scores[chosen.path] > _BY_NAME else Certainty.LIKELY
            why = "" if certain is Certainty.SURE else "by its name alone"
            return [Finding(topic, certain, chosen.dotted, option, value, chosen.node.pointer, why), *found]
    return [Finding(topic, Certainty.DIFFERS, chosen.dotted, option, None, chosen.node.pointer, why), *found]


def _reads(server: ServerConfig, answer: Answer, chosen: Field, word: Word, names: tuple[str, ...]) -> bool:
    state = word.states[0]
    return all(
        read_status(server, answer, chosen, (word.word, state), names, sparse=sparse) is state
        for sparse in (False, True)
    )


def _score(field: Field) -> int:
    words = tokens(field.name)
    if not field.scalar or field.formats & {"date-time", "uri", "url"}:
        return 0
    states = {state for word in words_of(field) for state in word.states}
    inside = [word for name in field.path[:-1] for word in tokens(name)]
    # {"status": {"code": 1, "text": "…"}}
    container = tokens(field.path[-2]) if len(field.path) > 1 else []
    is_part = field.name.lower() in _PARTS and bool(set(container) & STATUS_NAMES)
    named = bool(set(words) & STATUS_NAMES) or is_part
    if (set(words) & _NO_STATUS and not is_part) or not (named or len(states) > 2):
        return 0
    score = 3 * named + 2 * len(states) + (field.name.lower() in ("status", "state"))
    # A stage of the processing is finer than a status.
    score -= 2 * bool(set(words) & {"phase", "stage", "stand"})
    score += 3 * bool(states & {JobState.QUEUED, JobState.RUNNING})
    score += has_any(inside, JOBS) + 2 * has_any(words, JOBS) + 2 * has_any(tokens(field.about), JOBS)
    score -= 3 * bool(re.search(r"\b(request|http|call)\b", field.about, re.IGNORECASE))
    # The status of the owner is not the job's, however well it is described.
    if has_any(inside, OTHERS):
        return score - 20
    # "database_status" may have more usual words than a status of numbers.
    return min(score, 1) if has_any(words, OTHERS) else score


def _no_words(where: str) -> Finding:
    return Finding("words of the status", Certainty.NOT_FOUND, "", "status_map", None, where, "the document lists none")


def _of_words(words: list[Word], status: Field) -> Iterable[Finding]:
    """Yield a finding for each word, and for each final state that no word stands for."""
    where = status.node.pointer
    if not words:
        yield _no_words(where)
        return
    for word in words:
        topic = f"status {word.word!r}"
        if len(word.states) != 1:
            why = "the document explains it in two ways" if word.states else "nothing explains it"
            states = tuple(state.value for state in word.states)
            yield Finding(topic, Certainty.NOT_FOUND, "", "status_map", None, where, why, states)
            continue
        state = word.states[0]
        certainty = Certainty.SURE if word.clear else Certainty.LIKELY
        value = None if state_of(_DEFAULT, word.word) is state else {word.word: state.value}
        yield Finding(topic, certainty, state.value, "status_map", value, where, word.why)
    for state in (JobState.SUCCEEDED, JobState.FAILED):
        if all(word.states != (state,) for word in words):
            why = "no word is known to stand for it"
            yield Finding(f"word for {state.value}", Certainty.NOT_FOUND, "", "status_map", None, where, why)
