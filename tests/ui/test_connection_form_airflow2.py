"""The connection form of Airflow 2, which is built from the hook's methods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from datatile_provider.hooks.form import OPTIONS
from datatile_provider.sandbox import Sandbox
from tests.support.airflow import RealAirflow
from tests.ui.conftest import WINDOW
from tests.ui.test_connection_form import INPUT, SETTINGS, TOKEN, settings_of

pytestmark = [pytest.mark.ui, pytest.mark.timeout(180), pytest.mark.needs_airflow("<3")]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory) -> Iterator[RealAirflow]:
    home, dags = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("dags")
    with RealAirflow(dags, home=home, env={"AIRFLOW__CORE__TEST_CONNECTION": "Enabled"}) as running:
        yield running


@pytest.fixture
def form(airflow: RealAirflow, page: Page) -> Page:
    page.goto(f"{airflow.url}/connection/add")
    page.locator("#conn_type").select_option("datatile", force=True)
    return page


def fill(form: Page, **values: object) -> None:
    for name, value in values.items():
        form.locator(f"[name={name}]").fill(str(value))


def test_the_form_has_the_fields_of_datatile_only(form, picture):
    for label in ("Server", "API token", "Protocol", "Port", *(option["label"] for option in OPTIONS.values())):
        expect(form.get_by_text(label, exact=True)).to_be_visible()
    for option in OPTIONS.values():
        expect(form.get_by_text(option["description"], exact=True)).to_be_visible()
    expect(form.locator("[name=host]")).to_have_attribute("placeholder", "datatile.example.com")
    expect(form.locator("[name=password]")).to_have_attribute("type", "password")
    expect(form.locator("[name=login]")).to_be_hidden()
    fill(form, conn_id="datatile_default", host="datatile.example.com", password=TOKEN)
    form.set_viewport_size({**WINDOW, "height": 1900})
    picture("connection-form-airflow-2")


def test_every_field_reaches_the_hook(form, airflow, tmp_path):
    fill(form, conn_id="datatile_all", host="datatile.example.com", port=8080, schema="http", password=TOKEN)
    fill(form, **{f"extra__datatile__{name}": value for name, value in INPUT.items()})
    for switch in ("allow_http", "ledger_optional"):
        form.locator(f"[name=extra__datatile__{switch}]").check()
    form.get_by_role("button", name="Save").click()
    expect(form.get_by_text("Added Row")).to_be_visible()
    file = tmp_path / "connections.json"
    airflow.run_cli("connections", "export", str(file), "--file-format", "json")
    assert settings_of(json.loads(file.read_text())["datatile_all"]) == SETTINGS


@pytest.mark.parametrize(
    ("token", "response"),
    [(None, "accepts the token"), (TOKEN, "TOKEN REFUSED (401)")],
)
def test_the_connection_test_reports_its_result(form, token, response):
    with Sandbox() as sandbox:
        parts = urlsplit(sandbox.url)
        fill(form, conn_id="datatile_tested", host=parts.hostname, port=parts.port, schema=parts.scheme)
        fill(form, password=token or sandbox.token)
        form.get_by_role("button", name="Test").click()
        expect(form.get_by_text(response)).to_be_visible()
