"""
How late a job's end is seen when the server takes 1, 50 or 200 ms to respond.

"8 connections" sets the option ``max_connections`` to that number, which was once the fixed limit.
"""

from __future__ import annotations

from dataclasses import replace

from tests.benchmarks import report
from tests.benchmarks.crowd import Crowd, measure
from tests.benchmarks.waits import environment

OURS, FIXED = "ours", "8 connections"
LATENCIES = (0.001, 0.05, 0.2)
#: The number of waits, the seconds between their polls, and the seconds after which the first job ends.
SIZES = ((1000, 5.0, 45.0), (5000, 30.0, 140.0))
_LATEST, _MEDIAN = "latest, in intervals", "median, in intervals"


def main() -> None:
    options = report.options(__doc__, runs=1)
    result = report.Report("latency", "How late the end of a job is seen", options, libraries=["aiohttp"])
    sizes, latencies = ([(200, 2.0, 6.0)], [0.2]) if options.quick else (SIZES, LATENCIES)
    with environment():
        for _ in range(options.runs):
            for waits, interval, settles in sizes:
                _compare(
                    result,
                    [Crowd(waits, interval, latency, 100, settles, interval, interval) for latency in latencies],
                )
    result.note(
        "The time from a job's end to the response that shows it, in intervals: the latest of all jobs, and the "
        "median. A gap between polls is up to 1.1 intervals. The jobs end evenly over one interval. Before that, there "
        "is time for the quick first polls; where polls a second are above waits by interval, some waits still make "
        "them. All connections that were opened count, one of them before the measurement. All latencies and "
        "variants of a size run at the same time, each in a process with its own server. http."
    )
    result.finish()


def _compare(result: report.Report, crowds: list[Crowd]) -> None:
    pairs = [(crowd, replace(crowd, max_connections=8)) for crowd in crowds]
    found = iter(measure(*(crowd for pair in pairs for crowd in pair)))
    for crowd in crowds:
        name = f"{crowd.waits:,} waits, every {crowd.interval:g} s, {1000 * crowd.latency:g} ms"
        for variant in (OURS, FIXED):
            one = next(found)
            shown = {
                _LATEST: (one["latest"], ""),
                _MEDIAN: (one["median late"], ""),
                "connections opened": (one["connections"], ""),
                "polls a second": (one["polls a second"], ""),
            }
            result.add(name, variant, **shown)
        result.limit(name, _LATEST, OURS, under=1.2)
        result.ratio(name, _LATEST, OURS, FIXED, at_least=None, lower=True)


if __name__ == "__main__":
    main()
