"""How a job is waited for, told on a simulated clock."""

from __future__ import annotations

import logging
import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api import errors
from datatile_provider.api.contract import Job, Server
from datatile_provider.api.polling import FIRST_GAP, GRACE, MAX_RETRY_AFTER, Wait, seconds
from datatile_provider.api.states import JobState

SERVER = Server("https://datatile.example.com")


class Clock:
    """A wait, the time, and what was logged."""

    def __init__(self, poll_interval: float = 30.0, timeout: float = 1_000.0, **given: object) -> None:
        self.now = 5_000.0
        self.lines: list[tuple[int, str]] = []
        self.wait = Wait(
            SERVER, "7", poll_interval, timeout, self.now, lambda level, text: self.lines.append((level, text)), **given
        )

    def hear(self, *results: Job | errors.DatatileError | str, after: float = 1.0) -> Job | None:
        found = None
        for result in results:
            self.now += after
            update = Job("7", _STATES.get(result, JobState.UNKNOWN), result) if isinstance(result, str) else result
            found = self.wait.update(update, self.now)
        return found

    def run(self, result: Job | errors.DatatileError | str, polls: int = 10_000) -> list[float]:
        """Hear the same over and over; return the delays."""
        delays = []
        for _ in range(polls):
            self.hear(result, after=0.0)
            delays.append(self.wait.delay(self.now))
            self.now += delays[-1]
        return delays

    def texts(self, level: int = logging.DEBUG) -> list[str]:
        return [text for at, text in self.lines if at >= level]


_STATES = {"queued": JobState.QUEUED, "running": JobState.RUNNING, "done": JobState.SUCCEEDED}
_STATES |= {"failed": JobState.FAILED, "cancelled": JobState.CANCELLED}


def test_success_at_once():
    clock = Clock()
    assert clock.hear("done").state is JobState.SUCCEEDED
    assert clock.texts() == ["Job 7 is SUCCEEDED (1.0 s)"]


@pytest.mark.parametrize(("word", "kind"), [("failed", errors.JobFailedError), ("cancelled", errors.JobCancelledError)])
def test_end_without_success(word, kind):
    clock = Clock()
    clock.hear("running")
    with pytest.raises(kind) as caught:
        clock.hear(Job("7", _STATES[word], word, "row 3 is broken"))
    assert f"(its status is {word!r})" in str(caught.value)
    assert 'The server said: "row 3 is broken"' in str(caught.value)
    assert SERVER.processing_log_url in str(caught.value)


def test_success_after_the_deadline_is_still_success():
    clock = Clock(timeout=10)
    assert clock.hear("done", after=50).state is JobState.SUCCEEDED


def test_each_transition_is_logged_once():
    clock = Clock()
    clock.hear("queued", "queued", "running", errors.TransientError("x", status=502), "running", "running", "done")
    assert [line.split(" (")[0] for line in clock.texts() if line.startswith("Job")] == [
        "Job 7 is QUEUED",
        "Job 7 is RUNNING",
        "Job 7 is SUCCEEDED",
    ]


def test_transition_seen_before_is_not_logged_again():
    clock = Clock(status="running")
    clock.hear("running")
    assert clock.texts() == []


def test_unknown_word_is_told_of_once_with_what_to_do():
    clock = Clock()
    clock.hear('frobni"cating', 'frobni"cating')
    (warning,) = clock.texts(logging.WARNING)
    assert r'{"frobni\"cating": "RUNNING"}' in warning
    assert "status_map" in warning
    clock.hear("done")


def test_trouble_is_logged_once_per_kind_with_a_count():
    clock = Clock()
    clock.hear(
        *[errors.TransientError("Bad gateway", status=502)] * 5, *[errors.TransientError("Reset")] * 3, "running"
    )
    warnings = clock.texts(logging.WARNING)
    assert [w.split(".")[0].split(":")[0] for w in warnings] == [
        "Bad gateway",
        "That was 5 polls in a row",
        "Reset",
        "That was 3 polls in a row",
    ]
    assert warnings[1].endswith("Passing 502")


def test_single_trouble_needs_no_count():
    clock = Clock()
    clock.hear(errors.TransientError("Reset"), "running")
    assert clock.texts(logging.WARNING) == ["Reset. Polling goes on."]


def test_passing_trouble_never_ends_a_wait_before_its_deadline():
    clock = Clock(timeout=86_400)
    with pytest.raises(errors.JobTimeoutError):
        clock.run(errors.TransientError("Reset"))
    assert clock.now == 5_000 + 86_400


def test_what_is_no_passing_trouble_ends_it_at_once():
    with pytest.raises(errors.OutcomeUnknownError):
        Clock().hear(errors.OutcomeUnknownError("no"))


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
def test_refusal_ends_it_when_it_has_lasted(kind, poll_interval):
    clock = Clock(poll_interval=poll_interval, timeout=86_400)
    clock.hear("running")
    with pytest.raises(kind):
        clock.run(kind("no", retry_after=1_000))
    assert GRACE <= clock.now - 5_001 <= GRACE * 1.3


