"""The wave check in the browser: the log of a rejected wave, the question about it, and the report."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from datatile_provider.operators.wave_check import ACCEPT, REJECT
from tests.support.waiting import until
from tests.survey.plant import FAULTS, waves
from tests.ui.conftest import NARROW
from tests.ui.visible import too_long

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300), pytest.mark.needs_airflow(">=3.3")]

CHECK = "datatile_wave_check"
BUTTON = 14


@pytest.fixture(scope="module")
def tasks(lab):
    """The tasks of a run, by id, when each has ended or asks."""
    first, wave, *_ = waves()
    for rule in ("scale-reversed", "unlabelled-code", "known-interview", "new-code", "label-changed"):
        FAULTS[rule][0](wave, first)
    wave.values["PID"][9] = "<script>document.title = 'hacked'</script> **Other** party"
    wave.write(Path(lab.airflow.dags, "data", "wave_with_errors.zsav"))
    run_id = lab.airflow.api.trigger(CHECK)
    found = until(lambda: (run := lab.airflow.api.run(CHECK, run_id)).tasks and run, "the run has its tasks")
    return {
        task.task_id: lab.airflow.api.wait_for_task(task, "failed", "awaiting_input", timeout=90)
        for task in found.tasks
    }


def test_the_log_of_a_rejected_wave(lab, tasks, page, log_picture):
    task = tasks["check_or_fail"]
    assert (task.state, task.try_number) == ("failed", 1)
    # The log is scrolled to its end, and holds only the lines that are shown.
    page.set_viewport_size({"width": 1280, "height": 1400})
    page.goto(lab.address(task))
    error = page.get_by_test_id("summary-AirflowFailException")
    expect(error).to_be_visible()
    expect(page.get_by_text("ERROR scale-reversed: the same labels have other codes")).to_be_visible()
    assert too_long(page, lab.events(task)) == []
    page.set_viewport_size({"width": 1280, "height": 1400})
    page.goto(lab.address(task))
    expect(error).to_be_visible()
    log_picture("wave-check-log", until=error)


def test_the_question(lab, tasks, page, picture):
    task = tasks["check_or_ask"]
    assert task.state == "awaiting_input"
    page.set_viewport_size({"width": 1280, "height": 1100})
    page.goto(lab.address(task, "/required_actions"))
    question = page.locator("#details-panel")
    expect(question.get_by_text(re.compile("Accept wave_with_errors.zsav")).first).to_be_visible()
    # What comes from the file is text.
    expect(question.get_by_text("<script>document.title = 'hacked'</script> **Other** party")).to_be_visible()
    for answer in (ACCEPT, REJECT):
        expect(question.get_by_role("button", name=answer, exact=True)).to_be_in_viewport()
    picture("wave-check-question", question, left=BUTTON)
    # Airflow may fail a task that is resumed while its worker is still ending.
    time.sleep(8)
    question.get_by_role("button", name=ACCEPT, exact=True).click()
    task = lab.airflow.api.wait_for_task(task, "success", "failed", timeout=60)
    assert (task.state, task.try_number) == ("success", 1)
    assert f'answered "{ACCEPT}"' in lab.airflow.api.log(task)
    assert lab.airflow.api.xcoms(task)["return_value"]["errors"] == 3


def test_the_page_of_the_findings(lab, tasks, page, picture):
    task = tasks["check_or_fail"]
    page.goto(lab.address(task, "/details"))
    link = page.get_by_role("link", name="Wave check", exact=True)
    expect(link).to_be_visible()
    page.goto(f"{lab.airflow.url}{link.get_attribute('href')}")
    expect(page.get_by_role("heading", name="Wave check of wave_with_errors.zsav")).to_be_visible()
    expect(page.get_by_role("heading", level=2)).to_have_count(6)
    expect(page.get_by_text("9 = <script>document.title = 'hacked'</script> **Other** party")).to_be_visible()
    expect(page).to_have_title("Wave check of wave_with_errors.zsav")


def test_the_report(lab, tasks, page, picture):
    page.set_viewport_size({**NARROW, "height": 1400})
    page.goto(Path(lab.airflow.dags, "data", "report_fail.html").as_uri())
    expect(page).to_have_title("Wave check of wave_with_errors.zsav")
    expect(page.get_by_role("heading", level=2)).to_have_count(6)
    expect(page.get_by_text("9 = <script>document.title = 'hacked'</script> **Other** party")).to_be_visible()
    picture("wave-check-report", page.locator("body"))
