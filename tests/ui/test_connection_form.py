"""The connection form: filled in, saved and tested in the browser, and read by the hook."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from datatile_provider.api.models import ServerConfig
from datatile_provider.api.settings import Settings
from datatile_provider.api.states import JobState
from datatile_provider.hooks.form import OPTIONS
from tests.ui.conftest import NARROW, WINDOW, Lab

pytestmark = [pytest.mark.ui, pytest.mark.timeout(180), pytest.mark.needs_airflow(">=3.3")]

EXTRA_FIELDS = re.compile("^Extra Fields$")
# The input for the fields of the extra, and the settings that the hook reads from it.
INPUT = {
    "timeout": "60",
    "max_upload_bytes": "5000000",
    "max_connections": "40",
    "processing_log_url": "https://datatile.example.com/log/{job_id}",
    "verify": "false",
    "api_path": "api/v3",
    "job_path": "{api_path}/processing/{job_id}",
    "codebook_path": "{api_path}/books/{hash}",
    "codebook_field": "codebook",
    "job_id_field": "result.id",
    "status_field": "result.status",
    "status_map": '{"in line": "QUEUED"}',
    "callback_field": "notify",
    "rows_field": "result.cases",
    "database_field": "result.target",
    "status_codes": '{"400": "busy"}',
    "ledger": "s3://aws_default@surveys/ledger",
    "proxies": '{"http": "http://127.0.0.1:9"}',
}
TOKEN = "0f3a9c2b7d4e5f61"
SETTINGS = Settings(
    ServerConfig(
        "http://datatile.example.com:8080",
        api_path="api/v3",
        job_path="{api_path}/processing/{job_id}",
        codebook_path="{api_path}/books/{hash}",
        codebook_field="codebook",
        job_id_field="result.id",
        status_field="result.status",
        status_map={"in line": JobState.QUEUED},
        callback_field="notify",
        rows_field="result.cases",
        database_field="result.target",
        status_codes={400: "busy"},
        log_url="https://datatile.example.com/log/{job_id}",
    ),
    TOKEN,
    timeout=60.0,
    verify=False,
    proxies={"http": "http://127.0.0.1:9"},
    max_upload_bytes=5_000_000,
    ledger="s3://aws_default@surveys/ledger",
    ledger_optional=True,
    max_connections=40,
)


@pytest.fixture
def form(lab: Lab, page: Page) -> Iterator[Locator]:
    page.goto(f"{lab.airflow.url}/connections")
    page.get_by_role("button", name="Add Connection").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").first.press_sequentially("DATATILE")
    page.get_by_role("option", name="DATATILE", exact=True).click()
    yield dialog
    for connection in lab.airflow.api.call("GET", "connections")["connections"]:
        lab.airflow.api.call("DELETE", f"connections/{connection['connection_id']}")


def fill(form: Locator, **values: object) -> None:
    for name, value in values.items():
        form.locator(f"[name={name}]").fill(str(value))


def save(form: Locator) -> None:
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()


@pytest.fixture
def stored(lab: Lab, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Return a stored connection, by the CLI because the API masks some fields."""

    def read(conn_id: str) -> dict[str, Any]:
        file = tmp_path / "connections.json"
        lab.airflow.run_cli("connections", "export", str(file), "--file-format", "json")
        found: dict[str, Any] = json.loads(file.read_text())[conn_id]
        return found

    return read


def settings_of(stored: dict[str, Any]) -> Settings:
    """Return the settings that the hook reads from a stored connection."""
    fields = {name: stored[name] for name in ("host", "schema", "port", "extra")}
    return Settings.of("any", token=stored["password"], **fields)


def address(lab: Lab) -> dict[str, object]:
    """Return the fields of the sandbox's address. Airflow 3.3.2's connection test needs the port in its own field."""
    parts = urlsplit(lab.sandbox.url)
    return {"host": parts.hostname, "port": parts.port, "schema": parts.scheme}


def test_the_form_has_the_fields_of_datatile_only(form, page, picture):
    expect(form.locator("[name=host]")).to_have_attribute("placeholder", "datatile.example.com")
    expect(form.locator("[name=password]")).to_have_attribute("placeholder", re.compile("Profile page"))
    expect(form.locator("[name=password]")).to_have_attribute("type", "password")
    for label in ("Server", "API token", "Protocol", "Port", "Description"):
        expect(form.get_by_text(label, exact=True)).to_be_visible()
    expect(form.locator("[name=login]")).to_have_count(0)
    fill(form, connection_id="datatile_default")
    fill(form, description="Surveys of the tracker team", host="datatile.example.com", password=TOKEN)
    picture("connection-form", form)
    form.get_by_role("button", name=EXTRA_FIELDS).click()
    for option in OPTIONS.values():
        expect(form.get_by_text(option["label"], exact=True)).to_be_visible()
        expect(form.get_by_text(option["description"], exact=True)).to_be_visible()
    # The form is longer than the window.
    page.set_viewport_size({**WINDOW, "height": 2600})
    picture("connection-form-options", form)


def test_every_field_reaches_the_hook(form, stored):
    fill(form, connection_id="datatile_all", host="datatile.example.com", port=8080, schema="http", password=TOKEN)
    form.get_by_role("button", name=EXTRA_FIELDS).click()
    fill(form, **{f"element_{name}": value for name, value in INPUT.items()})
    for switch in ("allow_http", "ledger_optional"):
        form.locator(f"input[type=checkbox][name=element_{switch}]").locator("xpath=..").click()
    save(form)
    found = stored("datatile_all")
    assert set(json.loads(found["extra"])) == {*INPUT, "allow_http", "ledger_optional"} == set(OPTIONS)
    assert settings_of(found) == SETTINGS


@pytest.mark.parametrize("values", [{}, INPUT], ids=["untouched", "emptied"])
def test_an_empty_field_is_the_default(form, stored, values):
    fill(form, connection_id="datatile_empty", host="datatile.example.com", password=TOKEN)
    form.get_by_role("button", name=EXTRA_FIELDS).click()
    for content in (values, dict.fromkeys(values, "")):
        fill(form, **{f"element_{name}": value for name, value in content.items()})
    save(form)
    found = stored("datatile_empty")
    assert set(json.loads(found["extra"]).values()) <= {None, ""}
    assert settings_of(found) == Settings.of("any", host="datatile.example.com", token=TOKEN)


@pytest.mark.parametrize(
    ("conn_id", "token", "title", "response"),
    [
        ("datatile_works", None, "Test Connection Successful", "accepts the token"),
        (
            "datatile_refused",
            TOKEN,
            "Test Connection Failed",
            "TOKEN REFUSED (401): ",
        ),
    ],
)
def test_the_connection_test_reports_its_result(form, lab, page, picture, conn_id, token, title, response):
    fill(form, connection_id=conn_id, password=token or lab.sandbox.token, **address(lab))
    save(form)
    page.set_viewport_size({**NARROW, "height": 560})
    page.reload()
    page.get_by_role("row", name=conn_id).get_by_role("button", name="Test Connection").click()
    expect(page.get_by_text(title)).to_be_visible()
    expect(page.get_by_text(response)).to_be_visible()
    picture(conn_id.replace("datatile_", "connection-test-"))
