"""Walks a schema: its parts, its fields at any depth, and an example of the value that it describes."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from datatile_provider.cli.openapi.document import Node

#: Stands for an element of a list in a field's path.
ELEMENT = "[]"
_MAX_PARTS = 200
_MAX_FIELDS = 2_000
_MAX_DEPTH = 7
_MAX_EXAMPLES = 10
_COMBINED = ("allOf", "oneOf", "anyOf")


def parts(schema: Node) -> list[Node]:
    """Return a schema and all schemas that ``allOf``, ``oneOf`` and ``anyOf`` combine in it."""
    found: dict[str, Node] = {}
    left = deque([schema])
    while left and len(found) < _MAX_PARTS:
        part = left.popleft()
        if isinstance(part.value, dict) and part.pointer not in found:
            found[part.pointer] = part
            combined = (inner for name in _COMBINED for inner in part[name].elements())
            left.extend(islice(combined, _MAX_PARTS))
    return list(found.values())


@dataclass(frozen=True)
class Field:
    """
    A field of a response or a form.

    :param path: the names that lead to it; :data:`ELEMENT` stands for an element of a list.
    :param node: its schema.
    :param required: whether it and all objects around it are required.
    """

    path: tuple[str, ...]
    node: Node
    required: bool = False
    parts: list[Node] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        """Its own name."""
        return next((name for name in reversed(self.path) if name != ELEMENT), "")

    @property
    def dotted(self) -> str:
        """Its place, as an option of the connection names it."""
        return ".".join(self.path)

    @property
    def listed(self) -> bool:
        """Whether it is in a list, where no option can point to."""
        return ELEMENT in self.path

    @property
    def about(self) -> str:
        """The document's texts about it."""
        return " ".join(t for part in self.parts for n in ("title", "description") if (t := part.text(n)))

    @property
    def formats(self) -> set[str]:
        """Its formats and media types."""
        names = ("format", "contentMediaType", "contentEncoding")
        return {t.lower() for part in self.parts for n in names if (t := part.text(n))}

    @property
    def kinds(self) -> set[str]:
        """Its JSON types, as far as the document shows them."""
        found: set[str] = set()
        for part in self.parts:
            kind = part.value.get("type")
            found.update(k for k in (kind if isinstance(kind, list) else [kind]) if isinstance(k, str))
            found.update(name for name, key in (("object", "properties"), ("array", "items")) if key in part.value)
        if not found:
            found = {"integer" if isinstance(v, int) else "string" for v in self.values}
        return found - {"null"}

    @property
    def values(self) -> list[str | int]:
        """The values that an enumeration allows, flags as text: the provider reads a flag at ``status_field`` so."""
        found: dict[str | int, None] = {}
        for part in self.parts:
            listed = part.value.get("enum")
            for value in [*(listed if isinstance(listed, list) else ()), part.value.get("const")]:
                if isinstance(value, (str, int)):
                    found[as_word(value)] = None
        return list(found)

    @property
    def has_flags(self) -> bool:
        """Whether an enumeration allows true or false."""
        return any(isinstance(allowed.value, bool) for part in self.parts for allowed in part["enum"].elements())

    @property
    def scalar(self) -> bool:
        """Whether it can be a text or a whole number."""
        return bool(self.kinds & {"string", "integer", "number"}) or not self.kinds


def as_word(value: Any) -> str | int:
    """Return an allowed value, and a flag as JSON writes it."""
    return json.dumps(value) if isinstance(value, bool) else value


def fields(schema: Node) -> list[Field]:
    """Return the fields of a schema, outermost first. The first one is the whole value, with an empty path."""
    found: list[Field] = []
    left: deque[tuple[Field, frozenset[str]]] = deque([(Field((), schema, True, parts(schema)), frozenset())])
    while left and len(found) < _MAX_FIELDS:
        outer, around = left.popleft()
        found.append(outer)
        if len(outer.path) >= _MAX_DEPTH:
            continue
        inside = around | {part.pointer for part in outer.parts}
        # A schema inside of itself is a smaller one of the same kind, and says nothing new.
        inner = ((f, inside) for f in _inner(outer) if not inside & {part.pointer for part in f.parts})
        left.extend(islice(inner, max(0, _MAX_FIELDS - len(found) - len(left))))
    return found


def _inner(outer: Field) -> Iterator[Field]:
    seen: set[str] = set()
    required = {
        name
        for part in outer.parts
        for name in (part.value["required"] if isinstance(part.value.get("required"), list) else ())
        if isinstance(name, str)
    }
    for part in outer.parts:
        for name, inner in part["properties"].members():
            if name not in seen and isinstance(inner.value, dict):
                seen.add(name)
                yield Field((*outer.path, name), inner, outer.required and name in required, parts(inner))
        if isinstance((items := part["items"]).value, dict):
            yield Field((*outer.path, ELEMENT), items, False, parts(items))


def example(found: list[Field], value_of: Callable[[Field, int], Any], wanted: Callable[[Field], bool]) -> Any:
    """
    Return an example of the value that a schema describes.

    :param found: the fields of the schema.
    :param value_of: returns the value of a field that holds no others. Its second argument is a number that no other
        field has.
    :param wanted: whether a field is in the example.
    """
    inside: dict[tuple[str, ...], dict[str, tuple[int, Field]]] = {}
    for number, inner in enumerate(found[1:], 1):
        inside.setdefault(inner.path[:-1], {}).setdefault(inner.path[-1], (number, inner))

    def build(number: int, outer: Field) -> Any:
        inner = inside.get(outer.path, {})
        named = {name: build(*f) for name, f in inner.items() if name != ELEMENT and wanted(f[1])}
        if named or "object" in outer.kinds:
            return named
        if "array" in outer.kinds:
            return [build(*inner[ELEMENT])] if ELEMENT in inner else []
        return value_of(outer, number)

    return build(0, found[0])


def schema_of(examples: list[Any], beside: Node) -> Node:
    """
    Return a schema for a document that has only examples.

    :param examples: the examples.
    :param beside: where they are in the document.
    """
    inferred = [_inferred(example, _MAX_DEPTH) for example in examples[:_MAX_EXAMPLES]]
    return Node(beside.document, {"anyOf": inferred}, f"{beside.pointer}/examples")


def _inferred(value: Any, depth: int) -> dict[str, Any]:
    if isinstance(value, dict) and depth:
        members = islice(value.items(), _MAX_PARTS)
        return {"type": "object", "properties": {name: _inferred(inner, depth - 1) for name, inner in members}}
    if isinstance(value, list) and depth:
        return {"type": "array", "items": _inferred(value[0], depth - 1) if value else {}}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, (int, float)):
        return {"type": "integer" if isinstance(value, int) else "number", "example": value}
    if isinstance(value, str):
        is_time = re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]", value)
        return {"type": "string", "example": value, **({"format": "date-time"} if is_time else {})}
    # Such as null, whose type is not known.
    return {"description": ""}
