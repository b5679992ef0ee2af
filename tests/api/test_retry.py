"""When an upload is sent again, told on a simulated clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api import errors
from datatile_provider.api.contract import Action
from datatile_provider.api.retry import Retry

waits = st.none() | st.floats(0, 500)
passing = st.builds(errors.RateLimitedError, st.just("busy"), retry_after=waits)
unknown = st.builds(errors.OutcomeUnknownError, st.just("who knows"))


@given(st.sampled_from(Action), st.floats(0, 5_000), st.lists(passing, min_size=1, max_size=40), st.integers(0, 30))
def test_delays(action, lasts, failures, earlier):
    """Each wait is within bounds and at least what the server asked for, and none ends past the deadline."""
    now = 1_000.0
    retry = Retry(action, now + lasts, failures=earlier)
    for number, error in enumerate(failures, earlier):
        asked = error.retry_after or 0.0
        try:
            delay = retry.after(error, now)
        except errors.RateLimitedError as final:
            assert final is error  # noqa: PT017 - giving up is right, at the end alone
            assert now >= 1_000 + lasts
            return
        # The last attempt is at the deadline.
        left = 1_000 + lasts - now
        assert min(left, max(asked, min(60.0, 2.0**number) / 2)) <= delay
        assert delay <= min(left, max(asked, min(60.0, 2.0**number)))
        assert retry.failures == number + 1
        now += delay
        assert now <= 1_000 + lasts


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
def test_final(kind, resend):
    with pytest.raises(kind):
        Retry(Action.RELOAD, 1_000, resend).after(kind("no"), 0)


def test_a_server_that_asks_for_more_time_than_is_left_gets_one_more_attempt_at_the_deadline():
    retry = Retry(Action.APPEND, 100)
    assert retry.after(errors.RateLimitedError("busy", retry_after=3_600), 0) == 100
    with pytest.raises(errors.RateLimitedError):
        retry.after(errors.RateLimitedError("busy", retry_after=3_600), 100)


def test_tasks_of_one_dag_do_not_come_back_all_at_once():
    random.seed(1)
    delays = {round(Retry(Action.APPEND, 1_000, failures=5).after(errors.TransientError("x"), 0), 3) for _ in range(50)}
    assert len(delays) > 40
