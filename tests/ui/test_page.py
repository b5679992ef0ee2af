"""The page DATATILE, in the menu of a real Airflow with its default settings."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Dialog, FrameLocator, Page, ViewportSize, expect

from datatile_provider.sandbox import Sandbox
from tests.support.airflow import RealAirflow
from tests.support.demo import environment
from tests.support.faults import Fault, FaultProxy
from tests.support.sandbox import connection_to
from tests.support.waiting import until
from tests.ui.conftest import PICTURES
from tests.ui.copies import copy_tasks, remove_copies, set_state, spread_over_weeks

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300), pytest.mark.needs_airflow(">=3.1")]

# The pictures that are not in the docs.
BUILD = Path(__file__).parents[2] / "build" / "pictures"
INTERVIEWS, HALF, BROKEN = 400, 7, 10
SCRIPT = "<img src=x onerror=alert(1)>.csv"
COUNT = 5000
WINDOW, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=400, height=800)


def write_waves(folder: Path) -> None:
    for wave in range(1, 13):
        interviews = INTERVIEWS // 2 if wave == HALF else INTERVIEWS + wave
        header = "other,names" if wave == BROKEN else "id,age"
        text = "\n".join([header, *(f"{number},{20 + number % 60}" for number in range(interviews))])
        (folder / f"wave_{wave:02}.csv").write_text(text)
    (folder / SCRIPT).write_text("id,age\n1,30\n2,40\n")


@pytest.fixture(scope="module")
def airflow() -> Iterator[RealAirflow]:
    with (
        TemporaryDirectory(prefix="airflow-") as folder,
        Sandbox(processing_seconds=0.5) as sandbox,
        FaultProxy(sandbox.url, Fault("reset_before_response", on="upload")) as losing,
    ):
        dags = Path(shutil.copytree(Path(__file__).parent / "page_dags", Path(folder) / "dags"))
        (dags / "data").mkdir()
        write_waves(dags / "data")
        env = environment(sandbox) | {
            "TRACKER": sandbox.add_database("Tracker", rows=0, variables=["id", "age"]),
            "FOLDER": sandbox.folder,
            "AIRFLOW_CONN_DATATILE_LOSING": json.dumps(connection_to(losing.url, sandbox.token)),
        }
        with RealAirflow(dags, env=env) as airflow:
            assert airflow.run_dag("by_hand").state == "success"
            run_id = airflow.api.trigger("tracker")
            until(lambda: waiting(airflow, run_id), "the last wave waits for a person", timeout=200)
            spread_over_weeks(airflow.home / "airflow.db", "tracker")
            yield airflow


def waiting(airflow: RealAirflow, run_id: str) -> bool:
    """Return whether the last wave asks."""
    tasks = airflow.api.run("tracker", run_id).tasks
    last = [task for task in tasks if task.task_id == "wave_12" and task.state in ("awaiting_input", "deferred")]
    return bool(last and airflow.api.question(last[0]))


@pytest.fixture
def errors(page: Page) -> Iterator[list[str]]:
    """What the browser reports as an error; there must be nothing."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))

    def refuse(dialog: Dialog) -> None:
        found.append(f"dialog {dialog.message}")
        dialog.dismiss()

    page.on("dialog", refuse)
    yield found
    assert [text for text in found if "datatile" in text or "dialog" in text or "Content" in text] == []


def frame(page: Page) -> FrameLocator:
    return page.frame_locator("iframe[title=DATATILE]")


def log_in(airflow: RealAirflow, page: Page) -> None:
    """Open the UI. Airflow 3.1 goes to its home page after the login, whatever the address was."""
    page.goto(airflow.url)
    expect(page.get_by_role("link", name="Home").first).to_be_visible()


def open_page(airflow: RealAirflow, page: Page, search: str = "") -> FrameLocator:
    """Open the page in Airflow's UI, and wait until all of it is loaded."""
    log_in(airflow, page)
    page.goto(f"{airflow.url}/plugin/datatile{search}")
    inside = frame(page)
    expect(inside.locator("body[data-loaded=yes]")).to_be_visible(timeout=30_000)
    return inside


