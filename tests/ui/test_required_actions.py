"""The question about an upload of unknown outcome, as a person sees and answers it under *Required Actions*."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import expect

from tests.support.faults import Fault
from tests.support.waiting import until

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300), pytest.mark.needs_airflow(">=3.3")]

QUESTION = "datatile_question"
THERE, NOT_THERE, FAIL = ANSWERS = ("It is there", "It is not there: send it", "Fail the task")
# Pixels by which the button that hides a panel overlaps it.
BUTTON = 14
PICTURES = {THERE: "there", NOT_THERE: "not-there", FAIL: "fail"}
LOST, NOT_ACCEPTED = "reset_before_response", "reset_after_body"


@pytest.fixture
def ask(lab):
    """Start an upload whose response is lost, and return its task when it asks."""

    def ask(fault):
        lab.faults.inject(Fault(fault, on="upload"))
        run_id = lab.airflow.api.trigger(QUESTION)
        task = until(lambda: next(iter(lab.airflow.api.run(QUESTION, run_id).tasks), None), "the task is there")
        return lab.airflow.api.wait_for_task(task, "awaiting_input", timeout=60)

    return ask


def test_everything_to_answer_is_on_the_page(lab, ask, page, picture):
    task = ask(LOST)
    page.goto(lab.address(task, "/required_actions"))
    question = page.locator("#details-panel")
    for text in (
        "Does DATATILE have this upload? append of 'wave2.zsav' (7,606 bytes)",
        "then no response came",
        "Job id",
    ):
        expect(question.get_by_text(text).first).to_be_in_viewport()
    for answer in ANSWERS:
        expect(question.get_by_role("button", name=answer, exact=True)).to_be_in_viewport()
    link = question.get_by_role("link", name="DATATILE's processing log")
    expect(link).to_have_attribute("href", re.compile(f"^{lab.faults.url}"))
    picture("question", question, left=BUTTON)
    # It is listed for all DAGs too.
    page.goto(f"{lab.airflow.url}/required_actions")
    expect(page.get_by_text("Does DATATILE have this upload? append of 'wave2.zsav'").first).to_be_visible()


@pytest.mark.parametrize(("answer", "state"), [(THERE, "success"), (NOT_THERE, "success"), (FAIL, "failed")])
def test_what_follows_an_answer(lab, ask, page, log_picture, answer, state):
    before = len(lab.sandbox.jobs())
    task = ask(NOT_ACCEPTED if answer == NOT_THERE else LOST)
    # Airflow may fail a task that is resumed while its worker is still ending.
    time.sleep(8)
    page.goto(lab.address(task, "/required_actions"))
    question = page.locator("#details-panel")
    if answer == THERE:
        question.get_by_role("textbox", name="Job id").or_(question.locator("input[name*=job_id]")).first.fill(
            lab.sandbox.jobs()[-1]["job_id"]
        )
    question.get_by_role("button", name=answer, exact=True).click()
    task = lab.airflow.api.wait_for_task(task, "success", "failed", timeout=60)
    assert (task.state, task.try_number) == (state, 1)
    assert len(lab.sandbox.jobs()) == before + 1
    page.goto(lab.address(task))
    said = page.get_by_text(re.compile(f'answered "{answer}"')).first
    expect(said).to_be_visible()
    # Below an error is the stack trace, which names this machine's folders.
    error = page.get_by_test_id("summary-AirflowFailException") if state == "failed" else None
    log_picture(f"question-{PICTURES[answer]}", until=error)
