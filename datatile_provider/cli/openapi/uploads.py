"""Finds the upload operations, and what a request must hold: path, file, callback and token."""

from __future__ import annotations

import re
from dataclasses import dataclass

from datatile_provider.api.models import Action, ServerConfig
from datatile_provider.cli.openapi.document import Document, Node, Operation
from datatile_provider.cli.openapi.findings import Certainty, Finding
from datatile_provider.cli.openapi.load import DocumentError
from datatile_provider.cli.openapi.schemas import Field, fields
from datatile_provider.cli.openapi.vocabulary import has_any, tokens

_PATH = re.compile(r"(?P<prefix>(?:/.*)?)/upload/(?P<action>[^/{}]+|\{[^{}/]+\})/\{[^{}/]+\}(?P<slash>/?)")
_ACTIONS = tuple(action.value for action in Action)
_DEFAULT = ServerConfig("")
_CALLBACKS = ("callback", "webhook", "hook", "notif", "postback", "ruckruf", "rappel")
_NO_URL = ("secret", "token", "method", "header", "event", "email", "mail", "retries", "timeout", "password", "format")


@dataclass(frozen=True, slots=True)
class UploadOperation:
    """
    An operation that uploads a file.

    :param operation: the operation.
    :param actions: the actions that it takes.
    :param prefix: its path before ``/upload/``, below the server's base path.
    :param slash: the slash at the end of its path, or ``""``.
    """

    operation: Operation
    actions: tuple[str, ...]
    prefix: str
    slash: str


def uploads_of(document: Document) -> list[UploadOperation]:
    """
    Return the upload operations of a document.

    :raises DocumentError: there are none, so it is not the document of DATATILE's Data Collector API.
    """
    found = [upload for operation in document.operations() if (upload := _upload(operation))]
    current = [u for u in found if u.operation.node.value.get("deprecated") is not True] or found
    if current:
        return current
    others = [o.name for o in document.operations() if o.method in ("post", "put") and "multipart" in o.form()[0]]
    near = f" Its uploads of files are: {', '.join(others[:5])[:300]}." if others else ""
    raise DocumentError(
        "This is not the document of DATATILE's Data Collector API: it has no POST …/upload/{action}/{hash}",
        hint=f"Give the OpenAPI document of the server that takes the uploads.{near}",
    )


def _upload(operation: Operation) -> UploadOperation | None:
    match = _PATH.fullmatch(filled(operation, operation.path))
    if not match or operation.method != "post":
        return None
    action = match["action"]
    allowed: tuple[str, ...] = (action,)
    if action.startswith("{"):
        parameter = _parameter(operation, "path", action[1:-1])
        values = fields(parameter["schema"] if parameter["schema"] else parameter)[0].values if parameter else []
        allowed = tuple(str(value) for value in values) or _ACTIONS
    actions = tuple(a for a in _ACTIONS if a in allowed)
    return UploadOperation(operation, actions, match["prefix"], match["slash"]) if actions else None


def filled(operation: Operation, path: str) -> str:
    """Return a path with those of its parameters filled in that can have one value only."""
    for name in re.findall(r"\{([^{}/]+)\}", path):
        parameter = _parameter(operation, "path", name)
        if parameter:
            schema = parameter["schema"] if parameter["schema"] else parameter
            values = fields(schema)[0].values
            default = schema.value.get("default") if isinstance(schema.value, dict) else None
            if len(values) == 1 or isinstance(default, str):
                path = path.replace(f"{{{name}}}", str(values[0] if len(values) == 1 else default))
    return path


def _parameter(operation: Operation, place: str, name: str) -> Node | None:
    return next((p for p in operation.parameters() if (p.text("in"), p.text("name")) == (place, name)), None)


def find_actions(uploads: list[UploadOperation]) -> Finding:
    """Return whether the three actions are there, once each."""
    by_action = {a: [u for u in uploads if a in u.actions] for a in _ACTIONS}
    names = tuple(dict.fromkeys(upload.operation.name for upload in uploads))
    where = uploads[0].operation.node.pointer
    shown = ", ".join(names)
    if missing := [action for action, found in by_action.items() if not found]:
        why = f"there is none for {' and '.join(missing)}"
        return Finding("uploads", Certainty.NOT_FOUND, shown, where=where, why=why, candidates=names)
    if any(upload.slash for upload in uploads):
        why = "the path ends with a slash, and this provider sends none"
        return Finding("uploads", Certainty.DIFFERS, shown, where=where, why=why)
    return Finding("uploads", Certainty.SURE, shown, where=where)


def find_api_path(uploads: list[UploadOperation]) -> Finding:
    """Return where the API is on the server, with the base path of the server's URL."""
    found: dict[str, tuple[str, str]] = {}
    for upload in uploads:
        for host, base, pointer in upload.operation.prefixes():
            path = "/".join(part for part in f"{base}/{upload.prefix}".split("/") if part)
            found.setdefault(path, (host, pointer))
    path, (host, pointer) = next(iter(found.items()))
    topic = "path of the API"
    if len(found) > 1:
        why = "the document names several, as paths of servers or of uploads"
        return Finding(topic, Certainty.NOT_FOUND, option="api_path", where=pointer, why=why, candidates=tuple(found))
    if not path or "{" in path or ".." in path or re.search(r"[\s?#]", path):
        why = "it is the server's root" if not path else "the document does not say all of it"
        return Finding(topic, Certainty.DIFFERS, f"/{path}", "api_path", where=pointer, why=why)
    value = None if path == _DEFAULT.api_path else path
    return Finding(topic, Certainty.SURE, path, "api_path", value, pointer, f"for the host {host}" if host else "")


