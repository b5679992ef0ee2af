"""How a job is polled, on a simulated clock."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api import errors
from datatile_provider.api.models import Job, ServerConfig
from datatile_provider.api.polling import FIRST_GAP, GRACE, MAX_RETRY_AFTER, Wait
from datatile_provider.api.states import JobState
from datatile_provider.api.validation import seconds
from tests.support.reading import one_line

SERVER = ServerConfig("https://datatile.example.com")


class SimulatedWait:
    """A wait, its log, and the time that it is given."""

    def __init__(self, poll_interval: float = 30.0, timeout: float = 1_000.0, **kwargs: Any) -> None:
        self.now = 5_000.0
        self.lines: list[tuple[int, str]] = []
        self.wait = Wait(
            SERVER,
            "7",
            poll_interval,
            timeout,
            self.now,
            lambda level, text: self.lines.append((level, text)),
            **kwargs,
        )

    def update(self, *results: Job | errors.DatatileError | str, after: float = 1.0) -> Job | None:
        found = None
        for result in results:
            self.now += after
            job = Job("7", _STATES.get(result, JobState.UNKNOWN), result) if isinstance(result, str) else result
            found = self.wait.update(job, self.now)
        return found

    def run(self, result: Job | errors.DatatileError | str, polls: int = 10_000) -> list[float]:
        """Update the wait with the same result again and again; return the delays."""
        delays = []
        for _ in range(polls):
            self.update(result, after=0.0)
            delays.append(self.wait.delay(self.now))
            self.now += delays[-1]
        return delays

    def texts(self, level: int = logging.DEBUG) -> list[str]:
        return [text for at, text in self.lines if at >= level]


_STATES = {"queued": JobState.QUEUED, "running": JobState.RUNNING, "done": JobState.SUCCEEDED}
_STATES |= {"failed": JobState.FAILED, "cancelled": JobState.CANCELLED}


def is_success(job: Job | None) -> bool:
    return job is not None and job.state is JobState.SUCCEEDED


def test_success_at_once():
    simulated = SimulatedWait()
    assert is_success(simulated.update("done", after=25.0))
    assert simulated.texts() == ["Job 7 is SUCCEEDED (25.0 s)"]


def test_success_with_its_rows():
    simulated = SimulatedWait()
    simulated.update(Job("7", JobState.SUCCEEDED, "done", details={"rows": 1944}))
    assert simulated.texts() == ["Job 7 is SUCCEEDED (1.0 s, 1,944 rows)"]


@pytest.mark.parametrize(("word", "kind"), [("failed", errors.JobFailedError), ("cancelled", errors.JobCancelledError)])
def test_unsuccessful_end(word, kind):
    simulated = SimulatedWait()
    simulated.update("running")
    with pytest.raises(kind) as caught:
        simulated.update(Job("7", _STATES[word], word, "row 3 is broken"))
    assert f"The server reports the status {word!r}." in one_line(caught.value)
    assert 'The server said: "row 3 is broken"' in one_line(caught.value)
    assert SERVER.processing_log_url in one_line(caught.value)


def test_success_after_the_deadline_is_still_success():
    simulated = SimulatedWait(timeout=10)
    assert is_success(simulated.update("done", after=50))


def test_each_transition_is_logged_once():
    simulated = SimulatedWait()
    simulated.update(
        "queued", "queued", "running", errors.TransientError("x", status=502), "running", "running", "done"
    )
    assert [line.split(" (")[0] for line in simulated.texts() if line.startswith("Job")] == [
        "Job 7 is QUEUED",
        "Job 7 is RUNNING",
        "Job 7 is SUCCEEDED",
    ]


def test_transition_logged_before_is_not_logged_again():
    # Equal, but another object, as after a restart.
    simulated = SimulatedWait(status="".join(["run", "ning"]))
    simulated.update("running")
    assert simulated.texts() == []


def test_a_timeout_before_the_first_poll_reports_no_failed_poll():
    message = one_line(SimulatedWait().wait.timed_out())
    assert "No poll returned its status" in message
    assert "failed" not in message


def test_unknown_status_is_logged_once_with_a_hint():
    simulated = SimulatedWait()
    simulated.update('frobni"cating', 'frobni"cating')
    (warning,) = simulated.texts(logging.WARNING)
    assert r'{"frobni\"cating": "RUNNING"}' in warning
    assert "status_map" in warning
    simulated.update("done")


def test_errors_are_logged_once_per_kind_with_a_count():
    simulated = SimulatedWait()
    simulated.update(
        *[errors.TransientError("Bad gateway", status=502)] * 5, *[errors.TransientError("Reset")] * 3, "running"
    )
    warnings = simulated.texts(logging.WARNING)
    assert [warning.split("\n")[0] for warning in warnings] == [
        "ERROR (502): polling goes on",
        "5 polls in a row failed with ERROR (502)",
        "ERROR: polling goes on",
        "3 polls in a row failed with ERROR",
    ]


def test_single_error_is_logged_without_a_count():
    simulated = SimulatedWait()
    simulated.update(errors.TransientError("Reset"), "running")
    (warning,) = simulated.texts(logging.WARNING)
    assert warning.startswith("ERROR: polling goes on\nReset.\n")


def test_transient_errors_never_end_a_wait_before_its_deadline():
    simulated = SimulatedWait(timeout=86_400)
    with pytest.raises(errors.JobTimeoutError):
        simulated.run(errors.TransientError("Reset"))
    assert simulated.now == 5_000 + 86_400


def test_other_errors_end_a_wait_at_once():
    with pytest.raises(errors.OutcomeUnknownError):
        SimulatedWait().update(errors.OutcomeUnknownError("no"))


@pytest.mark.parametrize(
    "kind",
    [
        errors.NotFoundError,
        errors.RoleMissingError,
        errors.PermanentError,
        errors.UntrustedCertificateError,
        errors.TokenRefusedError,
        errors.InvalidInputError,
    ],
)
@pytest.mark.parametrize("poll_interval", [1.0, 30.0, 3_600.0])
def test_permanent_errors_end_a_wait_after_the_grace_period(kind, poll_interval):
    simulated = SimulatedWait(poll_interval=poll_interval, timeout=86_400)
    simulated.update("running")
    with pytest.raises(kind):
        simulated.run(kind("no", retry_after=1_000))
    assert GRACE <= simulated.now - 5_001 <= GRACE * 1.3


def test_a_long_retry_after_is_capped():
    simulated = SimulatedWait(timeout=86_400)
    busy = errors.RateLimitedError("no", status=429, retry_after=999_999_999)
    simulated.update(busy, busy, busy)
    assert simulated.wait.delay(simulated.now) == MAX_RETRY_AFTER
    (line,) = [text for text in simulated.texts(logging.WARNING) if "Retry-After" in text]
    assert "asks to wait 999,999,999 s" in line
    assert "next poll is in 300 s" in line
    slow = SimulatedWait(poll_interval=600, timeout=86_400)
    slow.update(busy)
    assert slow.wait.delay(slow.now) == 5 * 600


def test_a_poll_that_was_sent_before_the_deadline_does_not_end_the_wait():
    """The poll may have hung so long that the job has finished meanwhile."""
    simulated = SimulatedWait(timeout=100)
    hung = errors.TransientError("The poll got no response")
    assert simulated.wait.update(hung, 5_120, sent=5_099) is None
    assert simulated.wait.delay(5_120) == 0
    assert is_success(simulated.wait.update(Job("7", JobState.SUCCEEDED, "done"), 5_121, sent=5_120))
    with pytest.raises(errors.JobTimeoutError, match="The last poll failed: ERROR: The poll got no response"):
        SimulatedWait(timeout=100).wait.update(hung, 5_130, sent=5_100)


@pytest.mark.parametrize("between", ["running", errors.TransientError("Reset")])
def test_the_grace_period_restarts_after_another_result(between):
    simulated = SimulatedWait()
    rejection = errors.NotFoundError("no", status=404)
    for _ in range(5):
        assert simulated.update(rejection, rejection, after=GRACE * 0.4) is None
        assert simulated.update(between) is None
    simulated.update(rejection, after=0)
    with pytest.raises(errors.NotFoundError):
        simulated.update(rejection, after=GRACE)


def test_a_transient_error_long_after_a_rejection_does_not_end_the_wait():
    simulated = SimulatedWait()
    simulated.update(errors.NotFoundError("no", status=404))
    assert simulated.update(errors.TransientError("Reset"), after=2 * GRACE) is None


def test_rejections_of_two_kinds_share_one_grace_period():
    simulated = SimulatedWait()
    simulated.update(errors.NotFoundError("no", status=404), after=0)
    simulated.update(errors.RoleMissingError("no", status=403), after=GRACE / 2)
    with pytest.raises(errors.NotFoundError):
        simulated.update(errors.NotFoundError("no", status=404), after=GRACE / 2)


def test_rejection_that_began_before_this_wait():
    simulated = SimulatedWait(rejected_since=5_000 - GRACE)
    with pytest.raises(errors.NotFoundError):
        simulated.update(errors.NotFoundError("no"))


def test_timeout_reports_the_last_status_and_error():
    simulated = SimulatedWait(timeout=100)
    simulated.update("importing 3 of 7")
    with pytest.raises(errors.JobTimeoutError) as caught:
        simulated.run(errors.UnexpectedResponseError("HTML", status=200))
    message = one_line(caught.value)
    assert "within 100 s" in message
    assert "'importing 3 of 7'" in message
    # Ten delays take about 100 s, depending on the jitter.
    assert re.search(r"The last (9|10|11) polls failed: UNEXPECTED RESPONSE \(200\): HTML", message)
    assert SERVER.processing_log_url in message
    with pytest.raises(errors.JobTimeoutError, match=r"No poll returned its status\.\nThe last poll failed: ERROR: x"):
        SimulatedWait(timeout=1).update(errors.TransientError("x"))


def test_polls_are_frequent_at_first_and_slow_down():
    simulated = SimulatedWait(poll_interval=30)
    delays = simulated.run("running", 15)
    assert delays[0] == pytest.approx(FIRST_GAP, rel=0.11)
    assert delays[:7] == sorted(delays[:7])
    assert all(27 <= delay <= 33 for delay in delays[9:])


@given(
    poll_interval=st.floats(0.01, 5_000),
    timeout=st.floats(0.01, 50_000),
    results=st.lists(
        st.sampled_from(["queued", "running", "odd"])
        | st.builds(errors.TransientError, st.just("x"), retry_after=st.none() | st.floats(0, 5_000))
        | st.builds(errors.NotFoundError, st.just("x")),
        max_size=30,
    ),
)
def test_delays(poll_interval, timeout, results):
    """Each delay is within bounds and at least the server's Retry-After, and the last poll is at the deadline."""
    simulated = SimulatedWait(poll_interval, timeout)
    rejected_since = None
    for result in results:
        rejected = isinstance(result, errors.NotFoundError)
        rejected_since = (simulated.now if rejected_since is None else rejected_since) if rejected else None
        try:
            simulated.update(result, after=0.0)
        except errors.JobTimeoutError:
            assert simulated.now >= 5_000 + timeout
            return
        except errors.NotFoundError:
            assert rejected_since is not None
            assert simulated.now - rejected_since >= GRACE
            return
        assert simulated.now < 5_000 + timeout
        delay = simulated.wait.delay(simulated.now)
        left = 5_000 + timeout - simulated.now
        retry_after = 0.0 if isinstance(result, str) else result.retry_after or 0.0
        # The cap on Retry-After.
        retry_after = min(retry_after, max(MAX_RETRY_AFTER, 5 * poll_interval))
        assert min(retry_after, left) <= delay <= left
        assert delay <= max(retry_after, poll_interval * 1.1)
        assert delay > 0
        simulated.now += delay