def test_a_server_that_asks_for_a_long_pause_does_not_get_it():
    clock = Clock(timeout=86_400)
    busy = errors.RateLimitedError("no", status=429, retry_after=999_999_999)
    clock.hear(busy, busy, busy)
    assert clock.wait.delay(clock.now) == MAX_RETRY_AFTER
    (line,) = [text for text in clock.texts(logging.WARNING) if "Retry-After" in text]
    assert "asks to wait 999,999,999 s" in line
    assert "comes in 300 s" in line
    slow = Clock(poll_interval=600, timeout=86_400)
    slow.hear(busy)
    assert slow.wait.delay(slow.now) == 5 * 600


def test_a_poll_that_was_sent_before_the_deadline_does_not_end_the_wait():
    """It may have hung for so long that the job finished meanwhile."""
    clock = Clock(timeout=100)
    hung = errors.TransientError("The poll got no response")
    assert clock.wait.update(hung, 5_120, sent=5_099) is None
    assert clock.wait.delay(5_120) == 0
    assert clock.wait.update(Job("7", JobState.SUCCEEDED, "done"), 5_121, sent=5_120).state is JobState.SUCCEEDED
    with pytest.raises(errors.JobTimeoutError, match="the last poll failed: The poll got no response"):
        Clock(timeout=100).wait.update(hung, 5_130, sent=5_100)


@pytest.mark.parametrize("between", ["running", errors.TransientError("Reset")])
def test_refusal_counts_from_its_beginning_anew(between):
    clock = Clock()
    refusal = errors.NotFoundError("no", status=404)
    for _ in range(5):
        clock.hear(refusal, refusal, after=GRACE * 0.4)
        clock.hear(between)


def test_passing_trouble_long_after_a_refusal_is_no_refusal():
    clock = Clock()
    clock.hear(errors.NotFoundError("no", status=404))
    clock.hear(errors.TransientError("Reset"), after=2 * GRACE)


def test_refusals_of_two_kinds_are_one_time_of_refusal():
    clock = Clock()
    clock.hear(errors.NotFoundError("no", status=404), after=0)
    clock.hear(errors.RoleMissingError("no", status=403), after=GRACE / 2)
    with pytest.raises(errors.NotFoundError):
        clock.hear(errors.NotFoundError("no", status=404), after=GRACE / 2)


def test_refusal_that_began_before_this_wait():
    clock = Clock(rejected_since=5_000 - GRACE)
    with pytest.raises(errors.NotFoundError):
        clock.hear(errors.NotFoundError("no"))


def test_deadline_tells_the_last_thing_seen():
    clock = Clock(timeout=100)
    clock.hear("importing 3 of 7")
    with pytest.raises(errors.JobTimeoutError) as caught:
        clock.run(errors.UnexpectedResponseError("HTML", status=200))
    message = str(caught.value)
    assert "within 100 s" in message
    assert "'importing 3 of 7'" in message
    # Ten gaps last about 100 s, give or take the jitter.
    assert re.search(r"the last (9|10|11) polls failed: HTML", message)
    assert SERVER.processing_log_url in message
    with pytest.raises(errors.JobTimeoutError, match="no poll told its status; the last poll failed: x"):
        Clock(timeout=1).hear(errors.TransientError("x"))


def test_looks_are_quick_first_and_slow_down():
    clock = Clock(poll_interval=30)
    delays = clock.run("running", 15)
    assert delays[0] == pytest.approx(FIRST_GAP, rel=0.11)
    assert delays[:7] == sorted(delays[:7])
    assert all(27 <= delay <= 33 for delay in delays[9:])


@given(
    poll_interval=st.floats(0.01, 5_000),
    timeout=st.floats(0.01, 50_000),
    update=st.lists(
        st.sampled_from(["queued", "running", "odd"])
        | st.builds(errors.TransientError, st.just("x"), retry_after=st.none() | st.floats(0, 5_000))
        | st.builds(errors.NotFoundError, st.just("x")),
        max_size=30,
    ),
)
def test_delays(poll_interval, timeout, update):
    """No wait is too long, none is shorter than the server asked for, and the last look is at the deadline."""
    clock = Clock(poll_interval, timeout)
    for result in update:
        try:
            clock.hear(result, after=0.0)
        except (errors.JobTimeoutError, errors.NotFoundError):
            return
        delay = clock.wait.delay(clock.now)
        left = 5_000 + timeout - clock.now
        asked = 0.0 if isinstance(result, str) else result.retry_after or 0.0
        # Longer than this no server is waited for.
        asked = min(asked, max(MAX_RETRY_AFTER, 5 * poll_interval))
        assert min(asked, left) <= delay <= left
        assert delay <= max(asked, poll_interval * 1.1)
        assert delay > 0
        clock.now += delay


@pytest.mark.parametrize(("given", "expected"), [(5, 5.0), (0.5, 0.5), (timedelta(minutes=2), 120.0)])
def test_lengths_of_time(given, expected):
    assert seconds("timeout", given) == expected


@pytest.mark.parametrize("bad", [0, -1, True, float("nan"), float("inf"), "5", None, timedelta(0), timedelta(-1)])
def test_bad_lengths_of_time(bad):
    with pytest.raises(errors.InvalidInputError, match="poll_interval must be"):
        seconds("poll_interval", bad)


@pytest.mark.parametrize(("timeout", "text"), [(0.5, "0.5"), (100.0, "100"), (86_400.0, "86,400")])
def test_the_deadline_is_told_as_it_was_given(timeout, text):
    with pytest.raises(errors.JobTimeoutError, match=f"within {text} s:"):
        Clock(timeout=timeout).hear("running", after=timeout)
