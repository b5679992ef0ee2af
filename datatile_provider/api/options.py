"""The options of a connection. Each is declared once: its validation, and its texts in messages, form and docs."""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, WrapValidator

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.api.rejections import MEANINGS, NOT_TRUSTED
from datatile_provider.api.states import JobState, folded
from datatile_provider.api.validation import is_web_address


def _otherwise(message: str, is_valid: Callable[[Any], object] = lambda value: True) -> WrapValidator:
    """Say what a value must be. The outermost message counts. Pydantic's would repeat the value, maybe a token."""

    def validate(value: Any, inner: Callable[[Any], Any]) -> Any:
        with suppress(ValidationError, RecursionError):
            found = inner(value)
            if is_valid(found):
                return found
        raise ValueError(message)

    return WrapValidator(validate)


def _text_as(parse: Callable[[str], Any]) -> BeforeValidator:
    """Take text too: a connection URI, and most fields of the form, can hold nothing else."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _unambiguous(status_map: dict[str, JobState]) -> dict[str, JobState]:
    seen: dict[str, str] = {}
    for word, state in status_map.items():
        other = seen.setdefault(folded(word), word)
        if status_map[other] is not state:
            raise ValueError(f"{other!r} and {word!r} are the same status, and it maps them to two states")
    return status_map


def _loadable(verify: bool | str) -> bool | str:
    try:
        if isinstance(verify, str):
            _load_bundle(verify, os.stat(verify).st_mtime_ns)
    except OSError as e:
        raise ValueError(f"the CA bundle cannot be used ({e})") from None
    return verify


@functools.lru_cache(maxsize=16)
def _load_bundle(bundle: str, mtime_ns: int) -> None:
    """Make sure that a CA bundle can be loaded. Cached by the file's time, since loading takes tens of milliseconds."""
    # Importing ssl takes milliseconds, and few connections name a bundle.
    from datatile_provider.api import tls

    tls.tls_context(bundle)


_FIELD = "it must be a field name, with dots for nested fields"
_FLAG_AS_TEXT = _text_as(lambda text: {"true": True, "false": False}.get(text.lower(), text))
_STATES = ", ".join(state.value for state in JobState if state is not JobState.UNKNOWN)

_Seconds = Annotated[
    float,
    Field(gt=0, le=86_400),
    _text_as(float),
    _otherwise("it must be a number of seconds above 0 and at most 86400"),
]
_Bytes = Annotated[int | None, Field(gt=0), _text_as(int), _otherwise("it must be a whole number of bytes above 0")]
_Connections = Annotated[
    int, Field(ge=2, le=1_000), _text_as(int), _otherwise("it must be a whole number from 2 to 1000")
]
_Flag = Annotated[bool, _FLAG_AS_TEXT, _otherwise("it must be true or false")]
_Verify = Annotated[
    bool | str,
    _FLAG_AS_TEXT,
    _otherwise(
        "it must be true, false, or the path of a CA bundle on this machine",
        lambda verify: isinstance(verify, bool) or os.path.exists(verify),
    ),
    AfterValidator(_loadable),
]
_Text = Annotated[str, AfterValidator(str.strip), _otherwise("", str.isprintable)]
_WebAddress = Annotated[_Text, _otherwise("it must be an http or https URL", is_web_address)]
_Proxies = Annotated[
    dict[Annotated[str, Field(pattern="^https?$")], Annotated[str, _otherwise("", is_web_address)]],
    _text_as(json.loads),
    _otherwise("it must be a JSON object that maps 'http' and 'https' to proxy URLs"),
]
_Path = Annotated[
    _Text,
    AfterValidator(lambda path: path.strip("/")),
    _otherwise("it must be a path on the server, such as 'api/v2'", re.compile(r"(?!.*(://|\.\.))[^\s?#]+").fullmatch),
]
_JobPath = Annotated[
    _Text,
    AfterValidator(lambda path: path.lstrip("/")),
    _otherwise(
        "it must be a path on the server with {job_id} in it, such as '{api_path}/jobs/{job_id}'",
        re.compile(r"(?!.*(://|\.\.))(?=.*\{job_id\})[^\s#]+").fullmatch,
    ),
]
_CodebookPath = Annotated[
    _Text,
    AfterValidator(lambda path: path.lstrip("/")),
    _otherwise(
        "it must be a path on the server with {hash} in it, such as '{api_path}/projects/{hash}/codebook'",
        re.compile(r"(?!.*(://|\.\.))(?=.*\{hash\})[^\s?#]+").fullmatch,
    ),
]
_Field = Annotated[_Text, _otherwise(_FIELD, lambda path: all(name.strip() for name in path.split(".")))]
_FormField = Annotated[_Field, _otherwise(_FIELD, lambda name: " " not in name)]
_StatusMap = Annotated[
    dict[str, Annotated[JobState, Field(strict=False)]],
    _text_as(json.loads),
    _otherwise(
        f"it must be a JSON object that maps the server's statuses to {_STATES}",
        lambda states: JobState.UNKNOWN not in states.values(),
    ),
    AfterValidator(_unambiguous),
]
_StatusCodes = Annotated[
    dict[Annotated[int, Field(ge=400, lt=500, strict=False)], str],
    _text_as(json.loads),
    _otherwise(
        "it must be a JSON object that maps status codes from 400 to 498, except 408 and 425, to one of: "
        f"{', '.join(MEANINGS)}",
        lambda codes: codes.keys().isdisjoint(NOT_TRUSTED) and set(codes.values()) <= set(MEANINGS),
    ),
]
_Ledger = Annotated[
    _Text,
    _otherwise(
        "it must be a URI such as 'file:///shared/ledger' or 's3://conn_id@bucket/ledger'",
        re.compile(r"file:///[^\s]+|(?!file:)[a-z0-9]+://[^\s:/?#]+(/[^\s?#]*)?").fullmatch,
    ),
]