def rows_of(inside: Any) -> Any:
    return inside.locator("#table tbody tr")


def shoot(page: Page, name: str, folder: Path = BUILD) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    page.mouse.move(0, 0)
    page.screenshot(path=folder / f"{name}.png", animations="disabled")


def test_the_menu_leads_to_the_page(airflow, page, errors):
    page.goto(airflow.url)
    page.get_by_label("DATATILE").or_(page.get_by_text("DATATILE", exact=True)).first.click()
    expect(frame(page).get_by_role("heading", name="DATATILE uploads")).to_be_visible()


def test_the_study(airflow, page, errors):
    page.set_viewport_size({**WINDOW, "height": 2040})
    inside = open_page(airflow, page)
    expect(rows_of(inside)).to_have_count(14)
    failed = rows_of(inside).filter(has_text=f"wave_{BROKEN}.csv")
    expect(failed).to_contain_text("failed")
    expect(failed).to_contain_text("has no variable in common with Tracker")
    waits = rows_of(inside).filter(has_text="wave_12.csv")
    expect(waits).to_contain_text("waiting for a person")
    expect(waits).to_contain_text("OUTCOME UNKNOWN")
    expect(inside.locator(".tile").nth(1)).to_contain_text("1")
    # The other waves were moved into the past.
    expect(inside.locator(".tile").nth(3)).to_contain_text("2 rows")
    chart = inside.locator("figure").first
    expect(chart).to_contain_text(f"1 of 10 uploads with less than 70 % of the usual rows: wave_{HALF:02}.csv.")
    expect(chart.locator("rect.bar")).to_have_count(10)
    expect(chart.locator("rect.few")).to_have_count(1)
    chart.locator("summary").click()
    expect(chart.locator("tbody tr").nth(HALF - 1)).to_contain_text("200")
    expect(inside.get_by_role("img", name="Failures by kind job-failed: 1")).to_be_visible()
    chart.locator("summary").click()
    shoot(page, "uploads-page", PICTURES)
    page.set_viewport_size(WINDOW)
    shoot(page, "uploads-page-top", PICTURES)


def test_an_upload_by_a_subclass_has_the_rows_of_its_wait(airflow, page, errors):
    inside = open_page(airflow, page, "?dag=by_hand")
    wait, upload = rows_of(inside).nth(0), rows_of(inside).nth(1)
    expect(upload).to_contain_text("create")
    for row in (wait, upload):
        expect(row).to_contain_text("succeeded")
        expect(row).to_contain_text(SCRIPT)
        expect(row.locator("td.number").first).to_have_text("2")
        expect(row.locator("td.number").nth(2)).to_contain_text(" s")


def test_the_address_holds_the_filters(airflow, page, errors):
    inside = open_page(airflow, page)
    inside.get_by_label("State").select_option("failed")
    expect(rows_of(inside)).to_have_count(1)
    assert parse_qs(urlsplit(page.url).query) == {"state": ["failed"]}
    inside.get_by_role("button", name="Rows").click()
    expect(inside.get_by_role("columnheader", name="Rows")).to_have_attribute("aria-sort", "ascending")
    page.reload()
    expect(rows_of(frame(page))).to_have_count(1)
    assert parse_qs(urlsplit(page.url).query) == {"state": ["failed"], "sort": ["rows"], "descending": ["no"]}
    # The link opens the page without Airflow's menu, in a window of its own.
    with page.context.expect_page() as opened:
        frame(page).get_by_role("link", name="Open alone").click()
    expect(rows_of(opened.value)).to_have_count(1)
    assert urlsplit(opened.value.url).path == "/datatile/"
    frame(page).get_by_role("button", name="Clear filters").click()
    expect(rows_of(frame(page))).to_have_count(14)
    assert urlsplit(page.url).query == ""


