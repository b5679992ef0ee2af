"""The responses of operations, and examples of them that the provider reads."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from datatile_provider.api.errors import DatatileError
from datatile_provider.api.models import Action, ServerConfig, Upload
from datatile_provider.api.options import Options
from datatile_provider.api.parsing import read_job, read_upload
from datatile_provider.api.responses import Response
from datatile_provider.api.settings import Settings
from datatile_provider.api.states import JobState, state_of
from datatile_provider.cli.openapi.document import Node, Operation, body_of
from datatile_provider.cli.openapi.names import NOT_IDS
from datatile_provider.cli.openapi.schemas import Field, example, fields, schema_of
from datatile_provider.cli.openapi.vocabulary import has_any, tokens

_DEFAULT = ServerConfig("")


def server_with(extra: dict[str, Any]) -> ServerConfig | None:
    """Return a server with some options, as a connection with that extra would have it; None if they are invalid."""
    known = {name: value for name, value in extra.items() if name in Options.model_fields}
    try:
        return Settings.of("learned", host="datatile.example.com", token="token", extra=json.dumps(known)).server  # noqa: S106 - none is sent
    except DatatileError:
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """
    The response of an upload operation.

    :param node: the response.
    :param media: its media type.
    :param fields: the fields of its body.
    :param status: its HTTP status.
    """

    node: Node
    media: str
    fields: list[Field]
    status: int

    @classmethod
    def of(cls, operation: Operation) -> Answer:
        """Return the response of success of an operation."""
        status, node = operation.success()
        media, schema, examples = body_of(node)
        found = fields(schema)
        if len(found) == 1 and not found[0].kinds & {"string", "integer", "number"}:
            examples += [part.value["example"] for part in found[0].parts if "example" in part.value]
            found = fields(schema_of(examples, node)) if examples else found
        return cls(node, media, found, status)

    @property
    def ids(self) -> list[Field]:
        """The fields that can be an id."""
        return [f for f in self.fields if f.path and not f.listed and _can_be_id(f)]

    @property
    def is_bare(self) -> bool:
        """Whether the whole body is a text or a number."""
        return bool(self.fields[0].parts) and bool(self.fields[0].kinds & {"string", "integer", "number"})


def _can_be_id(field: Field) -> bool:
    words = tokens(field.name)
    plain = not field.formats & {"date-time", "date", "uri", "url", "uri-reference", "email", "float", "double"}
    return field.scalar and plain and not field.values and not set(words) & set(NOT_IDS)


def read_id(server: ServerConfig, answer: Answer, chosen: Field | None, *, sparse: bool = False) -> tuple[str, str]:
    """
    Read an example of an upload's response as the provider does.

    :param chosen: the field that holds the job's id; None if the whole body is it.
    :param sparse: whether only the required fields and that field are in the example.
    :return: the id that was read, or ``""``, and the right one.
    """
    job_id = _example_id(chosen or answer.fields[0])

    def value_of(field: Field, number: int) -> Any:
        return job_id if field.path == (chosen.path if chosen else ()) else filler(field, number)

    def wanted(field: Field) -> bool:
        of_chosen = chosen is not None and chosen.path[: len(field.path)] == field.path
        return not sparse or field.required or of_chosen

    value = example(answer.fields, value_of, wanted)
    body = value if isinstance(value, str) and "json" not in answer.media else json.dumps(value)
    response = Response(answer.status, str(body).encode("utf-8", "replace"))
    try:
        return read_upload(server, Upload(Action.CREATE, "0f3a9c2b", "wave.sav", 1), response).id, str(job_id)
    except DatatileError:
        return "", str(job_id)


def _example_id(field: Field) -> str | int:
    given = [part.value.get("example") for part in field.parts]
    for value in given:
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return value
    return 4711 if "integer" in field.kinds or "number" in field.kinds else "7f0c1f1e-8a55-4c6e-9a3e-2b1d5d0c4711"


def filler(field: Field, number: int) -> Any:
    """Return an example of a field that means nothing to the provider, in a response of success."""
    words = tokens(field.name)
    if has_any(words, ("error", "fail", "exception", "warning")):
        return None
    if field.values:
        calm = (v for v in field.values if not state_of(_DEFAULT, str(v)).failed and not re.fullmatch("[45]..", str(v)))
        return next(calm, None)
    if "boolean" in field.kinds:
        return bool(set(words) & {"success", "ok", "accepted", "queued"})
    if field.kinds & {"integer", "number"}:
        return 200 if set(words) & {"code", "status"} else 100_000 + number
    return f"x{number}"


_JOB_ID = 4711


def read_status(
    server: ServerConfig,
    answer: Answer,
    status: Field,
    word: tuple[str, JobState],
    id_names: tuple[str, ...],
    *,
    sparse: bool = False,
) -> JobState | None:
    """
    Read an example of a job's response as the provider does.

    :param status: the field of the status.
    :param word: what it holds, and the state that this stands for.
    :param id_names: the names that the job's id may have, the likeliest first.
    :param sparse: whether only the required fields and the status are in the example.
    :return: the state that was read; None if the status is unclear.
    """
    own = _own_id(answer.fields, status, id_names)
    text, state = word
    at_status: str | int = text
    if status.has_flags and text in ("true", "false"):
        at_status = text == "true"
    elif "string" not in status.kinds and re.fullmatch(r"-?[0-9]{1,9}", text):
        at_status = int(text)

    def value_of(field: Field, number: int) -> Any:
        if field.path == status.path:
            return at_status
        if own and field.path == own.path:
            return str(_JOB_ID) if "string" in field.kinds else _JOB_ID
        return _beside(field, number, state)

    def wanted(field: Field) -> bool:
        return not sparse or field.required or status.path[: len(field.path)] == field.path

    body = json.dumps(example(answer.fields, value_of, wanted)).encode()
    try:
        return read_job(server, str(_JOB_ID), Response(200, body)).state
    except DatatileError:
        return None


def _own_id(found: list[Field], status: Field, id_names: tuple[str, ...]) -> Field | None:
    """Return the field that names the job: beside the status, or around it."""
    around = [status.path[:depth] for depth in range(len(status.path) - 1, -1, -1)]
    ids = {f.path: f for f in found if f.path and f.scalar and not f.values}
    return next((ids[path] for a in around for name in id_names if (path := (*a, name)) in ids), None)


def _beside(field: Field, number: int, state: JobState) -> Any:
    """Return an example of what a job in that state reports beside its status."""
    words = set(tokens(field.name))
    same = [v for v in field.values if state_of(_DEFAULT, str(v)) is state]
    if same:
        return same[0]
    if words & {"progress", "percent", "percentage"} and field.kinds & {"integer", "number"}:
        return 100 if state.finished else 50
    if "boolean" in field.kinds:
        return state.finished if words & {"done", "finished", "completed"} else words & {"success", "ok"} > set()
    if state.failed and has_any(words, ("error", "fail", "exception")):
        return f"x{number}" if "string" in field.kinds else None
    return filler(field, number)


def result_example(answer: Answer, chosen: Field) -> tuple[dict[str, Any], str | int]:
    """Return an example of a finished job's response, and the value of a field in it."""
    right: str | int = 4711 if chosen.kinds & {"integer", "number"} else "0f3a9c2b7d4e5f61"

    def value_of(field: Field, number: int) -> Any:
        return right if field.path == chosen.path else _beside(field, number, JobState.SUCCEEDED)

    value = example(answer.fields, value_of, lambda field: True)
    return (value if isinstance(value, dict) else {}), right