class Options(BaseModel, frozen=True, hide_input_in_errors=True, strict=True):
    """
    The options in an Airflow connection's extra.

    The form shows the title, or else the key in words, and the description. The docs show its first sentence. Markdown
    is for the docs only. A description that ends with ``Empty: …`` says what the default means.
    """

    timeout: _Seconds = Field(120, description="Seconds without progress after which a request times out.")
    max_upload_bytes: _Bytes = Field(
        None, description="Larger files are rejected before anything is sent. Empty: no limit."
    )
    max_connections: _Connections = Field(
        100,
        description="The most connections of a triggerer for polls of this server. They are opened as they are needed.",
    )
    processing_log_url: _WebAddress = Field(
        "",
        title="Processing log URL",
        description="URL of the page that lists the jobs, for links, logs and errors. With `{job_id}` in it, links "
        "also open the job itself. Empty: the server's start page.",
    )
    verify: _Verify = Field(
        True,
        title="Verify the certificate",
        description="`true`, `false`, or the path of a CA bundle on the workers and triggerers.",
    )
    allow_http: _Flag = Field(
        False,
        title="Allow HTTP",
        description="Allow plain http to a server on another machine. The token and the data are sent unencrypted.",
    )
    proxies: _Proxies = Field(
        {},
        description='A JSON object: `{"https": "http://proxy.example.com:3128"}`. '
        "Empty: the proxies from the environment.",
    )
    api_path: _Path = Field("api/v2", title="API path", description="Path of the API on the server.")
    job_path: _JobPath = Field("{api_path}/jobs/{job_id}", description="Path of a job's status on the server.")
    codebook_export_path: _CodebookPath = Field(
        "{api_path}/projects/{hash}/api/codebook/export-v2/",
        description="Path from which a database's codebook is read.",
    )
    codebook_import_path: _CodebookPath = Field(
        "{api_path}/projects/{hash}/api/codebook/import-v2/",
        description="Path to which a database's codebook is written.",
    )
    codebook_field: _FormField = Field("file", description="Form field of the codebook's file when it is written.")
    job_id_field: _Field | None = Field(
        None,
        description="Field of the upload's response with the job's id. Dots for nested fields: `result.id`. "
        "Empty: the usual names.",
    )
    status_field: _Field | None = Field(
        None,
        description="Field of the job's response with its status. Dots for nested fields: `result.status`. "
        "Empty: the usual names.",
    )
    status_map: _StatusMap = Field(
        {},
        description='The server\'s words for states, as a JSON object: `{"in line": "QUEUED"}`. '
        f"The states are {_STATES}. Empty: the usual words.",
    )
    callback_field: _FormField = Field("callback", description="Form field of the upload that holds the callback URL.")
    rows_field: _Field | None = Field(
        None,
        description="Field of a finished job's response with the number of imported rows. Empty: the usual names.",
    )
    database_field: _Field | None = Field(
        None, description="Field of a finished job's response with the database's hash. Empty: the usual names."
    )
    status_codes: _StatusCodes = Field(
        {},
        description='The server\'s own HTTP status codes, as a JSON object: `{"400": "busy"}`. '
        f"The meanings are {', '.join(MEANINGS)}. Empty: the usual codes.",
    )
    ledger: _Ledger = Field(
        "",
        description="URI of a folder or an object store that all tasks share: `file:///shared/ledger` or "
        "`s3://conn_id@bucket/ledger`. A create or append of content that went to the same target before is then "
        "noticed, also across runs and DAGs. Empty: no ledger.",
    )
    ledger_optional: _Flag = Field(
        False,
        title="Send without the ledger",
        description="Send a create or append with a warning when the ledger can't be used. Otherwise it fails.",
    )

    @classmethod
    def of(cls, where: str, extra: str | None) -> Options:
        """Return the options in an extra. The errors begin with ``where``, and name the option."""
        try:
            given = json.loads(extra) if extra and extra.strip() else {}
        except (ValueError, RecursionError) as e:
            raise InvalidInputError(
                f"{where} has an extra that is not JSON ({e})", hint="Check its quotes, commas and brackets."
            ) from None
        if not isinstance(given, dict):
            raise InvalidInputError(
                f"{where} has an extra that is not a JSON object", hint='Write it as in {"timeout": 300}.'
            )
        for name in given:
            if name not in cls.model_fields:
                close = difflib.get_close_matches(name, cls.model_fields, n=1)
                raise InvalidInputError(
                    f"{where} has an unknown option {name!r} in its extra",
                    hint=f"Did you mean {close[0]!r}?" if close else f"The options are: {', '.join(cls.model_fields)}.",
                )
        try:
            # Airflow's connection form stores an empty field as an empty string.
            return cls.model_validate({name: value for name, value in given.items() if value not in (None, "")})
        except ValidationError as e:
            error = e.errors(include_url=False, include_input=False)[0]
        raise InvalidInputError(f"{where} has an invalid {error['loc'][0]!r} in its extra: {error['ctx']['error']}")