@pytest.mark.parametrize(
    "search", ["?text=in+common", "?text=wave_10", "?state=failed", "?text=JOB+FAILED&dag=tracker"]
)
def test_a_shared_address(airflow, page, errors, search):
    inside = open_page(airflow, page, search)
    expect(rows_of(inside)).to_have_count(1)
    expect(rows_of(inside)).to_contain_text(f"wave_{BROKEN}.csv")


def test_links_open_in_the_top_window(airflow, page, errors):
    inside = open_page(airflow, page, "?state=failed")
    with page.context.expect_page() as opened:
        rows_of(inside).get_by_role("link", name=re.compile("the job in DATATILE")).click()
    assert "/processing-log/" in opened.value.url
    rows_of(inside).get_by_role("link", name=re.compile("log of the task")).click()
    page.wait_for_url(re.compile(r"/dags/tracker/runs/[^/]+/tasks/wave_10$"))


def test_sorting_by_keyboard(airflow, page, errors):
    inside = open_page(airflow, page, "?dag=tracker")
    button = inside.get_by_role("button", name="Rows")
    button.focus()
    page.keyboard.press("Enter")
    expect(rows_of(inside).first).to_contain_text(f"wave_{HALF:02}.csv")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    # The last wave waits for a person, so its rows are not known. Such uploads come last.
    expect(rows_of(inside).first).to_contain_text("wave_11.csv")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("size", "name"), [(WINDOW, "desktop"), (PHONE, "phone")])
def test_themes_and_sizes(airflow, page, errors, scheme, size, name):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(size)
    inside = open_page(airflow, page)
    root = inside.locator("html")
    expect(root).to_have_attribute("data-theme", scheme)
    assert root.evaluate("root => root.scrollWidth <= window.innerWidth")
    assert violations(page) == []
    shoot(page, f"uploads-page-{name}-{scheme}")
    inside.locator("figure").first.scroll_into_view_if_needed()
    shoot(page, f"uploads-page-charts-{name}-{scheme}")


def violations(page: Page) -> list[str]:
    """Return the serious findings of axe-core in the page, without Airflow's own UI."""
    inside = page.frames[1]
    inside.evaluate((files("axe_core_python") / "axe.min.js").read_text())
    found = inside.evaluate("axe.run()")["violations"]
    return [
        f"{entry['id']}: {entry['nodes'][0]['html']}" for entry in found if entry["impact"] in ("serious", "critical")
    ]


def test_only_airflows_public_api_is_called(airflow, page, errors):
    called: list[str] = []
    tokens: list[str] = []

    def note(request: Any) -> None:
        if request.frame != page.main_frame:
            called.append(request.url)
            tokens.extend(name for name in request.headers if name == "authorization")

    page.on("request", note)
    open_page(airflow, page)
    assert len(called) > 20
    outside = [url for url in called if not url.startswith((f"{airflow.url}/datatile/", f"{airflow.url}/api/v2/dags/"))]
    assert (outside, tokens) == ([], [])


def test_nothing_to_show(airflow, page, errors):
    empty = '{"task_instances": [], "xcom_entries": [], "hitl_details": [], "total_entries": 0}'
    page.route("**/api/v2/dags/~/**", lambda route: route.fulfill(body=empty, content_type="application/json"))
    inside = open_page(airflow, page)
    expect(inside.get_by_text("No upload or wait yet.")).to_be_visible()
    expect(inside.get_by_text("Nothing to draw")).to_be_visible()
    shoot(page, "uploads-page-empty")


@pytest.mark.parametrize(("status", "words"), [(401, "Log in to Airflow again."), (500, "Airflow responded with 500.")])
def test_an_error_of_airflow(airflow, page, status, words):
    log_in(airflow, page)
    page.route("**/api/v2/dags/~/**", lambda route: route.fulfill(status=status, body="{}"))
    # Alone, because Airflow's UI makes some of these requests too.
    page.goto(f"{airflow.url}/datatile/")
    expect(page.get_by_role("alert")).to_have_text(f"The uploads could not be loaded. {words}")


