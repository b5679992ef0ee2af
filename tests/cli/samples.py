"""A small document of a server that speaks as the defaults of the connection assume, and parts to change in it."""

from __future__ import annotations

from typing import Any

UPLOAD = "/upload/{action}/{hash}"
POLL = "/jobs/{job_id}"
WORDS = ["queued", "running", "done", "failed"]


def fields(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object. A field is a schema or the name of its type."""
    named = {name: {"type": p} if isinstance(p, str) else p for name, p in properties.items()}
    return {"type": "object", "properties": named}


def returns(schema: Any, status: str = "200") -> dict[str, Any]:
    """Return the responses of an operation that returns JSON."""
    return {status: {"description": "OK", "content": {"application/json": {"schema": schema}}}}


def new_document(
    *,
    upload: Any = None,
    job: Any = None,
    form: dict[str, Any] | None = None,
    rejections: dict[str, str] | None = None,
    poll: str = POLL,
) -> dict[str, Any]:
    """
    Return a document of OpenAPI 3.0.

    :param upload: the schema of the response to an upload.
    :param job: the schema of the response to a poll.
    :param form: the form's fields besides the file.
    :param rejections: the descriptions of the upload's other responses, by status.
    :param poll: the path of a job's status.
    """
    usual = fields(job_id={"type": "string", "description": "Id of the processing job"}, status={"enum": [*WORDS]})
    body = fields(dataset={"type": "string", "format": "binary"}, **(form or {}))
    return {
        "openapi": "3.0.3",
        "info": {"title": "Data Collector", "version": "2"},
        "servers": [{"url": "https://datatile.example.com/api/v2"}],
        "security": [{"token": []}],
        "components": {
            "schemas": {"Job": usual},
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "token"}},
        },
        "paths": {
            UPLOAD: {
                "post": {
                    "requestBody": {"content": {"multipart/form-data": {"schema": body}}},
                    "responses": {
                        **returns(upload or {"$ref": "#/components/schemas/Job"}, "202"),
                        **{status: {"description": text} for status, text in (rejections or {}).items()},
                    },
                }
            },
            poll: {"get": {"responses": returns(job or {"$ref": "#/components/schemas/Job"})}},
        },
    }
