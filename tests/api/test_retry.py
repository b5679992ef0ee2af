"""When an upload is retried, on a simulated clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api import errors
from datatile_provider.api.models import Action
from datatile_provider.api.retry import Retry

waits = st.none() | st.floats(0, 500)
transient = st.builds(errors.RateLimitedError, st.just("busy"), retry_after=waits)
unknown = st.builds(errors.OutcomeUnknownError, st.just("who knows"))


@given(st.sampled_from(Action), st.floats(0, 5_000), st.lists(transient, min_size=1, max_size=40), st.integers(0, 30))
def test_delays(action, window, failures, earlier):
    """Each delay is within bounds and at least the server's Retry-After, and no retry is after the deadline."""
    now = 1_000.0
    retry = Retry(action, now + window, failures=earlier)
    for number, error in enumerate(failures, earlier):
        retry_after = error.retry_after or 0.0
        try:
            delay = retry.after(error, now)
        except errors.RateLimitedError as final:
            assert final.what.startswith(error.what)  # noqa: PT017 - it may be raised, but only after the deadline
            assert now >= 1_000 + window
            return
        # The last attempt is at the deadline.
        left = 1_000 + window - now
        assert min(left, max(retry_after, min(60.0, 2.0**number) / 2)) <= delay
        assert delay <= min(left, max(retry_after, min(60.0, 2.0**number)))
        assert retry.failures == number + 1
        now += delay
        assert now <= 1_000 + window


@given(st.sampled_from(Action), st.booleans(), unknown)
def test_unknown_outcome(action, resend, error):
    retry = Retry(action, 1_000, resend_unknown=resend)
    if action is Action.RELOAD or resend:
        assert 0 < retry.after(error, 0) <= 1
    else:
        with pytest.raises(errors.OutcomeUnknownError) as caught:
            retry.after(error, 0)
        assert caught.value is error


@pytest.mark.parametrize(
    "kind", [errors.PermanentError, errors.TokenRefusedError, errors.DatasetChangedError, errors.InvalidInputError]
)
@pytest.mark.parametrize("resend", [True, False])
def test_errors_that_are_not_retried(kind, resend):
    with pytest.raises(kind):
        Retry(Action.RELOAD, 1_000, resend).after(kind("no"), 0)


def test_a_retry_after_beyond_the_deadline_gets_one_more_attempt_at_the_deadline():
    retry = Retry(Action.APPEND, 100)
    assert retry.after(errors.RateLimitedError("busy", retry_after=3_600), 0) == 100
    with pytest.raises(errors.RateLimitedError):
        retry.after(errors.RateLimitedError("busy", retry_after=3_600), 100)


def test_tasks_of_one_dag_do_not_retry_all_at_once():
    random.seed(1)
    delays = {round(Retry(Action.APPEND, 1_000, failures=5).after(errors.TransientError("x"), 0), 3) for _ in range(50)}
    assert len(delays) > 40


@pytest.mark.parametrize(("failures", "text"), [(0, "1 attempt within"), (2, "3 attempts within")])
def test_the_last_error_counts_the_attempts(failures, text):
    retry = Retry(Action.APPEND, 100, failures=failures) if failures else Retry(Action.APPEND, 100)
    with pytest.raises(errors.TransientError, match=text):
        retry.after(errors.TransientError("x"), 100)


def test_without_a_retry_after_the_first_delay_is_the_backoff():
    random.seed(1)
    assert Retry(Action.APPEND, 1_000).after(errors.TransientError("x"), 0) < 1
