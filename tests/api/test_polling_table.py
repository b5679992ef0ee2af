"""The table in the docs of how soon a job's end is seen."""

from __future__ import annotations

import pytest

from tests.benchmarks.polling import PAGE, simulate, table


def test_the_page_holds_the_simulated_table():
    assert PAGE.read_text().endswith("\n\n" + table())


@pytest.mark.parametrize("poll_interval", [10.0, 60.0])
def test_a_short_job_is_seen_in_seconds_and_a_long_one_within_half_an_interval(poll_interval):
    delay, polls = simulate(2, poll_interval)
    assert delay < 1
    assert polls < 5
    delay, polls = simulate(3600, poll_interval)
    assert delay == pytest.approx(poll_interval / 2, rel=0.1)
    assert 0.9 < polls / (3600 / poll_interval) < 1.2
