"""
The delay from a job's end to the poll that sees it, and the number of polls: the polling policy on a simulated clock.

``python -m tests.benchmarks.polling`` writes the table in docs/benchmarks/polling.md.
"""

from __future__ import annotations

import random
from pathlib import Path

from datatile_provider.api.models import ServerConfig
from datatile_provider.api.polling import Wait

PAGE = Path(__file__).parents[2] / "docs/benchmarks/polling.md"
INTERVALS = (10.0, 30.0, 60.0)
JOBS = {"2 s": 2.0, "10 s": 10.0, "1 min": 60.0, "10 min": 600.0, "1 h": 3600.0, "8 h": 28800.0}
#: Simulated jobs per figure, and the relative spread of their durations.
SAMPLES, SPREAD = 400, 0.25


def simulate(job_seconds: float, poll_interval: float) -> tuple[float, float]:
    """
    Return the mean delay, in seconds, from a job's end to the poll that sees it, and the mean number of polls.

    :param job_seconds: the mean duration of a job.
    :param poll_interval: seconds between polls, after the shorter first gaps.
    """
    random.seed(7)
    delays = polls = 0.0
    for sample in range(SAMPLES):
        end = job_seconds * (1 - SPREAD + 2 * SPREAD * (sample + 0.5) / SAMPLES)
        wait = Wait(
            ServerConfig("https://datatile.example.com"), "7", poll_interval, 1e9, 0.0, lambda level, text: None
        )
        now = 0.0
        polls += 1
        while now < end:
            now += wait.delay(now)
            polls += 1
        delays += now - end
    return delays / SAMPLES, polls / SAMPLES


def table() -> str:
    """Return the table in Markdown: a row per job duration, a column per poll interval."""
    rows = [["A job of", *(f"`poll_interval` {interval:.0f} s" for interval in INTERVALS)]]
    rows.append(["---"] * len(rows[0]))
    for name, seconds in JOBS.items():
        cells = (simulate(seconds, interval) for interval in INTERVALS)
        rows.append([name, *(f"{delay:.1f} s, {polls:,.0f} polls" for delay, polls in cells)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    before, _, _ = PAGE.read_text().partition("| A job of")
    PAGE.write_text(before + table())


if __name__ == "__main__":
    main()
