"""The log of a failed task shows verdict, reason and next step in the window, without a click or scrolling."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.ui.failures import CODES, FAILURES, WITH_SERVER_MESSAGE
from tests.ui.visible import hidden, too_long

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300), pytest.mark.needs_airflow(">=3.3")]


@pytest.fixture(scope="module")
def run(lab):
    # A sensor fails only when it was rejected for a minute.
    return lab.airflow.api.wait_for_run(FAILURES, lab.failing_run, 240)


def test_every_task_failed(run):
    assert {task.task_id: task.state for task in run.tasks} == dict.fromkeys(CODES, "failed")


@pytest.mark.parametrize("task_id", CODES)
def test_an_error_consists_of_verdict_server_message_and_help(lab, run, task_id):
    lines = lab.airflow.api.error(run.task(task_id)).split("\n")
    assert lines[0].isupper()
    assert lines[-1] == f"Help: docs/troubleshooting.md#{CODES[task_id]}"
    assert any(line.startswith('The server said: "') for line in lines) == task_id.startswith(WITH_SERVER_MESSAGE)


@pytest.mark.parametrize("task_id", CODES)
def test_every_line_is_visible(lab, run, page, log_picture, task_id):
    task = run.task(task_id)
    text = lab.airflow.api.error(task)
    page.goto(lab.address(task))
    error = page.locator("summary").filter(has_text=text)
    expect(error).to_be_visible()
    error_lines = hidden(error, text)
    name = task_id.replace("_", "-")
    if not name.endswith("-in-worker"):
        # Below it is the stack trace, which names this machine's folders.
        log_picture(f"failure-{name}", until=error)
    assert (error_lines, too_long(page, lab.events(task))) == ([], [])
