"""
The report of a benchmark: measurements of several runs, target values, a table, a JSON file and a chart.

A benchmark is a module with a ``main`` like this::

    def main() -> None:
        options = report.options(__doc__, runs=5)
        result = Report("upload", "Upload of a file", options, libraries=["requests", "httpx"])
        for _ in range(options.runs):           # the variants alternate within each run
            for variant in ("ours", "curl -F"):
                result.add("http, 1 GiB", variant, throughput=(2500.0, "MB/s"), memory=(2.0, "MiB"))
        result.ratio("http, 1 GiB", "throughput", "ours", "curl -F", at_least=1.0)
        result.limit("http, 1 GiB", "memory", "ours", under=8.0)
        result.note("What a reader of the figures must know.")
        result.finish()

A case is one row of the chart, and a metric one column. The n-th ``add`` of a variant is its n-th run. A ratio is
computed within each run; its median counts, and the spread (min to max) is shown with it. ``ratio(…, lower=True)``
is the inverse, for metrics that should be small: "2.5 times lower". ``python -m tests.benchmarks.report FILE…``
prints the targets of finished results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def options(description: str | None, *, runs: int, quick_runs: int = 1) -> argparse.Namespace:
    """
    Read a benchmark's command line.

    :param runs: the number of runs of a full measurement.
    :return: ``quick``, ``runs`` and ``out``, the folder of the results.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, to check within seconds that it works")
    parser.add_argument("--runs", type=int, help=f"runs of each variant (default {runs})")
    parser.add_argument("--out", type=Path, help="folder for result and chart (default docs/benchmarks)")
    arguments = parser.parse_args()
    arguments.runs = arguments.runs or (quick_runs if arguments.quick else runs)
    # A quick run must not replace the results in the docs.
    arguments.out = arguments.out or ROOT / ("build/benchmarks" if arguments.quick else "docs/benchmarks")
    return arguments


@dataclass(slots=True)
class Series:
    """One metric of one variant over the runs."""

    unit: str
    values: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return {"unit": self.unit, **_summary(self.values)}


