"""A connection's fields: valid values, and invalid ones, which an error message names."""

from __future__ import annotations

import json
import os
from typing import Any

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.api.options import Options
from datatile_provider.api.settings import Settings
from datatile_provider.api.states import JobState
from tests.support.reading import one_line

TOKEN = "s3cret-token/+="


def settings_of(host: str | None = "datatile.example.com", *, token: str | None = TOKEN, **kwargs: Any) -> Settings:
    extra = kwargs.pop("extra", None)
    if extra is not None and not isinstance(extra, str):
        extra = json.dumps(extra)
    return Settings.of("study", host=host, token=token, extra=extra, **kwargs)


def rejection_of(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(InvalidInputError) as caught:
        settings_of(*args, **kwargs)
    message = one_line(caught.value)
    assert "The connection 'study'" in message
    assert TOKEN not in message
    assert message.isprintable()
    return message


def test_defaults():
    settings = settings_of()
    assert settings.server.url == "https://datatile.example.com"
    assert settings.server.processing_log_url == "https://datatile.example.com/"
    assert (settings.timeout, settings.verify, settings.max_upload_bytes) == (120.0, True, None)
    assert TOKEN not in repr(settings)
    assert settings.token == TOKEN
    # The options and the clients have the same defaults.
    assert settings == Settings(type(settings.server)(settings.server.url), TOKEN)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "srv"}, "https://srv"),
        ({"host": " srv/ "}, "https://srv"),
        ({"host": "srv", "port": 8443}, "https://srv:8443"),
        ({"host": "srv:8443", "port": 1}, "https://srv:8443"),
        ({"host": "srv/base/"}, "https://srv/base"),
        ({"host": "https://srv:8443/base"}, "https://srv:8443/base"),
        ({"host": "HTTPS://Srv"}, "https://srv"),
        ({"host": "https://srv", "schema": "https"}, "https://srv"),
        ({"host": "[::1]:8000", "schema": "http"}, "http://[::1]:8000"),
        ({"host": "http://[2001:db8::1]", "extra": {"allow_http": True}}, "http://[2001:db8::1]"),
        ({"host": "localhost", "schema": "http", "port": 80}, "http://localhost"),
        ({"host": "http://127.9.9.9"}, "http://127.9.9.9"),
        ({"host": "srv", "schema": "HTTP", "extra": {"allow_http": "true"}}, "http://srv"),
    ],
)
def test_addresses(fields, url):
    assert settings_of(**fields).server.url == url


@pytest.mark.parametrize("host", [None, "", "  "])
def test_no_host(host):
    assert "host" in rejection_of(host)


@pytest.mark.parametrize(
    "host",
    [
        f"https://user:{TOKEN}@srv",
        "user@srv",
        "srv?x=1",
        "srv#x",
        "ftp://srv",
        "https://",
        "https:/srv",
        "srv:",
        "https:///path",
        "srv:port",
        "srv:99999",
        "a b",
        "srv\n.evil",
        "::1",
        "[::1",
        "\u202esrv",
        "a..b",
        "x" * 70,
    ],
)
def test_invalid_hosts(host):
    assert "host that is not a server's address" in rejection_of(host)


@pytest.mark.parametrize("port", [-1, 65_536, 10**9])
def test_invalid_ports(port):
    assert "not a server's address" in rejection_of("srv", port=port)


def test_schema():
    assert "'ftp'" in rejection_of("srv", schema="ftp")
    assert "its host begins with 'http'" in rejection_of("http://localhost", schema="https")


@pytest.mark.parametrize("host", ["srv", "10.0.0.1", "localhost.example.com", "127.0.0.1.example.com", "[::2]"])
def test_plain_http_must_be_enabled(host):
    message = rejection_of(host, schema="http")
    assert "allow_http" in message
    assert "unencrypted" in message
    rejection_of(host, schema="http", extra={"allow_http": False})
    assert settings_of(host, schema="http", extra={"allow_http": True}).server.url.startswith("http://")


@pytest.mark.parametrize("token", [None, "", "two words", " padded", "cut-off\n", "ключ", "nul\0"])
def test_invalid_tokens(token):
    with pytest.raises(InvalidInputError, match=r"'study' has .* token") as caught:
        settings_of(token=token)
    assert not token or token not in str(caught.value)


