"""The words that a status can be, with the state that each stands for, and the text that says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from datatile_provider.api.states import JobState
from datatile_provider.cli.openapi.document import Node
from datatile_provider.cli.openapi.schemas import Field, as_word
from datatile_provider.cli.openapi.vocabulary import state_in

_SEPARATOR = r"[`'\"*]*\s*(?:=>|->|=|:|→|[-\u2013\u2014|)](?=\s)|\.\s)\s*[`'\"*]*"
_END = r"\s*(?:[,;|\n()]|\.\s|\.?$|\s[`'\"]?\d+[`'\"]?\s*(?:[=:]|[-\u2013\u2014]\s))"
_MEANING = rf"(?P<meaning>[^\W_][^,;|\n()]*?)(?={_END})"
_MAX_TEXT = 4_000
_QUOTED = re.compile(r"[`'\"\u201c]([\w][\w -]{0,40})[`'\"\u201d]")
_ITEM = re.compile(r"[^\W_](?:[\w -]{0,30}\w)?")


@dataclass(frozen=True, slots=True)
class Word:
    """
    A word of the server for a status.

    :param word: the word, or the number as text.
    :param states: the state that it stands for; none if nothing explains it, several if the explanations disagree.
    :param clear: whether the explanation is about nothing else.
    :param why: where the state is from.
    """

    word: str
    states: tuple[JobState, ...]
    clear: bool
    why: str


def words_of(status: Field, *around: str) -> list[Word]:
    """
    Return the words that a status can be, in the document's order.

    :param status: the field of the status.
    :param around: texts about the response and the operation, which may explain them too.
    """
    own, *others = (re.sub(r"[^\S\n]+", " ", text)[:_MAX_TEXT] for text in (status.about, *around))
    # A text about the operation may explain something else, unless it names the field.
    naming = [text for text in others if re.search(rf"\b{re.escape(status.name)}\b", text, re.IGNORECASE)]
    listed = map(_listed, [own, *naming])
    explained = dict(_beside(status))
    found: list[Word] = []
    for value in [str(value) for value in status.values] or next(filter(None, listed), []):
        meanings = [*explained.get(value, []), *_meanings(value, own)]
        about = meanings or [meaning for text in naming for meaning in _meanings(value, text)]
        elsewhere = [] if about else [meaning for text in others for meaning in _meanings(value, text)]
        word = _word(value, about or elsewhere)
        found.append(replace(word, clear=False) if elsewhere and word.states else word)
    return found


def _word(value: str, meanings: list[str]) -> Word:
    states: dict[JobState, str] = {}
    own, clear = state_in(value) if re.search(r"[^\W\d]", value) else (None, True)
    if own:
        states[own] = "the word itself"
    for meaning in meanings:
        state, is_clear = state_in(meaning)
        if state and state not in states:
            states[state] = f"the document explains it: {' '.join(meaning.split())[:80]!r}"
            clear = is_clear if own is None else clear and is_clear
    return Word(value, tuple(states), clear, "; ".join(states.values()))


def _beside(status: Field) -> Iterator[tuple[str, list[str]]]:
    """Yield values with what extensions (``x-enum-varnames`` and others) and alternatives say about them."""
    found: dict[str, list[str]] = {}
    for part in status.parts:
        listed = part.value.get("enum")
        values = [str(as_word(v)) for v in listed] if isinstance(listed, list) else []
        if "const" in part.value:
            values = [str(part.value["const"])]
        if len(values) == 1:
            found.setdefault(values[0], []).extend(t for n in ("title", "description") if (t := part.text(n)))
        for name in part.value:
            if name.lower().startswith("x-") and "enum" in name.lower():
                for value, meaning in _extension(part[name], values):
                    found.setdefault(value, []).append(meaning)
    yield from found.items()


def _extension(node: Node, values: list[str]) -> Iterator[tuple[str, str]]:
    if isinstance(node.value, list):
        for index, inner in enumerate(node.elements()):
            texts = [inner.value] if isinstance(inner.value, str) else [inner.text("name"), inner.text("description")]
            named = inner.value.get("value") if isinstance(inner.value, dict) else None
            value = str(named) if named is not None else values[index] if len(values) == len(node.value) else ""
            yield from ((value, text) for text in texts if text and value)
    elif isinstance(node.value, dict):
        for name, inner in node.members():
            if isinstance(inner.value, str):
                yield name, inner.value
            elif name == "values":
                yield from _extension(inner, values)


def _meanings(value: str, text: str) -> Iterator[str]:
    """Yield what a text says about a value: ``0 - in queue, 1 = processing``, or ``in queue (0)``."""
    if not text or value.lower() not in text.lower():
        return
    quoted = re.escape(value)
    forward = re.findall(rf"(?<![\w.-]){quoted}(?:{_SEPARATOR}){_MEANING}", text, re.IGNORECASE)
    if not forward and value.lstrip("-").isdigit():
        forward = re.findall(rf"([^\W\d_][\w -]{{0,40}}?)\s*[=:(]\s*[`'\"]?{quoted}(?!\w)", text)
    yield from forward


def _listed(text: str) -> list[str]:
    """Return the values that a text lists, for a field without an enumeration."""
    numbers = list(dict.fromkeys(re.findall(rf"(?<![\w.-])(-?\d{{1,3}})(?:{_SEPARATOR})[^\W\d]", text)))
    if len(numbers) > 2:
        return numbers
    quoted = list(dict.fromkeys(_QUOTED.findall(text)))
    if len(quoted) > 2 and sum(state_in(word)[0] is not None for word in quoted) > 1:
        return quoted
    for part in re.split(r"[.:()\n]", text):
        items = [item.strip(" `'\"*") for item in re.split(r"[,|/;]|\s(?:or|and|oder|und)\s", part) if item.strip()]
        if len(items) > 2 and all(_ITEM.fullmatch(item) and state_in(item)[0] for item in items):
            return items
    return []
