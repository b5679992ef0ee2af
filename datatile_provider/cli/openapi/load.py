"""The text of a document as JSON values: JSON or YAML 1.2, and total over any bytes."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from datatile_provider.api.errors import InvalidInputError

#: The largest document that is read, in bytes.
MAX_BYTES = 50_000_000
#: The largest YAML document, in bytes: its parser needs seconds for each megabyte.
MAX_YAML_BYTES = 4_000_000
#: The most values of a document after its YAML aliases are expanded.
_MAX_VALUES = 5_000_000
_MAX_DEPTH = 100


class DocumentError(InvalidInputError):
    """
    A document that cannot be read, or that is not of DATATILE's API.

    :param what: what is wrong with it, as a sentence without its full stop.
    :param hint: what to do next.
    """


class _Loader(yaml.CSafeLoader):  # type: ignore[misc]  # a library without types
    """Reads scalars as YAML 1.2 does, which OpenAPI asks for: ``no`` is a word and ``2024-01-01`` a text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - declared so by its base


_NUMBER = r"-?(?:0|[1-9][0-9]*)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", _NUMBER, list("-0123456789")),
    ("float", rf"{_NUMBER}(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", list("-0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def load(body: bytes) -> Any:
    """
    Return the JSON value of a document.

    :param body: the document, as JSON or YAML.
    :raises DocumentError: it is too large, is neither JSON nor YAML, or is nested too deeply.
    """
    if len(body) > MAX_BYTES:
        raise too_large()
    try:
        text = body.decode(json.detect_encoding(body)).lstrip("\ufeff")
    except UnicodeDecodeError:
        raise _not_text() from None
    if "\0" in text:
        raise _not_text()
    start = text.lstrip()[:1]
    if not start:
        raise DocumentError("The document is empty", hint="Give the OpenAPI document as JSON or YAML.")
    if start == "<":
        raise DocumentError(
            "The document is a web page or XML, not JSON or YAML",
            hint="Give the address of the OpenAPI document itself. The page that shows it often links to it, "
            "as openapi.json or swagger.json.",
        )
    value = _from_json(text) if start in "{[" else _from_yaml(text)
    _Cleaner().check(value, _MAX_DEPTH)
    return _Cleaner().clean(value)


def too_large() -> DocumentError:
    """Return the error for a document over :data:`MAX_BYTES`."""
    return DocumentError(
        f"The document is larger than {MAX_BYTES:,} bytes", hint="Give the OpenAPI document of DATATILE's API alone."
    )


def _not_text() -> DocumentError:
    return DocumentError("The document is not text", hint="Give the OpenAPI document as JSON or YAML, in UTF-8.")


def _too_deep() -> DocumentError:
    return DocumentError(
        f"The document is nested more than {_MAX_DEPTH} levels deep",
        hint="Give the OpenAPI document of DATATILE's API.",
    )


def _from_json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        try:
            # A YAML document may begin with a brace too.
            return _from_yaml(text)
        except DocumentError:
            raise _broken("JSON", str(error)) from None


def _from_yaml(text: str) -> Any:
    if len(text) > MAX_YAML_BYTES:
        raise DocumentError(
            f"The document is YAML, and larger than {MAX_YAML_BYTES:,} bytes",
            hint="Convert it to JSON, which is read much faster.",
        )
    try:
        depth = 0
        # The parser of libyaml is recursive, and deep nesting would end the process. Its events are not.
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise _too_deep()
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        # Newer versions of libyaml have a limit of their own.
        if "nesting depth" in str(error.problem):
            raise _too_deep() from None
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _broken("YAML", f"{error.problem}{line}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise _broken("YAML", str(error)) from None


def _broken(language: str, reason: str) -> DocumentError:
    return DocumentError(
        f"The document is not valid {language} ({' '.join(reason.split())[:200]})",
        hint="Download it again, and check that it is complete.",
    )


class _Cleaner:
    """Makes plain JSON values of what YAML's aliases and keys may hold. An object that is shared is visited once."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}

    def check(self, value: Any, depth: int) -> int:
        """Return how many values there are with all aliases expanded."""
        if not isinstance(value, (dict, list)):
            return 1
        if depth <= 0:
            # Also for an alias inside of its own anchor.
            raise _too_deep()
        key = id(value)
        if key not in self._done:
            inner = value.values() if isinstance(value, dict) else value
            self._done[key] = 1 + sum(self.check(item, depth - 1) for item in inner)
        if self._done[key] > _MAX_VALUES:
            raise DocumentError(
                f"The document has more than {_MAX_VALUES:,} values",
                hint="Give the OpenAPI document of DATATILE's API alone, without nested YAML aliases.",
            )
        return int(self._done[key])

    def clean(self, value: Any) -> Any:
        key = id(value)
        if isinstance(value, (dict, list)):
            if key not in self._done:
                self._done[key] = (
                    {_key(name): self.clean(item) for name, item in value.items()}
                    if isinstance(value, dict)
                    else [self.clean(item) for item in value]
                )
            return self._done[key]
        return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _key(name: Any) -> str:
    # YAML reads the HTTP status 200 as a number.
    return str(name).lower() if isinstance(name, bool) else str(name)
