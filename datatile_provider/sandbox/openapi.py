"""The OpenAPI document of the API in the dialect of the options: one pure function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datatile_provider.sandbox.codebook import PROPERTIES, TYPES
from datatile_provider.sandbox.options import STATES, STATUS_CODES, Options

_STATES = {
    "QUEUED": "Queued: the job waits to be processed",
    "RUNNING": "Running: the file is being loaded",
    "SUCCEEDED": "Succeeded: the data is in the database",
    "FAILED": "Failed: nothing was loaded; the message says why",
    "CANCELLED": "Cancelled by a user; nothing was loaded",
}
_REJECTIONS = {
    "busy": "The previous upload to the same folder or database is still in progress",
    "too_large": "The file is too large",
    "too_fast": "Too many uploads; try again later",
    "token": "The token is missing, wrong, or replaced by a newer one",
    "role": "The user lacks a role, or may not edit the folder or database",
    "not_found": "No folder, database or job has this hash or id",
    "rejected": "The request is not valid",
}
_FOR_JOBS = ("token", "not_found", "rejected")
_FOR_CODEBOOKS = ("token", "not_found")
EXCEL = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_TEXT = {"type": "string"}


def document(options: Options) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a sandbox with these options."""
    path, query = options.job_route
    parameters = [_parameter(name, value) for name, value in query.items()]
    if "{job_id}" in path:
        parameters.append(_parameter("job_id", "{job_id}", "path"))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DATATILE Data Collector API",
            "version": "2",
            "description": "As the sandbox serves it. Uploads survey files into databases.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": {
            options.upload_path: {"post": _upload(options)},
            path: {
                "get": {
                    "operationId": "getJob",
                    "summary": "Return the status of a processing job",
                    "parameters": parameters,
                    "responses": {
                        "200": _response("The job", "application/json", "Job"),
                        **_rejections(options, _FOR_JOBS),
                    },
                }
            },
            **_codebooks(options),
        },
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "token",
                    "description": "The API token. A new token invalidates the one before it.",
                }
            },
            "schemas": _schemas(options),
        },
    }


def _upload(options: Options) -> dict[str, Any]:
    content = "text/plain" if options.bare_id == "text" else "application/json"
    form = {
        "type": "object",
        "required": ["dataset"],
        "properties": {
            "dataset": {"type": "string", "format": "binary", "description": "The survey file"},
            options.callback_field: {
                "type": "string",
                "format": "uri",
                "description": "Callback URL, to which each status of the job is posted",
            },
        },
    }
    event = {
        "requestBody": {"content": {"application/json": {"schema": _ref("Job")}}},
        "responses": {"2XX": {"description": "The event was received"}},
    }
    return {
        "operationId": "uploadDataset",
        "summary": "Upload a file, and queue a job that loads it",
        "parameters": [
            {
                "name": "action",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "enum": ["create", "reload", "append"]},
                "description": "create makes a new database, reload replaces all its data, append adds to it",
            },
            {
                "name": "hash",
                "in": "path",
                "required": True,
                "schema": _TEXT,
                "description": "For create, the hash of a folder other than the root; else the hash of a database",
            },
        ],
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {
            "200": _response("The file was accepted, and its job is queued", content, "Accepted"),
            **_rejections(options, STATUS_CODES),
        },
        "callbacks": {"status": {f"{{$request.body#/{options.callback_field}}}": {"post": event}}},
    }


def _codebooks(options: Options) -> dict[str, Any]:
    export, as_json, write = options.codebook_routes
    database = {
        "name": "hash",
        "in": "path",
        "required": True,
        "schema": _TEXT,
        "description": "Hash of a database",
    }
    form = {
        "type": "object",
        "required": [options.codebook_field],
        "properties": {options.codebook_field: {"type": "string", "format": "binary", "description": "The codebook"}},
    }
    rejections = _rejections(options, _FOR_CODEBOOKS)
    file = {"description": "The codebook", "content": {EXCEL: {"schema": {"type": "string", "format": "binary"}}}}
    operations: dict[str, dict[str, Any]] = {
        export: {
            "get": {
                "operationId": "exportCodebook",
                "summary": "Return a database's codebook as an Excel file",
                "parameters": [database],
                "responses": {"200": file, **rejections},
            }
        },
        as_json: {
            "get": {
                "operationId": "exportCodebookAsJson",
                "summary": "Return a database's codebook as JSON",
                "parameters": [database],
                "responses": {"200": _response("The codebook", "application/json", "Codebook"), **rejections},
            }
        },
    }
    imported = {
        "operationId": "importCodebook",
        "summary": "Replace what a database's codebook declares, with an Excel file",
        "parameters": [database],
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {
            "200": _response("The codebook was imported", "application/json", "Imported"),
            **_rejections(options, ("too_large", "token", "role", "not_found", "rejected")),
        },
    }
    operations.setdefault(write, {})["post"] = imported
    return operations


