"""The directive ``benchmark``: the tables of a benchmark's result, ``benchmarks/NAME.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Benchmark(SphinxDirective):
    """Shows what was compared, what was measured, and on what; the argument is the benchmark's name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        path = Path(self.env.srcdir) / "benchmarks" / f"{name}.json"
        self.env.note_dependency(str(path))
        if not path.exists():
            raise self.error(f"There is no {path.name} yet; python -m tests.benchmarks.{name} makes it")
        return self.parse_text_to_nodes("\n".join(_lines(json.loads(path.read_text()))))


def _lines(result: Mapping[str, Any]) -> Iterable[str]:
    yield from _table(["case", "what", "median (min to max)", "mark", ""], map(_mark, result["marks"]))
    metrics = list(dict.fromkeys(m["metric"] for m in result["measurements"]))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for m in result["measurements"]:
        cells.setdefault((m["case"], m["variant"]), {})[m["metric"]] = f"{_spread(m)} {m['unit']}"
    rows = [[*key, *(found.get(metric, "") for metric in metrics)] for key, found in cells.items()]
    yield from _table(["case", "variant", *metrics], rows)
    for note in result["notes"]:
        yield from (note, "")
    run = result["run"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    yield (
        f"{run['runs']} runs, {run['date'][:10]}, by `python {run['command']}` on {run['cpus']} cores of "
        f"{run['cpu']}, Linux {run['kernel']}, Python {run['python']}{', ' if versions else ''}{versions}."
    )


def _mark(mark: Mapping[str, Any]) -> list[str]:
    bound = "" if mark["mark"] is None else f"{mark['sense']} {mark['mark']:g} {mark['unit']}"
    reached = {True: "reached", False: "**not reached**", None: ""}[mark.get("reached")]
    return [mark["case"], mark["what"], f"{_spread(mark)} {mark['unit']}", bound, reached]


def _spread(summary: Mapping[str, Any]) -> str:
    median, low, high = (_number(summary[key]) for key in ("median", "min", "max"))
    return median if low == high else f"{median} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("benchmark", Benchmark)
    return {"parallel_read_safe": True}
