"""
How soon a wait sees that its job has ended, and what it polls for that: the waiting policy on a simulated clock.

``python -m tests.benchmarks.polling`` writes the table of docs/benchmarks/polling.md anew.
"""

from __future__ import annotations

import random
from pathlib import Path

from datatile_provider.api.contract import Server
from datatile_provider.api.polling import Wait

PAGE = Path(__file__).parents[2] / "docs/benchmarks/polling.md"
INTERVALS = (10.0, 30.0, 60.0)
JOBS = {"2 s": 2.0, "10 s": 10.0, "1 min": 60.0, "10 min": 600.0, "1 h": 3600.0, "8 h": 28800.0}
#: Jobs simulated for each figure, and how much shorter or longer than said they are.
SAMPLES, SPREAD = 400, 0.25


def simulate(job_seconds: float, poll_interval: float) -> tuple[float, float]:
    """
    Return the mean delay, in seconds, from a job's end to the look that sees it, and the mean number of looks.

    :param job_seconds: how long a job takes, about.
    :param poll_interval: seconds between looks, once the quick first ones are over.
    """
    random.seed(7)
    delays = polls = 0.0
    for sample in range(SAMPLES):
        end = job_seconds * (1 - SPREAD + 2 * SPREAD * (sample + 0.5) / SAMPLES)
        wait = Wait(Server("https://datatile.example.com"), "7", poll_interval, 1e9, 0.0, lambda level, text: None)
        now = 0.0
        polls += 1
        while now < end:
            now += wait.delay(now)
            polls += 1
        delays += now - end
    return delays / SAMPLES, polls / SAMPLES


def table() -> str:
    """Return the table in Markdown: a row a length of job, a cell a poll interval."""
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
