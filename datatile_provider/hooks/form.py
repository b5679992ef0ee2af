"""The connection form: what it asks, in which words. Airflow 3.2 and later read it without importing the hook."""

from __future__ import annotations

from typing import Any


def _option(label: str, kind: str, description: str) -> dict[str, Any]:
    return {"label": label, "schema": {"type": [kind, "null"]}, "description": description}


#: The options of the connection's extra, as the provider info's ``conn-fields``. The labels are near to the keys, which
#: errors name.
OPTIONS: dict[str, dict[str, Any]] = {
    "timeout": _option(
        "Timeout", "number", "Seconds without any progress after which a request is given up. Empty: 120."
    ),
    "max_upload_bytes": _option(
        "Max upload bytes", "integer", "Files with more bytes are refused before anything is sent. Empty: no limit."
    ),
    "processing_log_url": _option(
        "Processing log URL",
        "string",
        "The page where people see the jobs; logs, errors and links lead there. With {job_id} in it, to the very job. "
        "Empty: the server's start page.",
    ),
    "verify": _option(
        "Verify the certificate",
        "string",
        "true, false, or the path of a CA bundle on the machines that run tasks. Empty: true.",
    ),
    "allow_http": _option(
        "Allow HTTP",
        "boolean",
        "Allow plain http to a server that is not this machine: token and data travel unencrypted.",
    ),
    "proxies": _option(
        "Proxies",
        "string",
        'A JSON object: {"https": "http://proxy.example.com:3128"}. Empty: the proxies of the environment.',
    ),
    "api_path": _option("API path", "string", "Where the API stands on the server. Empty: api/v2."),
    "job_path": _option("Job path", "string", "Where a job's status is asked for. Empty: {api_path}/jobs/{job_id}."),
    "job_id_field": _option(
        "Job id field",
        "string",
        "Where the upload's answer holds the job's id, dots for nested fields: result.id. Empty: the usual names.",
    ),
    "status_field": _option(
        "Status field",
        "string",
        "Where the job's answer holds its status, dots for nested fields. Empty: the usual names.",
    ),
    "status_map": _option(
        "Status map",
        "string",
        "A JSON object of the server's own words for QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED: "
        '{"in line": "QUEUED"}. Empty: the usual words.',
    ),
    "callback_field": _option(
        "Callback field", "string", "The upload's form field for the callback URL. Empty: callback."
    ),
}

HIDDEN_FIELDS = ["login", "extra"]
RELABELING = {"host": "Server", "schema": "Protocol", "password": "API token"}
PLACEHOLDERS = {
    "host": "datatile.example.com",
    "schema": "https",
    "port": "443",
    "password": "From your Profile page in DATATILE; a new one ends the old",
}
