"""Finds which HTTP status means that an upload is rejected, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus

from datatile_provider.api.rejections import NOT_TRUSTED
from datatile_provider.cli.openapi.document import Operation, body_of
from datatile_provider.cli.openapi.findings import Certainty, Finding
from datatile_provider.cli.openapi.schemas import fields
from datatile_provider.cli.openapi.vocabulary import tokens

#: What a status means by default: see :mod:`datatile_provider.api.rejections`.
_DEFAULTS = {
    401: "token",
    403: "role",
    404: "not_found",
    409: "busy",
    413: "too_large",
    423: "busy",
    429: "too_fast",
}
# Phrases of a description, without accents and punctuation.
_MEANINGS = {
    "busy": r"""
        in progress, still (being )?(process|import|runn|upload|load)\w*, is running, not finished, busy
        (database|destination|target|folder) is locked
        already (being )?(process|runn|import|upload|load)\w*, (previous|earlier|another|other) (upload|import|job|load)
        noch (in bearbeitung|nicht fertig|nicht abgeschlossen), lauft (noch|bereits), gesperrt
        wird (noch|bereits|gerade)
        deja en cours, est en cours, verrouille\w*, en curso, ocupad\w*, bloquead\w*
        выполняется, заблокирован\w*, w toku, zablokowan\w*, probiha, uzamcen\w*
        """,
    "too_large": r"""
        too (large|big), (exceeds?|over|above) (the )?(\w+ ){0,2}size, (size|file) limit, (maximum|max) (\w+ )?size
        larger than, zu gross, dateigrosse, trop (gros|volumineux|grand)\w*, taille maximale
        demasiado grande, tamano maximo, слишком большой, размер файла, zbyt duzy, za duzy, prilis velky
        """,
    "too_fast": r"""
        too many (\w+ )?(requests|uploads|calls|attempts), too (fast|often|frequent\w*), rate limit\w*
        (upload|request) rate, throttl\w*, slow down
        zu (schnell|haufig|oft|viele (anfragen|uploads|aufrufe)), in kurzer zeit
        trop (de requetes|rapide|frequent|souvent|vite)\w*
        demasiad[ao]s (solicitudes|peticiones|cargas)
        слишком (часто|много (запросов|загрузок)), zbyt (wiele (zadan|przesylek)|czesto|szybko)
        prilis (mnoho pozadavku|casto|rychle)
        """,
    "token": r"""
        (invalid|missing|expired|wrong|unknown|revoked|bad|old|no|without|incorrect|replaced) (\w+ ){0,2}tokens?
        tokens? (\w+ ){0,3}(invalid|missing|expired|wrong|unknown|revoked|required|not valid|replaced|rejected)
        unauthori[sz]ed, unauthenticated, not authenticated, authentication, not logged in, api key
        tokens? (\w+ ){0,2}(fehlt|ungultig|abgelaufen|falsch), (ungultig|abgelaufen|falsch|fehlend)\w* tokens?
        nicht angemeldet, nicht authentifiziert, jeton, non authentifie, no autenticado, autenticacion
        (неверн|недействит|отсутств|устар)\w* (\w+ ){0,2}токен\w*
        токен\w* (\w+ ){0,2}(неверн|недействит|отсутств|устар|не )\w*
        nieautoryzowan\w*
        """,
    "role": r"""
        roles?, permissions?, forbidden, not (allowed|permitted), access denied, lacks, rights, privileges?
        rolle, berechtigung\w*, nicht berechtigt, rechte, droits?, interdit, permisos?, prohibido
        роль, роли, прав\w*, запрещен\w*, uprawnien\w*, opravnen\w*, zakazan\w*
        """,
    "not_found": r"""
        not found, do(es)? not exist, no such, unknown (folder|database|target|hash|job|destination|project)
        nicht gefunden, existiert nicht, unbekannte\w* (ordner|datenbank), introuvable, n existe pas
        no encontrad\w*, no existe, не найден\w*, не существует, nie znalezion\w*, nie istnieje, nenalezen\w*
        """,
}


def _pattern(phrases: str) -> re.Pattern[str]:
    found = [phrase.strip() for phrase in re.split(", |\n", phrases) if phrase.strip()]
    return re.compile(rf"\b(?:{'|'.join(found)})\b")


_PATTERNS = {meaning: _pattern(phrases) for meaning, phrases in _MEANINGS.items()}
_OF_POLLS = ("token", "role", "not_found", "too_fast")


def find_codes(uploads: list[Operation], poll: Operation | None) -> list[Finding]:
    """
    Return a finding for each status that the document explains, or that has a meaning by default.

    :param uploads: the upload operations.
    :param poll: the operation that reports a job's status, if it is known.
    """
    found: dict[int, dict[str, str]] = {}
    assumed: set[int] = set()
    for operation in [*uploads, *([poll] if poll else [])]:
        for status, pointer, text in _described(operation):
            meanings = [meaning for meaning, pattern in _PATTERNS.items() if pattern.search(text)]
            if operation is poll:
                meanings = [meaning for meaning in meanings if meaning in _OF_POLLS]
            elif not meanings and status in _DEFAULTS:
                meanings = [_DEFAULTS[status]]
                if text and text != " ".join(tokens(HTTPStatus(status).phrase)):
                    assumed.add(status)
            for meaning in meanings:
                found.setdefault(status, {}).setdefault(meaning, pointer)
    findings = [_finding(status, meanings, told=status not in assumed) for status, meanings in sorted(found.items())]
    known = {f.found for f in findings if f.certainty is not Certainty.NOT_FOUND}
    missing = tuple(m for m in _MEANINGS if m not in known)
    if missing:
        why = "no status is documented for it"
        findings.append(
            Finding("rejections", Certainty.NOT_FOUND, "", "status_codes", why=why, candidates=missing, needed=False)
        )
    return findings


def _finding(status: int, meanings: dict[str, str], *, told: bool) -> Finding:
    topic, option = f"HTTP status {status}", "status_codes"
    where = next(iter(meanings.values()))
    default = _DEFAULTS.get(status)
    if default in meanings:
        certainty, why = (Certainty.SURE, "") if told else (Certainty.LIKELY, "its description does not say so")
        return Finding(topic, certainty, str(default), option, where=where, why=why, needed=False)
    if len(meanings) == 1:
        meaning = next(iter(meanings))
        if status in NOT_TRUSTED or status >= 500:
            why = "a response with this status does not show whether the file was accepted"
            return Finding(topic, Certainty.DIFFERS, meaning, option, where=where, why=why, needed=False)
        return Finding(
            topic, Certainty.SURE, meaning, option, {str(status): meaning}, where, "by its description", needed=False
        )
    why = "its description is about several"
    return Finding(topic, Certainty.NOT_FOUND, "", option, None, where, why, tuple(meanings), needed=False)


def _described(operation: Operation) -> Iterator[tuple[int, str, str]]:
    """Yield status, place and description of the responses of an error, without case, accents and punctuation."""
    for name, response in operation.responses().items():
        if re.fullmatch("[45][0-9][0-9]", name):
            schema = fields(body_of(response)[1])[:1]
            about = " ".join([response.text("description"), *(f.about for f in schema)])
            yield int(name), response.pointer, " ".join(tokens(about[:2_000]))
