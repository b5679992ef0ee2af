"""A small document of a server, to be changed by the tests."""

from __future__ import annotations

from typing import Any


def new_document() -> dict[str, Any]:
    """Return a document of OpenAPI 3.0 for a server that speaks as the defaults of the connection assume."""
    job = {
        "type": "object",
        "properties": {
            "job_id": {"type": "string", "description": "Id of the processing job"},
            "status": {"type": "string", "enum": ["queued", "running", "done", "failed"]},
        },
    }
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}
    form = {"type": "object", "properties": {"dataset": {"type": "string", "format": "binary"}}}
    return {
        "openapi": "3.0.3",
        "info": {"title": "Data Collector", "version": "2"},
        "servers": [{"url": "https://datatile.example.com/api/v2"}],
        "security": [{"token": []}],
        "components": {
            "schemas": {"Job": job},
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "token"}},
        },
        "paths": {
            "/upload/{action}/{hash}": {
                "post": {
                    "requestBody": {"content": {"multipart/form-data": {"schema": form}}},
                    "responses": {"202": {"description": "Queued", "content": body}},
                }
            },
            "/jobs/{job_id}": {"get": {"responses": {"200": {"description": "The job", "content": body}}}},
        },
    }
