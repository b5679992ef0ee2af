"""What the task's log holds."""

from __future__ import annotations

import re

import pytest

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.provider.modes import OPERATOR_WAITS, SENSOR_MODES
from tests.support.rawserver import TOKEN
from tests.support.reading import one_line
from tests.support.versions import HAS_STATE_STORE


@pytest.mark.parametrize("options", OPERATOR_WAITS.values(), ids=OPERATOR_WAITS)
def test_an_upload_that_waits(run, start, survey, options):
    sandbox = start(processing_seconds=0.5)
    upload = {"action": "create", "target_hash": sandbox.folder, "dataset": str(survey), "poll_interval": 0.1}
    outcome = run(DatatileUploadOperator, **upload, **options)
    assert outcome.state == "success"
    lines = [
        f"Uploading: create of 'wave 1.csv' ({survey.stat().st_size} bytes) to {sandbox.folder}",
        f"From '{survey}' to {sandbox.url}",
        f"Accepted as job {outcome.job_id}",
        f"Processing log: {sandbox.url}/",
        f"Job {outcome.job_id} is SUCCEEDED (",
    ]
    for line in lines:
        assert outcome.log.count(line) >= 1, line


@pytest.fixture(params=[*SENSOR_MODES, *OPERATOR_WAITS])
def log_of(request, run, script, survey):
    """Return the server and the log of a wait in one mode, for a job with these responses."""

    def log_of(*responses, **options):
        server = script(*responses)
        if request.param in SENSOR_MODES:
            options = {"job_id": "job-f00d", "poke_interval": 0.05, **SENSOR_MODES[request.param], **options}
            outcome = run(DatatileJobSensor, **options)
        else:
            upload = {"action": "append", "target_hash": "f00d", "dataset": str(survey), "poll_interval": 0.05}
            outcome = run(DatatileUploadOperator, **upload, **OPERATOR_WAITS[request.param], **options)
        return server, outcome.log

    return log_of


def test_each_transition_once_with_its_time(log_of, request):
    responses = [(200, {"status": status}) for status in ("queued", "running", "running", "crunching", "crunching")]
    server, log = log_of(*responses, (200, {"status": "succeeded"}))
    transitions = re.findall(r"Job job-f00d is ([A-Z]+) \(\d+\.\d s\)", log)
    # Without a state store, a rescheduled sensor logs the status at each poll.
    polls = 2 if request.node.callspec.params["log_of"] == "reschedule" and not HAS_STATE_STORE else 1
    assert transitions == ["QUEUED", *["RUNNING"] * polls, *["UNKNOWN"] * polls, "SUCCEEDED"]
    assert one_line(log).count('set status_map in the connection\'s extra, as {"crunching": "RUNNING"}') == polls
    assert f"Processing log: {server.url}/" in log


def test_a_token_that_the_server_repeats_is_not_shown(log_of):
    # The ``run`` fixture asserts that the token is in no log.
    _, log = log_of((200, {"status": "failed", "message": f"The token {TOKEN} is used up"}))
    assert "The token *** is used up" in log
