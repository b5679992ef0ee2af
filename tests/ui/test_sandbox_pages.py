"""The sandbox's pages: the Drive, the processing log, a job, and an unknown path."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.demo import STUDY
from tests.ui.conftest import BROKEN, NARROW

pytestmark = [pytest.mark.ui, pytest.mark.timeout(180), pytest.mark.needs_airflow(">=3.3")]


@pytest.fixture(autouse=True)
def narrow_window(page):
    page.set_viewport_size({**NARROW, "height": 1200})


def test_drive(lab, page, picture):
    page.goto(lab.sandbox.url)
    rows = page.get_by_role("row").filter(has_text="wave1").filter(has_text="944")
    expect(rows).to_have_count(1)
    picture("sandbox-drive", page.locator("body"))


def test_database(lab, page, picture):
    page.goto(lab.sandbox.url)
    page.get_by_role("row").filter(has_text="944").get_by_role("link", name="wave1").click()
    expect(page.get_by_role("heading", name="wave1")).to_be_visible()
    expect(page.get_by_role("row", name="vote CAT Expected vote 0 = Clinton 1 = Dole")).to_be_visible()
    picture("sandbox-database", page.locator("body"), height=700)


def test_processing_log_links_to_the_jobs(lab, page, picture):
    job_id = lab.job_id(lab.runs[STUDY].task("create"))
    page.goto(f"{lab.sandbox.url}/processing-log")
    expect(page.get_by_text("failed", exact=True)).to_have_count(1)
    picture("sandbox-processing-log", page.locator("body"))
    page.get_by_role("link", name=job_id[:8]).click()
    expect(page.get_by_role("heading", name=f"Job {job_id}")).to_be_visible()
    expect(page.get_by_text(f"Surveys {lab.sandbox.folder}")).to_be_visible()
    picture("sandbox-job", page.locator("body"))


def test_failed_job(lab, page, picture):
    page.goto(f"{lab.sandbox.url}/processing-log/{lab.job_id(lab.runs[BROKEN].task('append_wave'))}")
    expect(page.get_by_text("wave3.zsav cannot be read").first).to_be_visible()
    picture("sandbox-failed-job", page.locator("body"))


def test_no_such_page(lab, page):
    response = page.goto(f"{lab.sandbox.url}/processing-log/none")
    assert response is not None
    assert response.status == 404
    expect(page.get_by_text("No such job: none")).to_be_visible()
    page.get_by_role("link", name="Drive").click()
    expect(page.get_by_role("heading", name="Drive")).to_be_visible()
