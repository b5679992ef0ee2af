"""What a job reports about its data, and the addresses of jobs and of the pages that show them."""

from __future__ import annotations

import pytest

from datatile_provider.api import errors
from datatile_provider.api.models import Job, ServerConfig
from datatile_provider.api.states import JobState


def test_a_job_that_was_not_polled():
    job = Job("7")
    assert (job.state, job.named) == (JobState.QUEUED, False)
    assert (job.rows, job.database, job.action) == (None, "", "")


@pytest.mark.parametrize(
    ("details", "rows"),
    [
        ({"rows": 60}, 60),
        ({"row_count": 1}, 1),
        ({"rowCount": 0}, 0),
        ({"rows": 1, "data": {"rows": 60}}, 60),
        ({"rows": 60, "data": {"rows": None}}, 60),
        ({"rows": -1}, None),
        ({"rows": True}, None),
        ({"rows": 1.5}, None),
        ({"rows": "60"}, None),
        ({"rows": None}, None),
    ],
)
def test_rows(details, rows):
    found = Job("7", details=details).rows
    assert found == rows
    assert type(found) is type(rows)


@pytest.mark.parametrize(
    ("details", "database"),
    [
        ({"database": "f00d"}, "f00d"),
        ({"database_hash": "f00d"}, "f00d"),
        ({"result": {"databaseHash": "f00d"}}, "f00d"),
        ({"database": {"hash": "f00d"}}, ""),
        ({"database": "a study"}, ""),
        ({"database": 7}, ""),
    ],
)
def test_database(details, database):
    assert Job("7", details=details).database == database


@pytest.mark.parametrize(
    ("value", "action"), [("create", "create"), ("append", "append"), ("delete", ""), (7, ""), (["append"], "")]
)
def test_action(value, action):
    assert Job("7", details={"action": value}).action == action


@pytest.mark.parametrize(
    ("error", "state"),
    [(errors.JobFailedError, JobState.FAILED), (errors.JobCancelledError, JobState.CANCELLED)],
)
def test_a_job_has_the_state_that_the_error_of_its_wait_reports(error, state):
    job = Job("7", JobState.RUNNING, message="row 1").ended_by(error("what happened", server_message="row 3 is broken"))
    assert (job.id, job.state, job.message) == ("7", state, "row 3 is broken")


def test_a_wait_that_times_out_does_not_change_its_job():
    job = Job("7", JobState.RUNNING, message="row 1")
    assert job.ended_by(errors.JobTimeoutError("what happened", server_message="row 3")) == job


@pytest.mark.parametrize(
    ("log_url", "job_page", "page", "processing_log"),
    [
        ("https://x/log/{job_id}", "https://x/log/a%26b", "https://x/log/a%26b", "https://x/log/"),
        ("https://x/log", "", "https://x/log", "https://x/log"),
        ("", "", "https://x/", "https://x/"),
    ],
)
def test_pages(log_url, job_page, page, processing_log):
    server = ServerConfig("https://x", log_url=log_url)
    assert server.job_page_url("a&b") == job_page
    assert server.page_url("a&b") == page
    assert server.processing_log_url == processing_log
    # Before the job is known.
    assert server.job_page_url("") == ""
    assert server.page_url("") == processing_log


@pytest.mark.parametrize(
    ("url", "job_id"),
    [
        ("https://m/api/v2/jobs/j-1/status", "j-1"),
        ("https://m/api/v2/jobs/a%26b/status", "a&b"),
        ("https://a/api/v2/jobs/j-1/status", ""),
        ("https://z/api/v2/jobs/j-1/status", ""),
        ("https://m/api/v2/jobs/j-1/result", ""),
        ("https://m/api/v2/jobs/j-1", ""),
        ("https://m/api/v2/jobs/j-1/status?x=1", ""),
        ("https://m/api/v2/jobs/a%2Fb/status", ""),
        ("https://m/api/v2/jobs//status", ""),
        ("", ""),
    ],
)
def test_the_job_id_in_an_address(url, job_id):
    server = ServerConfig("https://m", job_path="{api_path}/jobs/{job_id}/status")
    assert server.job_id_in(url) == job_id
