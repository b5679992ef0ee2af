"""The messages that the package writes for people, read from its sources."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datatile_provider.api import errors

PACKAGE = Path(errors.__file__).parents[1]
#: They hold the labels of the connection form, the metadata of the package, the frame of an error, and the rules of
#: the wave check with what they find, which have a page of their own.
_NO_MESSAGES = (
    *("form.py", "get_provider_info.py", "errors.py"),
    *("rules.py", "compare.py", "inspect.py", "table.py", "report.py"),
)
#: Parameters, variables and functions whose texts nobody searches for.
_NOT_SEARCHED_FOR = re.compile(
    "hint|steps|subject|words|description|quer|content_type|placeholder|begun|lookup", re.IGNORECASE
)
_LOG_CALL = re.compile(r"\.log(\.\w+)?$|getLogger\(.*\.\w+$|\.report$")
_CODES = {kind.__name__: code for code, kind in errors.BY_CODE.items()}


@dataclass(frozen=True)
class Message:
    """
    A text in the sources.

    :param sentences: its sentences, as :func:`sentences` returns them.
    :param codes: the codes of the errors that are made with it.
    :param is_logged: whether it is an argument of a call that logs.
    """

    sentences: frozenset[str]
    codes: frozenset[str]
    is_logged: bool


def sentences(text: str) -> frozenset[str]:
    """Return the sentences of a text, with ``…`` for each placeholder and without punctuation at their ends."""
    # A text that begins or ends with a space is a part of a sentence.
    text = re.sub(r"\{\w+(!r)?\}|%s|%\.0f|^ | $", "…", text).replace("%%", "%")
    found = (re.sub(r"\s*…(?:[\s:]*…)*\s*", "…", part).strip(" .:,()") for part in re.split(r"\n|\.\s", text))
    return frozenset(sentence for sentence in found if len(_words(sentence)) > 1)


def is_long(sentence: str) -> bool:
    """Return whether a sentence has enough words of its own to be searched for."""
    return _letters(sentence) >= 12


def matches(quote: str, sentence: str) -> bool:
    """Return whether a quote is of a sentence, whose placeholders it may fill in."""
    pattern = ".*".join(map(re.escape, sentence.split("…")))
    # A sentence such as "… of … to …" would match too much.
    return quote == sentence or (_letters(sentence) >= 9 and bool(re.fullmatch(pattern, quote)))


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z_']{2,}", text)


def _letters(sentence: str) -> int:
    return len("".join(_words(sentence)))


@functools.cache
def messages() -> list[Message]:
    """Return the messages of a task, without those of the sandbox and of the commands."""
    paths = (path for path in sorted(PACKAGE.rglob("*.py")) if not {"sandbox", "cli"} & set(path.parts))
    return [message for path in paths if path.name not in _NO_MESSAGES for message in _messages(path)]


def _messages(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        text = _text(node)
        is_part = isinstance(parents.get(node), (ast.JoinedStr, ast.Compare))
        if " " not in text.strip() or is_part or text.startswith("{{"):
            continue
        around = [node]
        while around[-1] in parents:
            around.append(parents[around[-1]])
        if not _is_searched_for(around) or not sentences(text):
            continue
        calls = [ast.unparse(outer.func) for outer in around if isinstance(outer, ast.Call)]
        codes = {_CODES[name] for call in calls for name in re.findall(r"\w+", call) if name in _CODES}
        yield Message(sentences(text), frozenset(codes), any(map(_LOG_CALL.search, calls)))


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        return "…"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_searched_for(around: list[ast.AST]) -> bool:
    """
    Return whether a person may search for a text.

    :param around: the text's node, and those around it.
    """
    for inner, node, outer in zip(around, around[1:], [*around[2:], None], strict=False):
        # A docstring, an attribute of a class, or the hint of a rejection.
        is_docstring = isinstance(node, ast.Expr) and inner is around[0]
        is_attribute = isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(outer, ast.ClassDef)
        is_hint = isinstance(node, ast.Call) and ast.unparse(node.func) == "Rejection" and inner in node.args[2:]
        name = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
        name = name or getattr(node, "arg", "") or getattr(node, "name", "") or ""
        if is_docstring or is_attribute or is_hint or _NOT_SEARCHED_FOR.search(name):
            return False
    return True
