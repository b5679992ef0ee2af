"""The runs in Airflow's UI: the grid, the graph, logs, rendered templates, mapped tasks, failures."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from datatile_provider.links.datatile import DatatileJobLink, DatatileLogLink
from tests.support.demo import STUDY
from tests.ui.conftest import BROKEN, CONSUMER, MAPPED, PRODUCER, WINDOW
from tests.ui.visible import too_long

pytestmark = [pytest.mark.ui, pytest.mark.timeout(240), pytest.mark.needs_airflow(">=3.3")]

# Pixels by which the button that hides a panel overlaps it.
BUTTON = 14
TASKS = ["create", "wait_for_create", "append", "wait_for_append", "reload", "wait_for_reload"]


def test_the_runs_have_the_states_for_the_pictures(lab):
    states = {dag_id: run.state for dag_id, run in lab.runs.items()}
    successful = {STUDY, MAPPED, PRODUCER, CONSUMER}
    assert states == {BROKEN: "failed", **dict.fromkeys(successful, "success")}


def test_grid(lab, page, picture):
    run = lab.runs[STUDY]
    page.goto(f"{lab.airflow.url}/dags/{STUDY}/runs/{run.run_id}")
    for task_id in TASKS:
        expect(page.get_by_role("link", name=task_id, exact=True).first).to_be_visible()
    expect(page.get_by_text("DatatileUploadOperator")).to_have_count(3)
    expect(page.get_by_text("DatatileJobSensor")).to_have_count(3)
    picture("study-grid", page.locator("#main-panel"), height=330)


def test_graph(lab, page, picture):
    page.add_init_script("localStorage.setItem('direction-datatile_tracking_study', '\"DOWN\"')")
    page.goto(f"{lab.airflow.url}/dags/{STUDY}/runs/{lab.runs[STUDY].run_id}")
    page.get_by_role("button", name=re.compile("Graph", re.IGNORECASE)).click()
    for task_id in TASKS:
        expect(page.get_by_test_id(f"node-{task_id}").or_(page.locator(f"[data-id='{task_id}']")).first).to_be_visible()
    picture("study-graph", page.locator("#main-panel"), right=BUTTON)


def test_documentation(lab, page, picture):
    page.goto(f"{lab.airflow.url}/dags/{STUDY}")
    page.get_by_role("button", name="Dag Docs").click()
    expect(page.get_by_role("dialog").get_by_text("A tracking study")).to_be_visible()


def test_log_of_an_upload(lab, page, log_picture):
    task = lab.runs[STUDY].task("append")
    page.goto(lab.address(task))
    for text in ("Uploading: append of 'wave2.zsav' (7,606 bytes)", f"Accepted as job {lab.job_id(task)}"):
        expect(page.get_by_text(text)).to_be_visible()
    log_picture("upload-log")


def test_log_of_a_deferred_wait(lab, page, log_picture):
    job_id = lab.job_id(lab.runs[STUDY].task("append"))
    page.goto(lab.address(lab.runs[STUDY].task("wait_for_append")))
    expect(page.get_by_text(f"Waiting for job {job_id}")).to_be_visible()
    expect(page.get_by_text(f"Job {job_id} is SUCCEEDED")).to_be_visible()
    log_picture("wait-log")


@pytest.mark.parametrize("task_id", ["append", "wait_for_append"])
def test_every_line_of_a_log_fits_into_the_window(lab, page, task_id):
    task = lab.runs[STUDY].task(task_id)
    page.goto(lab.address(task))
    events = lab.events(task)
    assert len(events) >= 2
    assert not too_long(page, events)


def test_rendered_templates(lab, page, picture):
    task = lab.runs[STUDY].task("append")
    (job,) = [j for j in lab.sandbox.jobs() if j["job_id"] == lab.job_id(task)]
    page.goto(lab.address(task, "/rendered_templates"))
    expect(page.get_by_text(job["hash"], exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile("/wave2.zsav$"))).to_be_visible()
    picture("rendered-templates", page.locator("#details-panel"), left=BUTTON)


def test_mapped_tasks_have_the_names_of_their_files(lab, page, picture):
    run = lab.runs[MAPPED]
    page.goto(f"{lab.airflow.url}/dags/{MAPPED}/runs/{run.run_id}/tasks/upload/mapped")
    for name in ("wave1.zsav", "wave2.zsav"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    picture("mapped-tasks", page.locator("#details-panel"), height=460, left=BUTTON)


def test_a_failed_task_shows_file_target_and_job(lab, page, log_picture):
    task = lab.runs[BROKEN].task("append_wave")
    (job,) = [j for j in lab.sandbox.jobs() if j["filename"] == "wave3.zsav"]
    page.goto(lab.address(task))
    error = page.get_by_test_id("summary-AirflowFailException")
    expect(error).to_be_visible()
    # The lines of the error are wrapped.
    shown = " ".join(error.inner_text().split())
    for text in ("append of 'wave3.zsav'", job["hash"], job["job_id"], job["transitions"][-1]["message"]):
        assert text in shown
    # Below it is the stack trace, which names this machine's folders.
    log_picture("failed-log", until=error)


def test_an_appended_wave_is_an_event_of_its_databases_asset(lab, page, picture):
    (event,) = lab.airflow.api.call("GET", "assets/events")["asset_events"]
    assert event["extra"]["job_id"] == lab.job_id(lab.runs[PRODUCER].task("append"))
    page.set_viewport_size({**WINDOW, "height": 520})
    page.goto(f"{lab.airflow.url}/assets/{event['asset_id']}")
    for dag_id in (PRODUCER, CONSUMER):
        run_id = lab.runs[dag_id].run_id
        expect(page.locator(f"a[href*='/dags/{dag_id}/runs/{run_id}']").filter(has_text=dag_id)).to_be_visible()
    picture("asset", page.locator("[data-panel]").first, right=BUTTON)


@pytest.mark.parametrize(
    ("dag_id", "task_id"), [(STUDY, "append"), (STUDY, "wait_for_append"), (BROKEN, "append_wave")]
)
def test_links_lead_to_the_processing_log_and_to_the_job(lab, page, picture, dag_id, task_id):
    task = lab.runs[dag_id].task(task_id)
    job_id = lab.job_id(lab.runs[dag_id].task(task_id.removeprefix("wait_for_")))
    page.goto(lab.address(task, "/details"))
    addresses = []
    for name in (DatatileLogLink.name, DatatileJobLink.name):
        link = page.get_by_role("link", name=name, exact=True)
        expect(link).to_be_visible()
        addresses.append(link.get_attribute("href"))
    if dag_id == BROKEN:
        picture("links", page.locator("#details-panel"), height=420, left=BUTTON)
    page.goto(addresses[0])
    expect(page.get_by_role("heading", name="Processing log")).to_be_visible()
    page.goto(addresses[1])
    expect(page.get_by_role("heading", name=f"Job {job_id}")).to_be_visible()
