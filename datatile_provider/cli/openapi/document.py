"""A document of Swagger 2.0 or OpenAPI 3: its operations, with all references inside the document followed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from datatile_provider.cli.openapi.load import DocumentError

_MAX_REFERENCES = 50
_METHODS = ("get", "post", "put", "patch", "delete", "head")
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


@dataclass(frozen=True, slots=True)
class Node:
    """
    A value of a document.

    :param document: the document.
    :param value: the value; None if it is missing.
    :param pointer: its JSON pointer, after references.
    """

    document: Document = field(repr=False)
    value: Any
    pointer: str

    def __getitem__(self, name: str) -> Node:
        inner = self.value.get(name) if isinstance(self.value, dict) else None
        return self.document.follow(inner, f"{self.pointer}/{_escaped(name)}")

    def __bool__(self) -> bool:
        return self.value is not None

    def members(self) -> Iterator[tuple[str, Node]]:
        """Yield the names and values of an object."""
        for name in self.value if isinstance(self.value, dict) else ():
            yield name, self[name]

    def elements(self) -> Iterator[Node]:
        """Yield the elements of a list."""
        for index, inner in enumerate(self.value if isinstance(self.value, list) else ()):
            yield self.document.follow(inner, f"{self.pointer}/{index}")

    def text(self, name: str) -> str:
        """Return a text in an object, or ``""``."""
        found = self.value.get(name) if isinstance(self.value, dict) else None
        return found if isinstance(found, str) else ""


class Document:
    """
    A document.

    :param value: its JSON value.
    :param location: the URL that it was read from, or ``""``; relative addresses of servers start there.
    :raises DocumentError: it is not a document of Swagger 2.0 or OpenAPI 3.
    """

    def __init__(self, value: Any, location: str = "") -> None:
        self.location = location
        #: References to other files, which are not followed.
        self.external: dict[str, None] = {}
        self.root = Node(self, value, "#")
        version = value.get("openapi", value.get("swagger")) if isinstance(value, dict) else None
        if not re.match(r"[23](\.|\Z)", str(version)):
            raise DocumentError(
                "This is not an OpenAPI document: it has neither openapi 3 nor swagger 2.0 at its top",
                hint="Give the server's OpenAPI document, as JSON or YAML.",
            )
        self.is_swagger = str(version).startswith("2")

    def follow(self, value: Any, pointer: str) -> Node:
        """Return a value at a pointer, or the one that it refers to. What stands beside the reference is kept."""
        beside: dict[str, Any] = {}
        for _ in range(_MAX_REFERENCES):
            reference = value.get("$ref") if isinstance(value, dict) else None
            if not isinstance(reference, str):
                break
            beside = {**{name: v for name, v in value.items() if name != "$ref"}, **beside}
            if not reference.startswith("#"):
                self.external[reference] = None
                return Node(self, None, pointer)
            pointer = unquote(reference)
            value = self._at(pointer)
        else:
            return Node(self, None, pointer)
        return Node(self, {**value, **beside} if beside and isinstance(value, dict) else value, pointer)

    def _at(self, pointer: str) -> Any:
        value = self.root.value
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, list):
                value = value[int(name)] if re.fullmatch("[0-9]{1,6}", name) and int(name) < len(value) else None
            else:
                value = value.get(name) if isinstance(value, dict) else None
        return value

    def operations(self) -> Iterator[Operation]:
        """Yield all operations."""
        for path, item in self.root["paths"].members():
            for method in _METHODS:
                if isinstance(item[method].value, dict):
                    yield Operation(method, path, item, item[method])


@dataclass(frozen=True, slots=True)
class Operation:
    """
    An operation of a document.

    :param method: the HTTP method, in lower case.
    :param path: its path as the document writes it, below a server.
    :param item: what all operations of the path share.
    :param node: the operation itself.
    """

    method: str
    path: str
    item: Node
    node: Node

    @property
    def name(self) -> str:
        """The operation for a person, as ``POST /upload/{action}/{hash}``."""
        return f"{self.method.upper()} {self.path}"

    @property
    def about(self) -> str:
        """The document's texts about the operation."""
        return " ".join(self.node.text(name) for name in ("operationId", "summary", "description"))

    def parameters(self) -> list[Node]:
        """Return the parameters of the path and of the operation, which win."""
        found = [*self.item["parameters"].elements(), *self.node["parameters"].elements()]
        return list({(p.text("in"), p.text("name")): p for p in found}.values())

    def form(self) -> tuple[str, list[Node]]:
        """Return the media type of the body, and the schemas that together describe its fields."""
        if self.node.document.is_swagger:
            return self._form_of_swagger()
        content = self.node["requestBody"]["content"]
        media = {name.partition(";")[0].strip().lower(): inner for name, inner in content.members()}
        kind = next((k for k in (*_FORMS, *media) if k in media), "")
        return kind, [media[kind]["schema"]] if kind else []

    def _form_of_swagger(self) -> tuple[str, list[Node]]:
        fields = [p for p in self.parameters() if p.text("in") == "formData"]
        is_multipart = any(p.text("type") == "file" for p in fields)
        consumes = self.node["consumes"].value or self.node.document.root["consumes"].value
        kinds = [k for k in consumes if isinstance(k, str)] if isinstance(consumes, list) else []
        kind = _FORMS[0] if is_multipart or _FORMS[0] in kinds else kinds[0] if kinds else _FORMS[0] if fields else ""
        # A form's parameters, as the schema that OpenAPI 3 has for them.
        schema = {"type": "object", "properties": {p.text("name"): p.value for p in fields}}
        return kind, [Node(self.node.document, schema, f"{self.node.pointer}/parameters")]

    def responses(self) -> dict[str, Node]:
        """Return the responses by status."""
        return {status.upper(): inner for status, inner in self.node["responses"].members()}

    def success(self) -> tuple[int, Node]:
        """Return the HTTP status of success, and its response."""
        found = self.responses()
        order = ("200", "202", "201", *sorted(s for s in found if s.startswith("2")), "303", "302", "DEFAULT")
        name = next((s for s in order if s in found), "")
        return int(name) if re.fullmatch("[23][0-9]{2}", name) else 200, found.get(
            name, Node(self.node.document, None, self.node.pointer)
        )

    def prefixes(self) -> list[tuple[str, str, str]]:
        """Return host, base path and JSON pointer of each server that the operation is on."""
        document = self.node.document
        if document.is_swagger:
            return [_swagger_server(document)]
        for owner in (self.node, self.item, document.root):
            if found := [_server(document, server) for server in owner["servers"].elements()]:
                return found
        return [_split(document, "/", "#")]


