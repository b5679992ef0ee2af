"""Fixtures for the UI tests: a real Airflow with finished runs, its sandbox, and a browser."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import pytest
from playwright.sync_api import Browser, FloatRect, Locator, Page, ViewportSize, expect, sync_playwright

from datatile_provider.sandbox import Sandbox
from tests.support.airflow import RealAirflow
from tests.support.airflow_api import Run, TaskInstance
from tests.support.demo import EXAMPLES, STUDY, environment
from tests.support.faults import FaultProxy
from tests.support.sandbox import connection_to
from tests.ui.failures import FAILURES, failing_servers

PICTURES = Path(__file__).parents[2] / os.environ.get("PICTURES", "build/pictures")
MAPPED, BROKEN = "datatile_mapped_upload", "datatile_weekly_wave"
PRODUCER, CONSUMER = "datatile_asset_producer", "datatile_asset_consumer"
# Disabled by default. It enables the button for the connection test in the connection list, and nothing else.
SETTINGS = {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled"}
WINDOW = ViewportSize(width=1280, height=900)
# For pictures of whole pages: narrow enough to be readable in the docs' text column.
NARROW = ViewportSize(width=980, height=700)
# Left, top, right and bottom, in CSS pixels of the window.
Edges: TypeAlias = tuple[float, float, float, float]
# No display, no sandbox of Chromium's own (it does not run as root with one), and no background connections.
CHROMIUM = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@dataclass(frozen=True)
class Lab:
    """
    Airflow, the sandbox and the finished runs.

    :param runs: a finished run of each DAG, by the DAG's id.
    :param faults: the gateway of the DAG that asks.
    :param failing_run: the id of the run of the DAG of failures, which may still be running.
    """

    airflow: RealAirflow
    sandbox: Sandbox
    faults: FaultProxy
    runs: dict[str, Run]
    failing_run: str

    def address(self, task: TaskInstance, page: str = "") -> str:
        """Return the address of a task's page in Airflow's UI."""
        mapped = "" if task.map_index < 0 else f"/mapped/{task.map_index}"
        return f"{self.airflow.url}/dags/{task.dag_id}/runs/{task.run_id}/tasks/{task.task_id}{mapped}{page}"

    def events(self, task: TaskInstance) -> list[str]:
        """Return the log messages of this package in a task's last attempt."""
        path, params = f"{task.path}/logs/{task.try_number}", {"map_index": task.map_index, "full_content": True}
        entries = self.airflow.api.call("GET", path, params=params)["content"]
        return [entry["event"] for entry in entries if "datatile_provider" in (entry.get("logger") or "")]

    def job_id(self, task: TaskInstance) -> str:
        """Return the job id that a task's upload has pushed."""
        return str(self.airflow.api.xcoms(task)["job_id"])


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with (
        TemporaryDirectory(prefix="airflow-") as folder,
        Sandbox(processing_seconds=4) as sandbox,
        FaultProxy(sandbox.url) as faults,
    ):
        dags = Path(folder) / "dags"
        shutil.copytree(EXAMPLES, dags)
        shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
        whole = (dags / "data" / "wave2.zsav").read_bytes()
        (dags / "data" / "wave3.zsav").write_bytes(whole[: len(whole) // 2])
        tracker = sandbox.add_database("Tracker", rows=944, variables=["age", "vote"])
        for file in (dags / f"{PRODUCER}.py", dags / f"{CONSUMER}.py"):
            text = file.read_text().replace("0f3a9c2b7d4e5f61", tracker)
            file.write_text(text.replace("datatile.example.com", sandbox.url.removeprefix("http://")))
        env = (
            environment(sandbox)
            | SETTINGS
            | {
                "AIRFLOW_VAR_TRACKER_DATABASE": tracker,
                "AIRFLOW_VAR_QUESTION_DATABASE": sandbox.add_database("Tracker of 2026", rows=944, variables=["age"]),
                "AIRFLOW_CONN_DATATILE_QUESTION": json.dumps(connection_to(faults.url, sandbox.token)),
            }
        )
        with failing_servers(dags / "data") as failures, RealAirflow(dags, env=env | failures) as airflow:
            # One after the other, because they write into the same folder or database.
            runs = {dag_id: airflow.run_dag(dag_id) for dag_id in (STUDY, MAPPED, BROKEN, PRODUCER)}
            runs[CONSUMER] = run_by_asset(airflow)
            yield Lab(airflow, sandbox, faults, runs, airflow.api.trigger(FAILURES))


def run_by_asset(airflow: RealAirflow) -> Run:
    """Wait for the run that the producer's asset event starts, and return it when it has ended."""
    deadline = time.monotonic() + 60
    while not (runs := airflow.api.call("GET", f"dags/{CONSUMER}/dagRuns")["dag_runs"]):
        assert time.monotonic() < deadline, f"{CONSUMER} was not started"
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
    with browser.new_context(viewport=WINDOW, device_scale_factor=2) as context:
        context.set_default_timeout(15_000)
        yield context.new_page()


@pytest.fixture
def picture(page: Page) -> Callable[..., None]:
    """
    Save the box around some elements as a picture; by default the whole window.

    ``height`` is the most that the picture is high. ``left`` and ``right`` are what is cut off there: the button that
    hides a panel overlaps its edge.
    """

    def keep(name: str, *areas: Locator, height: float = math.inf, left: float = 0, right: float = 0) -> None:
        boxes = [_edges(area) for area in areas] or [_window(page)]
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        top = min(tops)
        _screenshot(page, name, (min(lefts) + left, top, max(rights) - right, min(max(bottoms), top + height)))

    return keep


@pytest.fixture
def log_picture(page: Page) -> Callable[..., None]:
    """Save the visible part of a task's log as a picture, down to the end of an element if one is given."""

    def keep(name: str, until: Locator | None = None) -> None:
        left, top, right, bottom = _edges(page.get_by_test_id("virtual-scroll-container"))
        log = page.get_by_test_id("virtualized-list")
        # The first entry of a log that is scrolled may be cut off.
        entries = [_edges(entry) for entry in log.get_by_test_id(re.compile("virtualized-item|group-header")).all()]
        start = min(entry[1] for entry in entries if entry[1] >= top)
        end = _edges(until or log)[3]
        _screenshot(page, name, (left, start, right, min(bottom, end)))

    return keep


def _screenshot(page: Page, name: str, edges: Edges) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    # A tooltip at the mouse position would hide something.
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    window = _window(page)
    left, top = (max(pair) for pair in zip(edges[:2], window[:2], strict=True))
    right, bottom = (min(pair) for pair in zip(edges[2:], window[2:], strict=True))
    clip = FloatRect(x=left, y=top, width=right - left, height=bottom - top)
    page.screenshot(path=PICTURES / f"{name}.png", clip=clip, animations="disabled", caret="hide")


def _edges(area: Locator) -> Edges:
    box = area.bounding_box()
    assert box, f"{area} is not shown"
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]


def _window(page: Page) -> Edges:
    size = page.viewport_size
    assert size
    return 0, 0, size["width"], size["height"]