@pytest.fixture
def copies(airflow: RealAirflow) -> Iterator[Callable[..., None]]:
    """Add copies of the last wave's task; they are removed after the test."""
    database = airflow.home / "airflow.db"
    yield lambda *changes: copy_tasks(database, "tracker", "wave_12", list(changes))
    remove_copies(database)


def test_texts_that_are_scripts(airflow, page, errors, copies):
    script = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    summary = {
        "file": script,
        "message": script,
        "database": script,
        "action": script,
        "job_url": "javascript:alert(3)",
        "log_url": "data:text/html,<script>alert(4)</script>",
        "code": script,
        "state": "failed",
    }
    copies(
        {
            "days": 0.01,
            "run_id": "<img src=x onerror=alert(5)>",
            "state": "failed",
            "summary": {**summary, "job": script},
        }
    )
    inside = open_page(airflow, page)
    row = rows_of(inside).filter(has_text=script)
    expect(row).to_have_count(1)
    assert row.inner_text().count(script) >= 5
    assert row.locator("img, script").count() == 0
    assert all(link.get_attribute("href").startswith("/") for link in row.get_by_role("link").all())
    expect(inside.get_by_role("heading", name="Failures by kind")).to_be_visible()
    assert inside.locator("main img, main script").count() == 0


def test_it_refreshes_itself_while_something_is_in_flight(airflow, page, errors, copies):
    copies({"days": 0, "state": "running", "end_date": None, "summary": {"state": "accepted", "rows": None}})
    inside = open_page(airflow, page)
    expect(inside.locator(".tile").first).to_contain_text("1 processing")
    expect(inside.get_by_text("Refreshes every 5 seconds.")).to_be_visible()
    row = rows_of(inside).first
    expect(row).to_contain_text("processing")
    (identity,) = set_state(airflow.home / "airflow.db", "running", "success")
    expect(row).not_to_contain_text("processing", timeout=12_000)
    expect(inside.locator(".tile").first).to_contain_text("0 processing", timeout=12_000)
    assert identity


def test_what_waits_for_a_person(airflow, page, errors):
    inside = open_page(airflow, page)
    inside.get_by_label("State").select_option("person")
    expect(rows_of(inside)).to_have_count(1)
    expect(rows_of(inside)).to_contain_text("wave_12.csv")
    rows_of(inside).get_by_role("link", name="waiting for a person").click()
    expect(page.get_by_text("Does DATATILE have this upload?").first).to_be_visible()


def test_five_thousand_tasks(airflow, page, errors, copies):
    failed = {"state": "failed", "code": "job-failed", "rows": None}
    copies(
        *(
            {"days": 1 + number / 64, "state": "failed", "summary": failed}
            if number % 50 == 0
            else {"days": 1 + number / 64, "summary": {"rows": 300 + number % 40, "file": f"wave_{number}.sav"}}
            for number in range(COUNT)
        )
    )
    log_in(airflow, page)
    begun = time.monotonic()
    page.goto(f"{airflow.url}/plugin/datatile")
    expect(rows_of(frame(page))).to_have_count(50)
    whole = time.monotonic() - begun
    expect(frame(page).locator("body[data-loaded=yes]")).to_be_visible(timeout=30_000)
    table, charts = (
        page.frames[1].evaluate("name => performance.getEntriesByName(name)[0].startTime", name) / 1000
        for name in ("table", "charts")
    )
    assert table < 2, f"{table:.2f} s after the start of the page, {whole:.2f} s with Airflow's UI"
    assert charts < 60
    expect(frame(page).locator("#range")).to_have_text(re.compile(r"1 to 50 of 100. The newest 100 of 5\d{3} tasks"))
    frame(page).get_by_role("button", name="Older").click()
    frame(page).get_by_role("button", name="Older").click()
    expect(frame(page).locator("#range")).to_have_text(re.compile(r"101 to 150 of 200"))
    frame(page).get_by_label("State").select_option("failed")
    # Two of a hundred failed, and the wave of the study.
    expect(frame(page).locator("#range")).to_have_text(re.compile(r"1 to 50 of 100. The newest 100 of 101 tasks"))
    expect(rows_of(frame(page)).filter(has_text="failed")).to_have_count(50)
    shoot(page, "uploads-page-many")