@pytest.mark.parametrize(("value", "expected"), [(5, 5.0), (0.5, 0.5), (timedelta(minutes=2), 120.0)])
def test_durations(value, expected):
    assert seconds("timeout", value) == expected


@pytest.mark.parametrize("bad", [0, -1, True, float("nan"), float("inf"), "5", None, timedelta(0), timedelta(-1)])
def test_bad_durations(bad):
    with pytest.raises(errors.InvalidInputError, match="poll_interval must be"):
        seconds("poll_interval", bad)


@pytest.mark.parametrize(("timeout", "text"), [(0.5, "0.5"), (100.0, "100"), (86_400.0, "86,400")])
def test_the_timeout_is_reported_as_configured(timeout, text):
    with pytest.raises(errors.JobTimeoutError, match=f"within {text} s"):
        SimulatedWait(timeout=timeout).update("running", after=timeout)


def test_late_polls_are_logged_once_and_when_they_are_on_time_again():
    simulated = SimulatedWait(poll_interval=30.0)
    why = "all 100 connections are in use (max_connections)"
    for queued, reason in ((5.0, why), (7.0, ""), (12.0, why), (40.0, why), (4.0, why), (2.0, why), (2.0, why)):
        simulated.wait.on_queue(queued, reason)
    assert simulated.texts(logging.WARNING) == [
        f"Polls come late, this one by 12 s:\n{why}",
        "Polls are on time again",
    ]
    simulated.wait.on_queue(6.0, why)
    assert len(simulated.texts()) == 3


def test_a_second_in_the_queue_is_not_late_for_a_short_interval():
    simulated = SimulatedWait(poll_interval=1.0)
    simulated.wait.on_queue(0.9, "any")
    assert simulated.texts() == []