def _parameter(name: str, value: str, where: str = "query") -> dict[str, Any]:
    is_id = value == "{job_id}"
    return {
        "name": name,
        "in": where,
        "required": True,
        "schema": _ref("JobId") if is_id else {"type": "string", "const": value},
        **({"description": "The job's id, from the response to the upload"} if is_id else {}),
    }


def _rejections(options: Options, reasons: Any) -> dict[str, Any]:
    """Return the responses of rejections by their status code; several reasons may have the same code."""
    found: dict[str, list[str]] = {}
    for reason in reasons:
        for code in options.codes(reason):
            found.setdefault(str(code), []).append(reason)
    return {code: _rejection(reasons) for code, reasons in found.items()}


def _rejection(reasons: list[str]) -> dict[str, Any]:
    response = _response(". ".join(_REJECTIONS[reason] for reason in reasons), "application/json", "Error")
    if "too_fast" in reasons:
        header = {"description": "Seconds until the next upload is accepted", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": header}
    return response


def _response(description: str, content: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": {content: {"schema": _ref(schema)}}}


def _schemas(options: Options) -> dict[str, Any]:
    named = {options.job_id_field: _ref("JobId"), options.status_field: _ref("Status")}
    time = {"type": "string", "format": "date-time"}
    count = {"type": ["integer", "null"], "minimum": 0}
    job = {
        "action": {"type": "string", "enum": ["create", "reload", "append"]},
        "hash": {"type": "string", "description": "Hash of the upload's folder or database"},
        "filename": _TEXT,
        "total_rows": {**count, "description": "Rows of the database after the upload; null until it has succeeded"},
        "message": {"type": "string", "description": "What happened, for a person"},
        "created_at": time,
        "updated_at": time,
    }
    result = {
        options.rows_field: {**count, "description": "Number of imported rows; null until the job has succeeded"},
        options.database_field: {
            "type": ["string", "null"],
            "description": "Hash of the database that was created or changed; null until it is known",
        },
    }
    return {
        "JobId": {"type": "integer" if options.numeric_ids else "string", "description": "The id of a processing job"},
        "Status": _status(options),
        "Accepted": _ref("JobId") if options.bare_id else _object(named),
        "Job": _object(job | {field: schema for field, schema in (named | result).items()}),
        "Codebook": _object({"variables": {"type": "array", "items": _variable()}, "properties": _switches()}),
        "Imported": _object({"variables": {"type": "integer", "description": "Number of variables"}}),
        "Error": _object({"error": {"type": "string", "description": "Why the request was rejected"}}),
    }


def _variable() -> dict[str, Any]:
    labels = {"type": "object", "additionalProperties": _TEXT, "description": "Labels of the codes"}
    return _object({"name": _TEXT, "type": {"enum": ["", *TYPES]}, "label": _TEXT, "values": labels})


def _switches() -> dict[str, Any]:
    return {"type": "object", "propertyNames": {"enum": [*PROPERTIES]}, "additionalProperties": {"type": "boolean"}}


def _status(options: Options) -> dict[str, Any]:
    meanings: dict[Any, list[str]] = {}
    for state in STATES:
        # In Python, 1 and True are the same key.
        word = options.word(state)
        meanings.setdefault((type(word), word), []).append(_STATES[state])
    return {
        "description": "The status of a processing job",
        "enum": [word for _, word in meanings],
        "x-enum-descriptions": [". ".join(texts) for texts in meanings.values()],
    }


def _ref(schema: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _object(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with these fields; dots in their names separate nested fields."""
    properties: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for field, schema in fields.items():
        name, _, rest = field.partition(".")
        if rest:
            nested.setdefault(name, {})[rest] = schema
        else:
            properties[name] = schema
    properties |= {name: _object(inner) for name, inner in nested.items()}
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