def find_host(uploads: list[UploadOperation]) -> Finding:
    """Return the host of the connection, which is no option."""
    hosts = tuple(dict.fromkeys(host for u in uploads for host, _, _ in u.operation.prefixes() if host))
    where = uploads[0].operation.prefixes()[0][2]
    topic = "host of the connection"
    if len(hosts) == 1 and "{" not in hosts[0]:
        return Finding(topic, Certainty.LIKELY, hosts[0], where=where, why="your server may be another", needed=False)
    why = "the document names several" if hosts else "use your server's name, without a path"
    return Finding(topic, Certainty.NOT_FOUND, where=where, why=why, candidates=hosts, needed=False)


def _form(operation: Operation) -> list[Field]:
    return [f for schema in operation.form()[1] for f in fields(schema) if len(f.path) == 1]


def _is_file(field: Field) -> bool:
    media = bool(field.formats & {"binary", "base64", "byte"}) or any("/" in f for f in field.formats)
    return media or "file" in field.kinds


def find_part(uploads: list[UploadOperation]) -> Finding:
    """Return whether the file is in the part that the vendor documents."""
    topic = "part of the file"
    for upload in uploads:
        media, _ = upload.operation.form()
        form = _form(upload.operation)
        files = [f.path[0] for f in form if _is_file(f)]
        where = f"{upload.operation.node.pointer}/{'parameters' if not media else 'requestBody'}"
        if media and "multipart" not in media:
            return Finding(topic, Certainty.DIFFERS, media, where=where, why="uploads are sent as multipart/form-data")
        if "dataset" in (f.path[0] for f in form):
            continue
        if files:
            why = "the vendor documents dataset"
            return Finding(topic, Certainty.DIFFERS, ", ".join(files), where=where, why=why)
        why = "the vendor documents dataset"
        return Finding(topic, Certainty.NOT_FOUND, where=where, why=why, needed=False)
    return Finding(topic, Certainty.SURE, "dataset", where=uploads[0].operation.node.pointer)


def find_callback(uploads: list[UploadOperation]) -> Finding:
    """Return the form field of the callback URL."""
    found = [_callback(upload.operation) for upload in uploads]
    values = {(finding.found, finding.certainty) for finding in found}
    if len(values) == 1:
        return found[0]
    names = tuple(dict.fromkeys(f.found for f in found if f.found))
    if len(names) == 1:
        return next(f for f in found if f.found)
    why = "it differs between the uploads"
    candidates = names or tuple(c for f in found for c in f.candidates)
    return Finding("field of the callback", Certainty.NOT_FOUND, why=why, candidates=candidates, needed=False)


def _callback(operation: Operation) -> Finding:
    topic, option = "field of the callback", "callback_field"
    form = {f.path[0]: f for f in _form(operation) if not _is_file(f)}
    where = operation.node.pointer
    # OpenAPI 3 can name the field: the key of a callback is an expression such as {$request.body#/callback_url}.
    linked = [
        match[1]
        for _, callback in operation.node["callbacks"].members()
        for expression, _ in callback.members()
        if (match := re.search(r"\$request\.body#/([^/{}]+)\}", expression)) and match[1] in form
    ]
    named = [n for n, f in form.items() if _is_url(f) and has_any(tokens(n), _CALLBACKS)]
    told = [n for n, f in form.items() if _is_url(f) and has_any(tokens(f.about), _CALLBACKS)]
    urls = [n for n, f in form.items() if _is_url(f) and f.formats & {"uri", "url"}]
    for names, certainty, why in (
        (linked, Certainty.SURE, "the operation's callbacks name it"),
        (named, Certainty.SURE, ""),
        (told, Certainty.SURE, "by its description"),
        (urls, Certainty.LIKELY, "it is the only field with a URL"),
    ):
        if len(set(names)) == 1:
            name = names[0]
            value = None if name == _DEFAULT.callback_field else name
            return Finding(topic, certainty, name, option, value, form[name].node.pointer, why, needed=False)
        if names:
            why = "there are several fields that it can be"
            return Finding(
                topic, Certainty.NOT_FOUND, "", option, None, where, why, tuple(dict.fromkeys(names)), needed=False
            )
    elsewhere = [p.text("name") for p in operation.parameters() if has_any(tokens(p.text("name")), _CALLBACKS)]
    if elsewhere:
        why = "it is not in the form"
        return Finding(topic, Certainty.DIFFERS, elsewhere[0], option, where=where, why=why, needed=False)
    return Finding(topic, Certainty.NOT_FOUND, "", option, where=where, why="no field is about it", needed=False)


def _is_url(field: Field) -> bool:
    return field.kinds <= {"string"} and not has_any(tokens(field.path[0]), _NO_URL) and not field.values
