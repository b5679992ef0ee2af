"""The log of a failed task shows verdict, reason and next step in the window, without a click or scrolling."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.ui.failures import CODES, FAILURES, WITH_SERVER_MESSAGE
from tests.ui.visible import assert_visible

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300), pytest.mark.needs_airflow(">=3.3")]


@pytest.fixture(scope="module")
def run(lab):
    # A sensor fails only when it was rejected for a minute.
    return lab.airflow.api.wait_for_run(FAILURES, lab.failing_run, 240)


def test_every_task_failed(run):
    assert {task.task_id: task.state for task in run.tasks} == dict.fromkeys(CODES, "failed")


@pytest.mark.parametrize("task_id", CODES)
def test_an_error_consists_of_verdict_server_message_and_help(lab, run, task_id):
    verdict, *lines, help_line = lab.airflow.api.error(run.task(task_id)).split("\n")
    assert verdict.isupper()
    assert help_line == f"Help: docs/troubleshooting.md#{CODES[task_id]}"
    reported = [line for line in lines if line.startswith('The server said: "')]
    assert len(reported) == task_id.startswith(WITH_SERVER_MESSAGE)


@pytest.mark.parametrize("task_id", CODES)
def test_every_line_of_an_error_is_visible(lab, run, page, log_picture, task_id):
    text = lab.airflow.api.error(run.task(task_id))
    page.goto(lab.address(run.task(task_id)))
    error = page.locator("summary").filter(has_text=text.split("\n")[0])
    expect(error).to_be_visible()
    name = task_id.replace("_", "-")
    if not name.endswith("-in-worker"):
        # Below it is the stack trace, which names this machine's folders.
        log_picture(f"failure-{name}", until=error)
    assert_visible(error, text)


@pytest.mark.parametrize("task_id", CODES)
def test_every_line_that_is_logged_before_an_error_is_visible(lab, run, page, task_id):
    task = run.task(task_id)
    page.goto(lab.address(task))
    expect(page.locator("summary").last).to_be_visible()
    for event in lab.events(task):
        assert_visible(page.locator(".event").filter(has_text=event.split("\n")[0]).first, event)
