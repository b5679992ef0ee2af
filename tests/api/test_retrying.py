"""When an upload is sent again, told on a simulated clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api import errors
from datatile_provider.api.contract import Action
from datatile_provider.api.retrying import Retrying

waits = st.none() | st.floats(0, 500)
passing = st.builds(errors.RateLimited, st.just("busy"), retry_after=waits)
unknown = st.builds(errors.OutcomeUnknown, st.just("who knows"))


@given(st.sampled_from(Action), st.floats(0, 5_000), st.lists(passing, min_size=1, max_size=40), st.integers(0, 30))
def test_delays(action, lasts, failures, earlier):
    """Each wait is within bounds and at least what the server asked for, and none ends past the deadline."""
    now = 1_000.0
    retrying = Retrying(action, now + lasts, failures=earlier)
    for number, error in enumerate(failures, earlier):
        asked = error.retry_after or 0.0
        try:
            delay = retrying.after(error, now)
        except errors.RateLimited as final:
            assert final is error  # noqa: PT017 - giving up is right, at the end alone
            assert now >= 1_000 + lasts
            return
        # The last attempt is at the deadline.
        left = 1_000 + lasts - now
        assert min(left, max(asked, min(60.0, 2.0**number) / 2)) <= delay
        assert delay <= min(left, max(asked, min(60.0, 2.0**number)))
        assert retrying.failures == number + 1
        now += delay
        assert now <= 1_000 + lasts


@given(st.sampled_from(Action), st.booleans(), unknown)
def test_unknown_outcome(action, resend, error):
    retrying = Retrying(action, 1_000, resend_unknown=resend)
    if action is Action.RELOAD or resend:
        assert 0 < retrying.after(error, 0) <= 1
    else:
        with pytest.raises(errors.OutcomeUnknown) as caught:
            retrying.after(error, 0)
        assert caught.value is error


@pytest.mark.parametrize("kind", [errors.Refused, errors.TokenRefused, errors.DatasetChanged, errors.InvalidInput])
@pytest.mark.parametrize("resend", [True, False])
def test_final(kind, resend):
    with pytest.raises(kind):
        Retrying(Action.RELOAD, 1_000, resend).after(kind("no"), 0)


def test_a_server_that_asks_for_more_time_than_is_left_gets_one_more_attempt_at_the_deadline():
    retrying = Retrying(Action.APPEND, 100)
    assert retrying.after(errors.RateLimited("busy", retry_after=3_600), 0) == 100
    with pytest.raises(errors.RateLimited):
        retrying.after(errors.RateLimited("busy", retry_after=3_600), 100)


def test_tasks_of_one_dag_do_not_come_back_all_at_once():
    random.seed(1)
    delays = {round(Retrying(Action.APPEND, 1_000, failures=5).after(errors.Passing("x"), 0), 3) for _ in range(50)}
    assert len(delays) > 40
