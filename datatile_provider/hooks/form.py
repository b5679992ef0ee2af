"""The fields of the connection form. Airflow 3.2 and later read them without importing the hook."""

from __future__ import annotations

from typing import Any


def _option(label: str, kind: str, description: str) -> dict[str, Any]:
    return {"label": label, "schema": {"type": [kind, "null"]}, "description": description}


#: The options of the connection's extra, as the provider info's ``conn-fields``. Each label resembles its key, because
#: errors name the key.
OPTIONS: dict[str, dict[str, Any]] = {
    "timeout": _option("Timeout", "number", "Seconds without progress after which a request times out. Empty: 120."),
    "max_upload_bytes": _option(
        "Max upload bytes", "integer", "Larger files are rejected before anything is sent. Empty: no limit."
    ),
    "processing_log_url": _option(
        "Processing log URL",
        "string",
        "URL of the page that lists the jobs, for links, logs and errors. With {job_id} in it, links also open the job "
        "itself. Empty: the server's start page.",
    ),
    "verify": _option(
        "Verify the certificate",
        "string",
        "true, false, or the path of a CA bundle on the workers and triggerers. Empty: true.",
    ),
    "allow_http": _option(
        "Allow HTTP",
        "boolean",
        "Allow plain http to a server on another machine. The token and the data are sent unencrypted.",
    ),
    "proxies": _option(
        "Proxies",
        "string",
        'A JSON object: {"https": "http://proxy.example.com:3128"}. Empty: the proxies from the environment.',
    ),
    "api_path": _option("API path", "string", "Path of the API on the server. Empty: api/v2."),
    "job_path": _option("Job path", "string", "Path of a job's status on the server. Empty: {api_path}/jobs/{job_id}."),
    "job_id_field": _option(
        "Job id field",
        "string",
        "Field of the upload's response with the job's id. Dots for nested fields: result.id. Empty: the usual names.",
    ),
    "status_field": _option(
        "Status field",
        "string",
        "Field of the job's response with its status. Dots for nested fields: result.status. Empty: the usual names.",
    ),
    "status_map": _option(
        "Status map",
        "string",
        "A JSON object that maps the server's statuses to QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED: "
        '{"in line": "QUEUED"}. Empty: the usual words.',
    ),
    "callback_field": _option(
        "Callback field", "string", "Form field of the upload that holds the callback URL. Empty: callback."
    ),
}

HIDDEN_FIELDS = ["login", "extra"]
RELABELING = {"host": "Server", "schema": "Protocol", "password": "API token"}
PLACEHOLDERS = {
    "host": "datatile.example.com",
    "schema": "https if empty",
    # Airflow 3.3.2 sends an empty port as 0 when it tests a saved connection, and rejects that as another destination.
    "port": "443 if empty; Airflow 3.3's Test button needs it filled in",
    "password": "From your DATATILE Profile page; a new token invalidates the old one",
}