# The modules of the page, without Airflow's UI.


@pytest.fixture
def run(airflow: RealAirflow, page: Page) -> Callable[[str], Any]:
    """Evaluate an expression with the exports of the page's modules."""
    page.goto(f"{airflow.url}/datatile/")

    def run(expression: str) -> Any:
        names = ("format", "rows", "charts", "address", "api", "tiles")
        loads = ", ".join(f"import('./{name}.js')" for name in names)
        return page.evaluate(
            f"async () => {{ const [{', '.join(names)}] = await Promise.all([{loads}]); return {expression} }}"
        )

    return run


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("format.bytes(999)", "999 bytes"),
        ("format.bytes(1500)", "1.5 kB"),
        ("format.bytes(-1)", "\u2013"),
        ("format.duration(0.25)", "0.3 s"),
        ("format.duration(75)", "75 s"),
        ("format.duration(5430)", "1 h 31 min"),
        ("format.number(null)", "\u2013"),
        ("format.webAddress('https://example.com/a')", "https://example.com/a"),
        ("format.webAddress('javascript:alert(1)')", ""),
        ("format.webAddress(' data:text/html,x')", ""),
        ("format.webAddress('//example.com')", ""),
        ("charts.median([4, 1, 3])", 3),
        ("charts.median([4, 1])", 2.5),
        ("charts.ceiling(412)", 600),
        ("charts.ceiling(0)", 1),
        ("address.query({...address.DEFAULTS, dag: 'a&b'})", "?dag=a%26b"),
        ("address.query(address.DEFAULTS)", ""),
        ("address.parse('?dag=a%26b&other=1').dag", "a&b"),
        ('api.summaryOf(\'{"version": 1, "job": "7"}\').job', "7"),
        ("api.summaryOf({version: 2})", None),
        ("api.summaryOf('<html>')", None),
        ("api.summaryOf(null)", None),
    ],
)
def test_a_function_of_the_page(run, expression, value):
    assert run(expression) == value


STATES = [
    (None, "upload", None, "queued"),
    ("queued", "wait", None, "queued"),
    ("running", "upload", None, "sending"),
    ("running", "upload", "accepted", "processing"),
    ("running", "wait", None, "processing"),
    ("deferred", "upload", None, "backoff"),
    ("deferred", "upload", "accepted", "processing"),
    ("up_for_reschedule", "wait", None, "processing"),
    ("up_for_retry", "upload", "failed", "retry"),
    ("awaiting_input", "upload", "unknown", "person"),
    ("success", "upload", "accepted", "accepted"),
    ("success", "upload", None, "accepted"),
    ("success", "wait", None, "succeeded"),
    ("success", "upload", "succeeded", "succeeded"),
    ("failed", "upload", "unknown", "unknown"),
    ("failed", "upload", "accepted", "failed"),
    ("failed", "wait", None, "failed"),
    ("upstream_failed", "upload", None, "skipped"),
]


def test_the_state_of_a_row(run):
    def task(state, kind, summary):
        operator = "DatatileJobSensor" if kind == "wait" else "DatatileUploadOperator"
        instance = {"dag_id": "d", "dag_run_id": "r", "task_id": "t", "map_index": -1, "state": state}
        summary = {"version": 1, "kind": kind, "state": summary} if summary else None
        return [{**instance, "operator": operator, "run_after": "2026-11-25T00:00:00Z"}, summary]

    given = [task(*case[:3]) for case in STATES]
    found = run(f"{json.dumps(given)}.map(([task, summary]) => rows.rowOf(task, summary).state)")
    assert found == [state for *_, state in STATES]
    assert set(found) == set(run("Object.keys(rows.STATES)"))
