"""Finds which HTTP status means that an upload is rejected, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator

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
        in progress, still (being )?(process|import|runn|upload|load)\w*, is running, not finished, locked, busy
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
        too (many|fast|often|frequent\w*), rate limit\w*, (upload|request) rate, throttl\w*, slow down
        zu (schnell|viele|haufig|oft), trop (de requetes|rapide|frequent|souvent|vite)\w*, demasiad[ao]s
        слишком (часто|много), zbyt (wiele|czesto|szybko), prilis (mnoho|casto|rychle)
        """,
    "token": r"""
        tokens?, unauthori[sz]ed, unauthenticated, not authenticated, authentication, not logged in, api key
        nicht angemeldet, nicht authentifiziert, jeton, non authentifie, no autenticado, autenticacion
        токен\w*, nieautoryzowan\w*
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
    for operation in [*uploads, *([poll] if poll else [])]:
        for status, pointer, meanings in _described(operation):
            if operation is poll:
                meanings = [m for m in meanings if m in _OF_POLLS]
            for meaning in meanings or ([_DEFAULTS[status]] if status in _DEFAULTS and operation is not poll else []):
                found.setdefault(status, {}).setdefault(meaning, pointer)
    findings = [_finding(status, meanings) for status, meanings in sorted(found.items())]
    known = {f.found for f in findings if f.certainty is not Certainty.NOT_FOUND}
    missing = tuple(m for m in _MEANINGS if m not in known)
    if missing:
        why = "no status is documented for it"
        findings.append(
            Finding("rejections", Certainty.NOT_FOUND, "", "status_codes", why=why, candidates=missing, needed=False)
        )
    return findings


def _finding(status: int, meanings: dict[str, str]) -> Finding:
    topic, option = f"HTTP status {status}", "status_codes"
    where = next(iter(meanings.values()))
    default = _DEFAULTS.get(status)
    if default in meanings:
        return Finding(topic, Certainty.SURE, str(default), option, where=where, needed=False)
    if len(meanings) == 1:
        meaning = next(iter(meanings))
        return Finding(
            topic, Certainty.SURE, meaning, option, {str(status): meaning}, where, "by its description", needed=False
        )
    why = "its description is about several"
    return Finding(topic, Certainty.NOT_FOUND, "", option, None, where, why, tuple(meanings), needed=False)


def _described(operation: Operation) -> Iterator[tuple[int, str, list[str]]]:
    for name, response in operation.responses().items():
        if re.fullmatch("[45][0-9][0-9]", name):
            schema = fields(body_of(response)[1])[:1]
            about = " ".join([response.text("description"), *(f.about for f in schema)])
            text = " ".join(tokens(about[:2_000]))
            yield int(name), response.pointer, [m for m, pattern in _PATTERNS.items() if pattern.search(text)]
