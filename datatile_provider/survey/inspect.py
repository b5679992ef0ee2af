"""What is wrong with a survey file by itself: pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from datatile_provider.survey.findings import Finding
from datatile_provider.survey.model import Contents, Variable, fold, shown

#: The vendor's limits (documented).
MAX_NAME, MAX_LABEL = 64, 1024
#: SPSS's reserved words (documented by IBM).
KEYWORDS = frozenset(["all", "and", "by", "eq", "ge", "gt", "le", "lt", "ne", "not", "or", "to", "with"])
_NAME = re.compile(r"[A-Za-z@#$][A-Za-z0-9_.$#@]*")
_SHOWN = 60


def inspect(contents: Contents, key: str, required: Sequence[str]) -> Iterator[Finding]:
    """
    Yield what is wrong.

    :param contents: the wave.
    :param key: the variable that identifies an interview; ``""`` for none.
    :param required: the names of variables that it must have.
    """
    survey = contents.survey
    names = survey.by_name
    if not survey.rows:
        yield Finding("no-rows", after="0 interviews")
    if survey.encoding is not None and survey.encoding.upper().replace("-", "") != "UTF8":
        yield Finding("encoding", after=survey.encoding or "(none declared)")
    for name in required:
        if fold(name) not in names:
            yield Finding("required-missing", name)
    if key and fold(key) not in names:
        yield Finding("key-missing", key)
    if contents.keyless:
        yield Finding("key-empty", key, after=f"{contents.keyless:,} interviews")
    seen: dict[str, str] = {}
    for variable in survey.variables:
        yield from _variable(variable)
        if earlier := seen.get(fold(variable.name)):
            yield Finding("name-case", variable.name, after=f"{earlier}, {variable.name}")
        seen[fold(variable.name)] = variable.name
    for name, codes in contents.unlabelled.items():
        yield Finding("unlabelled-code", name, after=_listed([shown(code) for code in codes]), codes=codes)
    for name in contents.empty:
        yield Finding("empty-variable", name)


def _listed(texts: Sequence[str]) -> str:
    # Of many codes, the reader keeps the first it sees.
    return ", ".join(texts[:10]) + (" and more" if len(texts) > 10 else "")


def _variable(variable: Variable) -> Iterator[Finding]:
    name = variable.name
    if len(name) > MAX_NAME:
        yield Finding("name-length", name, after=f"{len(name)} characters")
    if not _NAME.fullmatch(name):
        others = sorted(set(re.sub(r"[A-Za-z0-9_.$#@]", "", name)))
        yield Finding("name-characters", name, after=" ".join(map(repr, others)) or f"begins with {name[:1]!r}")
    if fold(name) in KEYWORDS:
        yield Finding("name-keyword", name)
    texts = [("", variable.label), *((f"{shown(code)} = ", label) for code, label in variable.labels.items())]
    for prefix, text in texts:
        if len(text) > MAX_LABEL:
            yield Finding("label-length", name, after=f"{prefix}{text[:_SHOWN]}… ({len(text):,} characters)")
    broken = next((prefix + text for prefix, text in [("", name), *texts] if is_mojibake(text)), "")
    if broken:
        yield Finding("mojibake", name, after=broken[:_SHOWN])


def is_mojibake(text: str) -> bool:
    """Return whether a text is UTF-8 that was read as another encoding, or has lost letters."""
    if text.isascii():
        return False
    if "\ufffd" in text or any("\x80" <= letter <= "\x9f" for letter in text):
        return True
    # Letters that form valid UTF-8 in these encodings are hardly meant as such.
    return any(
        _is_utf8(piece, encoding) for piece in re.findall(r"[^\x00-\x7f]+", text) for encoding in ("cp1252", "latin-1")
    )


def _is_utf8(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding).decode("utf-8")
    except UnicodeError:
        return False
    return True
