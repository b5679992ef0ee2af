"""The page DATATILE, in the menu of a real Airflow with its default settings."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from datatile_provider.sandbox import Sandbox
from tests.support.airflow import RealAirflow
from tests.support.demo import environment
from tests.ui.conftest import PICTURES
from tests.ui.copies import copy_tasks, spread_over_weeks

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300), pytest.mark.needs_airflow(">=3.1")]

INTERVIEWS, HALF, BROKEN = 400, 7, 10
SCRIPT = "<img src=x onerror=alert(1)>.csv"
COUNT = 5000
WINDOW, PHONE = {"width": 1280, "height": 900}, {"width": 400, "height": 800}


def write_waves(folder: Path) -> None:
    for wave in range(1, 13):
        interviews = INTERVIEWS // 2 if wave == HALF else INTERVIEWS + wave
        header = "other,names" if wave == BROKEN else "id,age"
        text = "\n".join([header, *(f"{number},{20 + number % 60}" for number in range(interviews))])
        (folder / f"wave_{wave:02}.csv").write_text(text)
    (folder / SCRIPT).write_text("id,age\n1,30\n2,40\n")
    (folder / "slow.csv").write_text("id,age\n1,30\n")


@pytest.fixture(scope="module")
def airflow() -> Iterator[RealAirflow]:
    with TemporaryDirectory(prefix="airflow-") as folder, Sandbox(processing_seconds=0.5) as sandbox:
        dags = Path(shutil.copytree(Path(__file__).parent / "page_dags", Path(folder) / "dags"))
        (dags / "data").mkdir()
        write_waves(dags / "data")
        env = environment(sandbox) | {
            "TRACKER": sandbox.add_database("Tracker", rows=0, variables=["id", "age"]),
            "FOLDER": sandbox.folder,
        }
        with RealAirflow(dags, env=env) as airflow:
            assert airflow.run_dag("by_hand").state == "success"
            assert len(airflow.run_dag("tracker", timeout=200).tasks) == 12
            spread_over_weeks(airflow.home / "airflow.db", "tracker")
            yield airflow


@pytest.fixture
def errors(page: Page) -> Iterator[list[str]]:
    """What the browser reports as an error; there must be nothing."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", lambda dialog: (found.append(f"dialog {dialog.message}"), dialog.dismiss())[1])
    yield found
    assert [text for text in found if "datatile" in text or "dialog" in text or "Content" in text] == []


def frame(page: Page) -> FrameLocator:
    return page.frame_locator("iframe[title=DATATILE]")


def open_page(airflow: RealAirflow, page: Page, search: str = "") -> FrameLocator:
    """Open the page in Airflow's UI, and wait until all of it is loaded."""
    page.goto(f"{airflow.url}/plugin/datatile{search}")
    inside = frame(page)
    expect(inside.locator("body[data-loaded=yes]")).to_be_visible(timeout=30_000)
    return inside


def rows_of(inside: Any) -> Any:
    return inside.locator("#table tbody tr")


def shoot(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.mouse.move(0, 0)
    page.screenshot(path=PICTURES / f"{name}.png", animations="disabled")


def test_the_menu_has_the_page(airflow, page, errors):
    page.goto(airflow.url)
    page.get_by_role("link", name="DATATILE").or_(page.get_by_role("button", name="DATATILE")).first.wait_for(timeout=5000)
