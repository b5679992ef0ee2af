"""Jobs: states over time, callbacks, mails, pages, other dialects, restarts."""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from typing import Any

import pytest
import requests
from markupsafe import escape

from datatile_provider.sandbox import Sandbox

CSV = b"respondent,vote\n1,0\n2,1\n"
BY_A_TEST = {"X-Requested-With": "a test"}


@pytest.fixture
def listener():
    """A server on this machine that stores what is posted to it."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/events?x=1", received
        server.shutdown()


def test_states_over_time(start):
    user = start(processing_seconds=0.6)
    started = time.monotonic()
    response = user.upload("create", user.sandbox.folder, ("a.csv", CSV)).json()
    assert response == {"job_id": response["job_id"], "status": "queued"}
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1]["status"] not in ("succeeded", "failed"):
        job = user.job(response["job_id"])
        if not seen or seen[-1]["status"] != job["status"]:
            seen.append(job)
        assert time.monotonic() < started + 10
    assert [job["status"] for job in seen] == ["queued", "running", "succeeded"]
    assert 0.6 <= time.monotonic() - started < 3
    assert seen[0]["database"] is None
    assert seen[0]["created_at"] == seen[0]["updated_at"] == seen[2]["created_at"] < seen[2]["updated_at"]


def test_served_on_localhost(start):
    user = start(host="localhost")
    assert user.sandbox.url.startswith("http://localhost:")
    assert user.run("create", user.sandbox.folder, ("a.csv", CSV))["status"] == "succeeded"


def test_unknown_job(user):
    url = f"{user.sandbox.url}/api/v2/jobs/1234"
    assert requests.get(url, headers={"token": user.sandbox.token}, timeout=5).status_code == 404


def test_callbacks_and_mails(user, listener):
    url, received = listener
    job = user.run("create", user.sandbox.folder, ("a.csv", CSV), callback=url)
    _until(lambda: len(user.sandbox.callbacks()) == 3)
    assert [event["status"] for event in received] == ["queued", "running", "succeeded"]
    assert received[-1] == job
    assert {(event["url"], event["status"], event["error"]) for event in user.sandbox.callbacks()} == {(url, 204, None)}
    mails = user.sandbox.mails()
    assert [mail["subject"].rsplit(": ")[-1] for mail in mails] == ["queued", "running", "succeeded"]
    assert all("@" in mail["to"] for mail in mails)
    states = ("is queued.", "is running.", "has succeeded. 2 rows read; a holds 2")
    assert [mail["body"] for mail in mails] == [f"Job {job['job_id']} {state}" for state in states]


@pytest.mark.parametrize("order", [1, -1])
def test_callback_field_before_and_after_the_file(user, listener, order):
    url, received = listener
    form = [("dataset", ("a.csv", CSV)), ("wave", (None, "1")), ("callback", (None, url))][::order]
    address = f"{user.sandbox.url}/api/v2/upload/create/{user.sandbox.folder}"
    response = requests.post(address, headers={"token": user.sandbox.token}, files=form, timeout=5)
    assert user.wait(response.json()["job_id"])["status"] == "succeeded"
    _until(lambda: len(received) == 3)


def test_failing_callback_does_not_delay_the_job(user):
    job = user.run("create", user.sandbox.folder, ("a.csv", CSV), callback="http://127.0.0.1:1/")
    assert job["status"] == "succeeded"
    _until(lambda: len(user.sandbox.callbacks()) == 3)
    assert all(event["error"] and event["status"] is None for event in user.sandbox.callbacks())


@pytest.mark.parametrize("url", ["http://example.com/", "http://192.0.2.1/", "file:///etc/passwd", "x", "http://["])
def test_callback_to_this_machine_only(user, url):
    response = user.upload("create", user.sandbox.folder, ("a.csv", CSV), callback=url)
    assert (response.status_code, bool(response.json()["error"])) == (400, True)
    assert user.sandbox.jobs() == []


def test_cancel(start):
    user = start(processing_seconds=60)
    database = user.sandbox.add_database(rows=3)
    job_id = user.upload("reload", database, ("a.csv", CSV)).json()["job_id"]
    cancel = f"{user.sandbox.url}/sandbox/jobs/{job_id}/cancel"
    assert requests.post(cancel, headers=BY_A_TEST, timeout=5).json()["status"] == "cancelled"
    assert requests.post(cancel, headers=BY_A_TEST, timeout=5).status_code == 409
    assert user.job(job_id)["message"] == "Cancelled by a user"
    assert user.sandbox.databases()[0]["rows"] == 3
    assert not list(user.state_dir.joinpath("uploads").iterdir())
    assert user.upload("reload", database, ("a.csv", CSV)).status_code == 200
    user.sandbox.cancel(user.sandbox.jobs()[1]["job_id"])
    assert user.sandbox.jobs()[1]["state"] == "CANCELLED"


def test_a_status_set_by_a_test(user):
    job_id = user.run("create", user.sandbox.folder, ("a.csv", CSV))["job_id"]
    url = f"{user.sandbox.url}/sandbox/jobs/{job_id}/status"
    changed = requests.post(url, json={"status": "pondering"}, headers=BY_A_TEST, timeout=5)
    assert changed.json()["status"] == "pondering"
    assert user.job(job_id)["status"] == "pondering"
    user.sandbox.set_status(job_id, None)
    assert user.job(job_id)["status"] == "succeeded"


def test_another_dialect(start, listener):
    url, received = listener
    user = start(
        job_path="/api/v2/processing/{job_id}/state",
        job_id_field="result.id",
        status_field="result.phase.name",
        state_words={"QUEUED": "waiting in line", "SUCCEEDED": "All done"},
        callback_field="notify",
    )
    response = user.upload("create", user.sandbox.folder, ("a.csv", CSV), notify=url).json()
    job_id = response["result"]["id"]
    assert response == {"result": {"id": job_id, "phase": {"name": "waiting in line"}}}
    _until(lambda: len(received) == 3)
    assert [event["result"]["phase"]["name"] for event in received] == [
        "waiting in line",
        "running",
        "All done",
    ]
    status = f"{user.sandbox.url}/api/v2/processing/{job_id}/state"
    assert requests.get(status, headers={"token": user.sandbox.token}, timeout=5).json() == received[-1]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("kind=upload&id={job_id}&more=1", 200),
        ("id={job_id}", 400),
        ("kind=other&id={job_id}", 400),
        ("kind=upload", 400),
        ("kind=upload&id=unknown", 404),
    ],
)
def test_a_job_in_the_query(start, query, status):
    user = start(job_path="{api_path}/status?kind=upload&id={job_id}", api_path="/rest/")
    address = f"{user.sandbox.api_url}/upload/create/{user.sandbox.folder}"
    assert address.startswith(f"{user.sandbox.url}/rest/upload")
    headers = {"token": user.sandbox.token}
    job_id = requests.post(address, headers=headers, files={"dataset": ("a.csv", CSV)}, timeout=5).json()["job_id"]
    url = f"{user.sandbox.url}/rest/status?{query.format(job_id=job_id)}"
    assert requests.get(url, headers=headers, timeout=5).status_code == status


def test_pages_and_controls_keep_their_paths_and_codes_in_any_dialect(start):
    user = start(job_path="{job_id}", status_codes={"not_found": 410, "role": 402, "busy": 423})
    job_id = user.upload("create", user.sandbox.folder, ("a.csv", CSV)).json()["job_id"]

    def get(path):
        return requests.get(f"{user.sandbox.url}/{path}", headers={"token": user.sandbox.token}, timeout=5)

    assert get(job_id).json()["job_id"] == job_id
    assert get("unknown").status_code == 410
    assert "Processing log" in get("processing-log").text
    assert get("processing-log/unknown").status_code == 404
    assert get("openapi.json").json()["openapi"] == "3.1.0"
    assert requests.post(f"{user.sandbox.url}/sandbox/token", timeout=5).status_code == 403


def test_pages(user):
    name = "<script>alert('x')</script> & \"co\".csv"
    job = user.run("create", user.sandbox.folder, (name, b"a&b,<i>\n1,2\n"))
    failed = user.run("append", job["database"], ("b.csv", b"<b>,c\n1\n"))
    pages = {path: requests.get(user.sandbox.url + path, timeout=5) for path in ("/", "/processing-log")}
    for found in (job, failed):
        path = f"/processing-log/{found['job_id']}"
        assert f'href="{path}"' in pages["/processing-log"].text
        pages[path] = requests.get(user.sandbox.url + path, timeout=5)
    for page in pages.values():
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "<script" not in page.text
        assert "<i>" not in page.text
        assert "<b>,c" not in page.text
        assert 'href="/processing-log"' in page.text
    assert job["database"] in pages["/"].text
    log = pages["/processing-log"].text
    assert log.index(f'id="job-{failed["job_id"]}"') < log.index(f'id="job-{job["job_id"]}"')
    assert str(escape(name)) in log
    assert "line 2 has 1 values" in pages[f"/processing-log/{failed['job_id']}"].text


def test_a_job_page_shows_the_folder_and_the_new_database(user):
    job = user.run("create", user.sandbox.folder, ("a.csv", CSV))
    page, log = (
        re.sub("<[^>]*>", " ", requests.get(f"{user.sandbox.url}/processing-log{job_page}", timeout=5).text)
        for job_page in (f"/{job['job_id']}", "")
    )
    assert f"Surveys {user.sandbox.folder}" in " ".join(page.split())
    assert f"New database a {job['database']}" in " ".join(page.split())
    assert f"Surveys {user.sandbox.folder}" in " ".join(log.split())
    assert re.search(r"\d\d:\d\d:\d\d UTC", log)


@pytest.mark.parametrize("path", ["/processing-log/none", "/nowhere"])
def test_a_browser_gets_a_page_for_an_unknown_path(user, path):
    browser = requests.get(user.sandbox.url + path, headers={"Accept": "text/html,*/*"}, timeout=5)
    assert (browser.status_code, browser.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert 'href="/processing-log"' in browser.text
    program = requests.get(user.sandbox.url + path, timeout=5)
    assert program.status_code == 404
    assert "text/html" not in program.headers["Content-Type"]


def test_the_control_api(user):
    url = f"{user.sandbox.url}/sandbox"

    def call(path, **body):
        return requests.post(f"{url}/{path}", json=body, headers=BY_A_TEST, timeout=5)

    database = call("databases", name="Мой", rows=7, variables=["a"]).json()["hash"]
    assert call("permissions", hash=database, can_edit=False).status_code == 200
    assert call("roles", roles=["data-collector"]).status_code == 200
    token = requests.post(f"{url}/token", headers=BY_A_TEST, timeout=5).json()["token"]
    state = requests.get(f"{url}/state", timeout=5).json()
    assert state == user.sandbox.state()
    assert state["token"] == token == user.sandbox.token
    assert state["roles"] == ["data-collector"]
    (found,) = state["databases"]
    assert (found["hash"], found["name"], found["rows"], found["can_edit"]) == (database, "Мой", 7, False)
    for path, body in [
        ("databases", {"rows": -1}),
        ("databases", {"name": 1}),
        ("permissions", {"hash": database}),
        ("roles", {"roles": ["king"]}),
        ("roles", {"roles": 5}),
    ]:
        assert call(path, **body).status_code == 400, (path, body)
    assert call("permissions", hash="none", can_edit=True).status_code == 404
    assert call("jobs/none/cancel").status_code == 404
    assert requests.post(f"{url}/roles", data="[", headers=BY_A_TEST, timeout=5).status_code == 400


def test_a_restart_resumes_the_jobs(start, tmp_path):
    options = {"state_dir": tmp_path / "kept"}
    first = start(**options, processing_seconds=60)
    sandbox = first.sandbox
    database = sandbox.add_database(rows=1)
    job_id = first.upload("append", database, ("a.csv", CSV)).json()["job_id"]
    before = sandbox.state()
    started = time.monotonic()
    sandbox.__exit__(None, None, None)
    assert time.monotonic() - started < 2
    second = start(**options)
    assert second.sandbox.token == before["token"]
    assert (second.sandbox.folder, second.sandbox.root) == (before["folder"], before["root"])
    job = second.wait(job_id)
    assert (job["status"], job["total_rows"]) == ("succeeded", 3)
    assert second.sandbox.databases()[0]["rows"] == 3
    second.sandbox.__exit__(None, None, None)
    third = start(**options, token="fixed", folder="f1")
    assert third.sandbox.jobs()[0]["state"] == "SUCCEEDED"
    assert (third.sandbox.token, third.sandbox.folder) == ("fixed", "f1")
    assert third.run("create", "f1", ("a.csv", CSV))["status"] == "succeeded"


@pytest.mark.parametrize(
    "option",
    [
        {"host": "0.0.0.0"},
        {"host": "example.com"},
        {"port": -1},
        {"token": "a b"},
        {"processing_seconds": float("nan")},
        {"tls_cert": "cert.pem"},
        {"job_path": "api/v2/jobs"},
        {"job_path": "jobs/{job_id}?id={job_id}"},
        {"job_path": "jobs/{hash}/{job_id}"},
        {"job_path": "jobs?{job_id}"},
        {"job_path": "?id={job_id}"},
        {"job_path": "processing-log/{job_id}"},
        {"api_path": ""},
        {"api_path": "api/{version}"},
        {"api_path": "sandbox/v2"},
        {"callback_field": "dataset"},
        {"bare_id": "xml"},
        {"job_id_field": "a..b"},
        {"job_id_field": "job", "status_field": "job.status"},
        {"roles": ("king",)},
        {"rows_field": "result", "database_field": "result"},
        {"state_words": {"DONE": "done"}},
        {"state_words": {"QUEUED": 0.5}},
        {"state_words": {"QUEUED": "Failed"}},
        {"state_words": {"RUNNING": 2, "SUCCEEDED": "2"}},
        {"status_codes": {"late": 409}},
        {"status_codes": {"busy": 500}},
        {"status_codes": {"busy": 408}},
        {"status_codes": {"busy": "409"}},
    ],
)
def test_options_that_cannot_work(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        Sandbox(**option)


def _until(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