# Each option with valid values, and what they are parsed to.
VALID: dict[str, list[tuple[Any, Any]]] = {
    "allow_http": [(True, None), ("False", None)],
    "api_path": [("api/v3", "api/v3"), ("/api/v3/", "api/v3")],
    "job_path": [("jobs/{job_id}", "jobs/{job_id}"), ("/{api_path}/j?id={job_id}", "{api_path}/j?id={job_id}")],
    "codebook_export_path": [("/{api_path}/x/{hash}/", "{api_path}/x/{hash}/"), ("db/{hash}.xlsx", "db/{hash}.xlsx")],
    "codebook_import_path": [("/{api_path}/x/{hash}/", "{api_path}/x/{hash}/")],
    "codebook_field": [("codebook", "codebook")],
    "job_id_field": [("result.id", "result.id"), ("job info.id", "job info.id")],
    "status_field": [(" job.phase ", "job.phase")],
    "status_map": [
        ({"Fertig": "SUCCEEDED"}, {"Fertig": JobState.SUCCEEDED}),
        ('{"Fertig": "FAILED"}', {"Fertig": JobState.FAILED}),
    ],
    "callback_field": [("hook", "hook")],
    "rows_field": [("result.imported", "result.imported")],
    "database_field": [("result.db", "result.db")],
    "status_codes": [
        ({"400": "busy", "498": "token"}, {400: "busy", 498: "token"}),
        ('{"409": "role"}', {409: "role"}),
    ],
    "processing_log_url": [("https://srv/log", "https://srv/log")],
    "timeout": [(5, 5.0), ("2.5", 2.5), (0.1, 0.1)],
    "verify": [(False, False), ("true", True), ("False", False), (certifi.where(), certifi.where())],
    "proxies": [
        ({"https": "http://proxy:1"}, {"https": "http://proxy:1"}),
        ('{"http": "http://p"}', {"http": "http://p"}),
    ],
    "max_upload_bytes": [(5, 5), ("7", 7)],
    "ledger": [
        ("file:///shared/ledger", "file:///shared/ledger"),
        (" s3://aws_default@bucket/a/b ", "s3://aws_default@bucket/a/b"),
        ("gs://bucket", "gs://bucket"),
    ],
    "ledger_optional": [(True, True), ("false", False)],
    "max_connections": [(2, 2), ("1000", 1000)],
}
INVALID: dict[str, list[Any]] = {
    "allow_http": [1, "yes", [], TOKEN],
    "api_path": [1, "/", "../x", "http://x", "a b", "a?b", "a#b", " ", "a\0b"],
    "job_path": [1, "jobs", "http://x/{job_id}", "../{job_id}", "a b/{job_id}", "{job_id}#x"],
    "codebook_export_path": [1, "codebook", "http://x/{hash}", "../{hash}", "a b/{hash}", "{hash}?x", "{hash}#x"],
    "codebook_import_path": [1, "codebook", "http://x/{hash}", "../{hash}", "a b/{hash}", "{hash}?x", "{hash}#x"],
    "codebook_field": [1, "a b", "a..b"],
    "job_id_field": [1, "a..b", "a. .b", ".", ["id"]],
    "status_field": [True, "a.", {}],
    "status_map": [
        {"Done": "SUCCEEDED", "done!": "FAILED"},
        1,
        TOKEN,
        "\ud800",
        {"done": "OK"},
        {"done": 1},
        {"done": "UNKNOWN"},
        ["done"],
        "[" * 10_000,
    ],
    "callback_field": [1, "a b"],
    "rows_field": [1, "a..b"],
    "database_field": [[], "."],
    "ledger": [1, "/shared/ledger", "file://shared/ledger", "s3://user:secret@bucket", "s3://", "https://a/b?c"],
    "ledger_optional": [1, "yes"],
    "status_codes": [
        1,
        TOKEN,
        ["busy"],
        {"400": "occupied"},
        {"400": 1},
        {"busy": "400"},
        {"399": "busy"},
        {"408": "busy"},
        {"425": "busy"},
        {"499": "busy"},
        {"503": "busy"},
    ],
    "processing_log_url": [1, TOKEN, "srv/log", "ftp://srv", "javascript:alert(1)"],
    "timeout": [0, -1, True, "soon", TOKEN, "nan", 1e9, 10**400, [], {}],
    "verify": [1, TOKEN, "/no/such/bundle", [], "maybe", __file__, "a\0b"],
    "proxies": [
        1,
        TOKEN,
        "http://p",
        {"ftp": "http://p"},
        {"http": "p:1"},
        {"http": f"ftp://u:{TOKEN}@p"},
        {"http": 1},
        {"http": "http://a..b"},
        [],
    ],
    "max_connections": [0, 1, 1001, 2.5, True, "many", TOKEN, []],
    "max_upload_bytes": [0, -5, 1.5, True, "1e9", TOKEN, "9" * 5_000, []],
}
ATTRIBUTES = {"processing_log_url": "log_url"}


