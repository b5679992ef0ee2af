"""What the waits of a triggerer cost as they grow in number: to 10,000 in one process, and in two."""

from __future__ import annotations

from tests.benchmarks import report
from tests.benchmarks.crowd import Crowd, measure, worst
from tests.benchmarks.waits import environment

#: The number of waits, and of processes that share them.
SIZES = ((1000, 1), (2500, 1), (5000, 1), (10_000, 1), (10_000, 2))
_LAG, _MEMORY = "p99.9 of lag", "memory a wait"


def main() -> None:
    options = report.options(__doc__, runs=1)
    result = report.Report("growth", "The cost of many waits in one event loop", options, libraries=["aiohttp"])
    sizes = ((100, 1), (100, 2)) if options.quick else SIZES
    interval, settles, window = (2.0, 8.0, 3.0) if options.quick else (30.0, 100.0, 30.0)
    case = f"every {interval:g} s, 50 ms"
    with environment():
        for _ in range(options.runs):
            for waits, processes in sizes:
                crowd = Crowd(waits // processes, interval, 0.05, settles=settles, ends=0, window=window)
                found = measure(*[crowd] * processes)
                shown = {
                    "CPU": (sum(one["cpu"] for one in found), "% of a core"),
                    _LAG: (worst(found, "lag p99.9"), "ms"),
                    _MEMORY: (worst(found, "memory a wait"), "KiB"),
                    "first polls": (worst(found, "first polls"), "s"),
                    "polls a second": (sum(one["polls a second"] for one in found), ""),
                    "connections opened": (sum(one["connections"] for one in found), ""),
                }
                result.add(case, name(waits, processes), **shown)
    for waits, processes in sizes:
        result.limit(case, _LAG, name(waits, processes), under=100)
        result.limit(case, _MEMORY, name(waits, processes), under=20)
    result.note(
        "Measured when all waits have passed their quick first polls. The lag is how late the loop resumes a task that "
        "sleeps for 10 ms. 'First polls' is the time from the start of the first wait until each has its first "
        "response. Of two processes, the higher value is shown; processor time, polls and connections are their sum. "
        "The triggers run in plain event loops, without the rest of a triggerer."
    )
    result.finish()


def name(waits: int, processes: int) -> str:
    return f"ours, {waits:,} waits" + (f" in {processes} processes" if processes > 1 else "")


if __name__ == "__main__":
    main()
