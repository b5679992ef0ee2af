"""A real Airflow with finished runs, the sandbox behind it, and a browser that looks at both."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from datatile_provider.sandbox import Sandbox
from tests.support.airflow import RealAirflow
from tests.support.airflow_api import Run, TaskInstance
from tests.support.demo import EXAMPLES, STUDY, environment

PICTURES = Path(__file__).parents[2] / os.environ.get("PICTURES", "build/pictures")
MAPPED, BROKEN = "datatile_mapped_upload", "datatile_weekly_wave"
PRODUCER, CONSUMER = "datatile_asset_producer", "datatile_asset_consumer"
SETTINGS = {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled", "AIRFLOW__API__DEFAULT_WRAP": "True"}
# No display, no sandbox of its own (it refuses to run as root with one), and no word to the world.
CHROMIUM = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@dataclass(frozen=True)
class Lab:
    """
    What there is to look at.

    :param runs: a finished run of each DAG, by the DAG's id.
    """

    airflow: RealAirflow
    sandbox: Sandbox
    runs: dict[str, Run]

    def address(self, task: TaskInstance, page: str = "") -> str:
        """Return the address of a task's page in Airflow's UI."""
        mapped = "" if task.map_index < 0 else f"/mapped/{task.map_index}"
        return f"{self.airflow.url}/dags/{task.dag_id}/runs/{task.run_id}/tasks/{task.task_id}{mapped}{page}"

    def job_id(self, task: TaskInstance) -> str:
        """Return the id of the job that a task's upload got."""
        return str(self.airflow.api.xcoms(task)["job_id"])


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with TemporaryDirectory(prefix="airflow-") as folder, Sandbox(processing_seconds=4) as sandbox:
        dags = Path(folder) / "dags"
        shutil.copytree(EXAMPLES, dags)
        shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
        whole = (dags / "data" / "wave2.zsav").read_bytes()
        (dags / "data" / "wave3.zsav").write_bytes(whole[: len(whole) // 2])
        tracker = sandbox.add_database("Tracker", rows=944, variables=["age", "vote"])
        for file in (dags / f"{PRODUCER}.py", dags / f"{CONSUMER}.py"):
            text = file.read_text().replace("0f3a9c2b7d4e5f61", tracker)
            file.write_text(text.replace("datatile.example.com", sandbox.url.removeprefix("http://")))
        env = environment(sandbox) | SETTINGS | {"AIRFLOW_VAR_TRACKER_DATABASE": tracker}
        with RealAirflow(dags, env=env) as airflow:
            # One after the other: they write into the same folder or database.
            runs = {dag_id: airflow.run_dag(dag_id) for dag_id in (STUDY, MAPPED, BROKEN, PRODUCER)}
            yield Lab(airflow, sandbox, runs | {CONSUMER: run_by_asset(airflow)})


def run_by_asset(airflow: RealAirflow) -> Run:
    """Return the run that the producer's asset event has begun, when it is over."""
    deadline = time.monotonic() + 60
    while not (runs := airflow.api.call("GET", f"dags/{CONSUMER}/dagRuns")["dag_runs"]):
        assert time.monotonic() < deadline, f"{CONSUMER} was not begun"
        time.sleep(0.3)
    return airflow.api.wait_for_run(CONSUMER, runs[0]["dag_run_id"], 60)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(CHROMIUM))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    expect.set_options(timeout=15_000)
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        context.set_default_timeout(15_000)
        yield context.new_page()


@pytest.fixture
def picture(page: Page) -> Callable[..., None]:
    """Keeps what the page shows as a picture of this name, cut off below at so many pixels."""

    def keep(name: str, height: int = 800) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        size = {"width": 1280, "height": height}
        page.set_viewport_size(size)
        # A hint that follows the mouse, and a blinking cursor, would be in the way.
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)
        page.screenshot(path=PICTURES / f"{name}.png", animations="disabled", caret="hide")

    return keep
