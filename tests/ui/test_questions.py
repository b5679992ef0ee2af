"""The question about an upload of unknown outcome, as a person sees and answers it under *Required Actions*."""

from __future__ import annotations

import pytest

from tests.support.faults import Fault
from tests.support.waiting import until

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300), pytest.mark.needs_airflow(">=3.3")]

QUESTION = "datatile_question"
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
    page.wait_for_timeout(3000)
    picture("question")
    print(page.locator("body").inner_text())
