"""Finds what a finished job reports: the number of its rows, and its database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from datatile_provider.api.models import Job
from datatile_provider.cli.openapi.answers import Answer, result_example
from datatile_provider.cli.openapi.findings import Certainty, Finding
from datatile_provider.cli.openapi.jobs import Poll
from datatile_provider.cli.openapi.names import listed
from datatile_provider.cli.openapi.schemas import Field
from datatile_provider.cli.openapi.vocabulary import has_any, tokens

_ROWS = listed(
    """
    row record case interview respondent zeile fall faelle datensatz datensaetze ligne entretien fila registro caso
    entrevista строк интервью wiersz rekord radk zaznam
    """
)
_TAKEN = listed("import insert load written added append accepted processed verarbeitet")
_LEFT = listed("fail error skip reject invalid total expected ignored duplicate warning before remaining max limit")
_DATABASES = listed("database db datenbank base basedatos bazy baza databaze баз")
_NO_HASH = set(listed("name title url uri href link status state size type rows label version at created updated"))


@dataclass(frozen=True, slots=True)
class _Result:
    topic: str
    option: str
    score: Callable[[Field], int]
    read: Callable[[Job], object]


def _rows_score(field: Field) -> int:
    words = tokens(field.name)
    if not field.kinds & {"integer", "number"} or set(words) & {"id", "number", "no", "code"}:
        return 0
    about = tokens(field.about)
    if not has_any(words, _ROWS) and not (has_any(about, _ROWS) and has_any(words, _TAKEN)):
        return 0
    score = 3 + 2 * has_any(words, _TAKEN) + has_any(about, _TAKEN) - 4 * has_any(words, _LEFT)
    return score - 2 * has_any(about, _LEFT[:7])


def _database_score(field: Field) -> int:
    words = tokens(field.name)
    inside = [word for name in field.path[:-1] for word in tokens(name)]
    is_hash = bool(set(words) & {"hash", "id", "key", "uuid"})
    if "string" not in field.kinds or set(words) & _NO_HASH or field.values:
        return 0
    if has_any(words, _DATABASES):
        return 4 + is_hash
    if is_hash and has_any(inside, _DATABASES):
        return 4 + ("hash" in words)
    return 2 * (is_hash and has_any(tokens(field.about), _DATABASES))


_RESULTS = (
    _Result("number of rows", "rows_field", _rows_score, lambda job: job.rows),
    _Result("database of the job", "database_field", _database_score, lambda job: job.database),
)


def find_results(poll: Poll) -> list[Finding]:
    """
    Return the findings for the rows and the database of a finished job.

    :param poll: the operation that reports the job's status.
    """
    return [_find(result, Answer.of(poll.operation)) for result in _RESULTS]


def _find(result: _Result, answer: Answer) -> Finding:
    where = answer.node.pointer
    scores = {f.path: result.score(f) for f in answer.fields if f.path and not f.listed}
    best = [f for f in answer.fields if scores.get(f.path, 0) > 0 and scores[f.path] == max(scores.values())]
    if len(best) != 1:
        why = "several fields may be it" if best else "no field is named like it"
        names = tuple(f.dotted for f in best)
        return Finding(result.topic, Certainty.NOT_FOUND, "", result.option, None, where, why, names, needed=False)
    chosen = best[0]
    details, value = result_example(answer, chosen)
    read = result.read(Job("4711", details=details))
    certainty = Certainty.SURE if scores[chosen.path] > 2 else Certainty.LIKELY
    option = None if read == value else chosen.dotted
    why = "" if certainty is Certainty.SURE else "by its description"
    if any("." in name for name in chosen.path):
        why = "its name has a dot"
        return Finding(
            result.topic, Certainty.DIFFERS, chosen.dotted, result.option, where=where, why=why, needed=False
        )
    return Finding(
        result.topic, certainty, chosen.dotted, result.option, option, chosen.node.pointer, why, needed=False
    )