def test_every_option_has_valid_and_invalid_values():
    assert VALID.keys() == INVALID.keys() == Options.model_fields.keys()


@pytest.mark.parametrize(("name", "value", "expected"), [(n, *pair) for n, pairs in VALID.items() for pair in pairs])
def test_options(name, value, expected):
    settings = settings_of(extra={name: value})
    if name != "allow_http":
        holder = settings if hasattr(settings, name) else settings.server
        assert getattr(holder, ATTRIBUTES.get(name, name)) == expected


@pytest.mark.parametrize(("name", "value"), [(n, value) for n, values in INVALID.items() for value in values])
def test_invalid_options(name, value):
    assert f"{name!r} in its extra: " in rejection_of(extra={name: value})


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("empty", ["", None])
def test_empty_options_are_defaults(name, empty):
    assert settings_of(extra={name: empty}) == settings_of()


def test_options_of_a_uri_connection():
    extra = {"timeout": "30", "verify": "false", "max_upload_bytes": "100", "status_map": '{"ok": "RUNNING"}'}
    settings = settings_of(extra=extra)
    assert (settings.timeout, settings.verify, settings.max_upload_bytes) == (30.0, False, 100)
    assert settings.server.status_map == {"ok": JobState.RUNNING}


def test_a_bundle_is_loaded_once_for_each_version_of_it(monkeypatch, tmp_path):
    loaded: list[str] = []
    monkeypatch.setattr("datatile_provider.api.tls.tls_context", loaded.append)
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("any")
    for _ in range(3):
        settings_of(extra={"verify": str(bundle)})
    assert len(loaded) == 1
    os.utime(bundle, ns=(1, 1))
    settings_of(extra={"verify": str(bundle)})
    assert len(loaded) == 2


def test_unknown_options():
    assert "Did you mean 'timeout'?" in rejection_of(extra={"timeuot": 5})
    assert "unknown option '\\ud800'" in rejection_of(extra={"\ud800": 1})
    message = rejection_of(extra={"zzz": TOKEN})
    assert "'zzz'" in message
    assert all(name in message for name in VALID)


@pytest.mark.parametrize("extra", ["{", "[]", "1", '"x"', "null", "{'a': 1}", "[" * 100_000])
def test_extra_that_is_not_an_object(extra):
    assert "extra that is not" in rejection_of(extra=extra)


@pytest.mark.parametrize("extra", [None, "", "  ", "{}"])
def test_no_extra(extra):
    assert settings_of(extra=extra) == settings_of()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([*VALID]), json_values, max_size=3).map(json.dumps)
    | json_values.map(json.dumps)
    | st.text(max_size=50)
)
def test_any_extra(extra):
    try:
        settings_of(extra=extra)
    except InvalidInputError as e:
        assert "'study'" in one_line(e)  # noqa: PT017 - settings or an error, both are valid


@given(
    st.text(max_size=40) | st.from_regex(r"https?://[a-z\[\]:@/.0-9]{0,20}"), st.none() | st.integers(), st.booleans()
)
def test_any_host(host, port, allow_http):
    try:
        url = settings_of(host, port=port, extra={"allow_http": allow_http}).server.url
    except InvalidInputError:
        return
    assert url.startswith(("http://", "https://"))
    assert url.isprintable()
    assert not set(url) & set(" @?#")
    assert settings_of(url, extra={"allow_http": True}).server.url == url