class Report:
    """
    The measurements of one benchmark.

    :param name: the stem of its files.
    :param title: its title, for tables and charts.
    :param libraries: distributions whose versions are reported.
    :param tools: the versions of other programs.
    """

    def __init__(
        self,
        name: str,
        title: str,
        arguments: argparse.Namespace,
        libraries: Iterable[str] = (),
        tools: Mapping[str, str] | None = None,
    ) -> None:
        self._name, self._title, self._options = name, title, arguments
        self._versions = {library: version(library) for library in libraries} | dict(tools or {})
        self._series: dict[tuple[str, str, str], Series] = {}
        self._marks: list[dict[str, Any]] = []
        self._notes: list[str] = []

    def add(self, case: str, variant: str, **metrics: tuple[float, str]) -> None:
        """Add one run of one variant: each metric's value with its unit."""
        for metric, (value, unit) in metrics.items():
            self._series.setdefault((case, variant, metric), Series(unit)).values.append(value)
        shown = ", ".join(f"{metric} {number(value)} {unit}" for metric, (value, unit) in metrics.items())
        print(f"  {case} | {variant}: {shown}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Add a remark about the figures."""
        self._notes.append(text)

    def has(self, case: str, variant: str) -> bool:
        """Return whether a variant was measured in a case."""
        return any(key[:2] == (case, variant) for key in self._series)

    def ratio(
        self, case: str, metric: str, variant: str, peer: str, *, at_least: float | None, lower: bool = False
    ) -> None:
        """
        Compare a variant with a peer, run by run.

        :param at_least: the target; None shows the ratio without a target.
        :param lower: compute how many times lower the variant is, for a metric that should be small.
        """
        own, others = (self._series[case, name, metric].values for name in (variant, peer))
        above, below = (others, own) if lower else (own, others)
        what = f"{variant}: {metric} {'times lower than' if lower else 'over'} {peer}"
        values = [a / b for a, b in zip(above, below, strict=True)]
        parts = {"variant": variant, "metric": metric, "peer": peer, "lower": lower}
        self._mark(case, what, parts, "x", values, "at least", at_least)

    def limit(self, case: str, metric: str, variant: str, *, under: float) -> None:
        """Set an upper limit for a variant's metric."""
        series = self._series[case, variant, metric]
        parts = {"variant": variant, "metric": metric, "peer": "", "lower": True}
        self._mark(case, f"{variant}: {metric}", parts, series.unit, series.values, "under", under)

    def _mark(
        self,
        case: str,
        what: str,
        parts: Mapping[str, Any],
        unit: str,
        values: Sequence[float],
        sense: str,
        bound: float | None,
    ) -> None:
        """
        Store a comparison or a limit.

        :param what: what is compared, as a line of text.
        :param parts: the same as ``variant``, ``metric``, ``peer`` and ``lower``, for tables.
        """
        mark = {"case": case, "what": what, **parts, "unit": unit, **_summary(values), "sense": sense, "mark": bound}
        if bound is not None:
            mark["reached"] = mark["median"] >= bound if sense == "at least" else mark["median"] < bound
        self._marks.append(mark)

    def finish(self) -> Path:
        """Print the tables, write the result and the chart, and return the result's path."""
        from tests.benchmarks.plots import draw

        result = {
            "benchmark": self._name,
            "title": self._title,
            "run": {"quick": self._options.quick, "runs": self._options.runs, **_machine(), "versions": self._versions},
            "notes": self._notes,
            "measurements": [
                {"case": case, "variant": variant, "metric": metric, **series.summary()}
                for (case, variant, metric), series in self._series.items()
            ],
            "marks": self._marks,
        }
        self._options.out.mkdir(parents=True, exist_ok=True)
        path: Path = self._options.out / f"{self._name}.json"
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        draw(result, path.with_suffix(".svg"))
        _print_measurements(result)
        print_marks([result])
        print(f"\nWritten: {path} and {path.with_suffix('.svg').name}")
        return path


def number(value: float) -> str:
    """Return a value with three significant digits or more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(summary: Mapping[str, Any]) -> str:
    """Return a median with its spread, if there is one."""
    median, low, high = (number(summary[key]) for key in ("median", "min", "max"))
    return median if low == high else f"{median} ({low} to {high})"


def print_marks(results: Iterable[Mapping[str, Any]]) -> None:
    """Print the comparisons of each result, and whether they reach their targets."""
    rows = [("benchmark", "case", "what", "median (min to max)", "mark", "")]
    for result in results:
        for mark in result["marks"]:
            bound = "" if mark["mark"] is None else f"{mark['sense']} {mark['mark']:g} {mark['unit']}"
            reached = {True: "reached", False: "NOT REACHED", None: ""}[mark.get("reached")]
            value = f"{spread(mark)} {mark['unit']}"
            rows.append((result["benchmark"], mark["case"], mark["what"], value, bound, reached))
    _print_table(rows)


def _print_measurements(result: Mapping[str, Any]) -> None:
    metrics = list(dict.fromkeys(m["metric"] for m in result["measurements"]))
    table: dict[tuple[str, str], dict[str, str]] = {}
    for m in result["measurements"]:
        table.setdefault((m["case"], m["variant"]), {})[m["metric"]] = f"{spread(m)} {m['unit']}"
    rows = [("case", "variant", *metrics)]
    rows += [(*key, *(cells.get(metric, "") for metric in metrics)) for key, cells in table.items()]
    print(f"\n{result['title']}\n")
    _print_table(rows)
    print(*("", *result["notes"], ""), sep="\n")


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "values": [round(value, 4) for value in values],
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def _machine() -> dict[str, Any]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join([*sys.orig_argv[1:]]),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    print_marks([json.loads(Path(name).read_text()) for name in sys.argv[1:]])