def body_of(response: Node) -> tuple[str, Node]:
    """Return media type and schema of a response: of its JSON, else of its text, else of whatever it has."""
    if response.document.is_swagger:
        return "application/json", response["schema"]
    media = list(response["content"].members())
    ranked = sorted(media, key=lambda found: ("json" not in found[0], found[0] != "*/*", "text" not in found[0]))
    return (ranked[0][0], ranked[0][1]["schema"]) if ranked else ("", Node(response.document, None, response.pointer))


def _swagger_server(document: Document) -> tuple[str, str, str]:
    root = document.root
    schemes = root["schemes"].value
    scheme = next((s for s in ("https", "http") if isinstance(schemes, list) and s in schemes), "https")
    host = f"{scheme}://{root.text('host')}" if root.text("host") else _split(document, "", "")[0]
    return host, root.text("basePath"), "#/basePath"


def _server(document: Document, server: Node) -> tuple[str, str, str]:
    url = server.text("url")
    for name, variable in server["variables"].members():
        default = variable.value.get("default") if isinstance(variable.value, dict) else None
        if isinstance(default, (str, int)):
            url = url.replace(f"{{{name}}}", str(default))
    return _split(document, url, f"{server.pointer}/url")


def _split(document: Document, url: str, pointer: str) -> tuple[str, str, str]:
    try:
        parts = urlsplit(urljoin(document.location, url) if document.location else url)
    except ValueError:
        return "", url, pointer
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else "", parts.path, pointer


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
