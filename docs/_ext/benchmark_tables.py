"""
Tables of the benchmarks' results, ``benchmarks/NAME.json``.

The directive ``benchmark`` shows one result: what was compared, what was measured, and on which machine. The directive
``verdicts`` shows chosen comparisons of several results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

#: A ratio of a single run, or of runs without any spread, must differ from 1 by this much to be a difference.
TOLERANCE = 0.2
NBSP, TIMES = "\N{NO-BREAK SPACE}", "\N{MULTIPLICATION SIGN}"
#: How many metrics a table has room for as columns.
WIDEST = 4
HEADS = ("against", "result", "range", "verdict")
#: How better and worse are called, by metric; other metrics should be low.
WORDS = {"throughput": ("faster", "slower"), "polls a second": ("faster", "slower")}


class _Results(SphinxDirective):
    def result(self, name: str) -> Mapping[str, Any]:
        path = Path(self.env.srcdir) / "benchmarks" / f"{name}.json"
        self.env.note_dependency(str(path))
        self.env.note_dependency(__file__)
        if not path.exists():
            raise self.error(f"There is no {path.name} yet; python -m tests.benchmarks.{name} makes it")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def shown(self, lines: Iterable[str]) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(lines))


class Benchmark(_Results):
    """Shows a result; the argument is the benchmark's name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self.shown(_lines(self.result(self.arguments[0])))


class Verdicts(_Results):
    """
    Shows chosen comparisons.

    Each line of the content is ``benchmark | case | variant | metric | peer | label``. For a limit, the peer is empty.
    A case may be cut short with ``…``.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        rows = []
        for line in self.content:
            name, case, *key, label = (part.strip() for part in line.split("|"))
            found = [
                mark
                for mark in self.result(name)["marks"]
                if [mark["variant"], mark["metric"], mark["peer"]] == key
                and (mark["case"].startswith(case[:-1]) if case.endswith("…") else mark["case"] == case)
            ]
            if len(found) != 1:
                raise self.error(f"{name}.json has {len(found)} comparisons for {line!r}")
            rows.append([label, *_cells(found[0])])
        return self.shown(_table(["measured", *HEADS], rows))


def _lines(result: Mapping[str, Any]) -> Iterable[str]:
    cases = list(dict.fromkeys(m["case"] for m in result["measurements"]))
    for case in cases:
        if len(cases) > 1:
            yield from (f"**{case}**", "")
        yield from _measured([m for m in result["measurements"] if m["case"] == case])
        yield from _compared([mark for mark in result["marks"] if mark["case"] == case])
    for note in result["notes"]:
        yield f"- {note}"
    run = result["run"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    yield (
        f"- Medians of {run['runs']} runs on {run['date'][:10]}, by `python {run['command']}`, on {run['cpus']} cores "
        f"of {run['cpu']}, Linux {run['kernel']}, Python {run['python']}{', ' if versions else ''}{versions}."
    )


def _measured(measurements: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Yield the table of a case: a row a variant and a column a metric, or the other way round."""
    units = {m["metric"]: m["unit"] for m in measurements}
    variants = list(dict.fromkeys(m["variant"] for m in measurements))
    cells = {(m["variant"], m["metric"]): _number(m["median"]) for m in measurements}
    heads = [f"{metric}, {unit}" if unit not in ("", metric) else metric for metric, unit in units.items()]
    if len(units) > WIDEST:
        rows = [[head, *(cells.get((v, m), "") for v in variants)] for head, m in zip(heads, units, strict=True)]
        yield from _table(["median", *variants], rows)
    else:
        yield from _table(["median", *heads], [[v, *(cells.get((v, m), "") for m in units)] for v in variants])


def _compared(marks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Yield the table of a case's ratios and limits."""
    variants = {mark["variant"] for mark in marks}
    rows = []
    for mark in marks:
        target = "" if mark["mark"] is None else f"{mark['sense']} {mark['mark']:g} {_unit(mark)}".strip()
        missed = " (**missed**)" if mark.get("reached") is False else ""
        what = mark["metric"] if len(variants) == 1 else f"{mark['variant']}: {mark['metric']}"
        rows.append([what, *_cells(mark), f"{target}{missed}" if mark["peer"] else ""])
    if rows:
        yield from _table(["ours" if len(variants) > 1 else variants.pop(), *HEADS, "target"], rows)


def _cells(mark: Mapping[str, Any]) -> list[str]:
    """Return what is compared with what, and how it came out."""
    against = mark["peer"] or f"limit of {mark['mark']:g} {_unit(mark)}".strip()
    low, high = _number(mark["min"]), _number(mark["max"])
    return [
        against,
        f"{_number(mark['median'])} {_unit(mark)}".strip().replace(" ", NBSP),
        "" if low == high else f"{low} to {high}".replace(" ", NBSP),
        _verdict(mark),
    ]


def _verdict(mark: Mapping[str, Any]) -> str:
    if not mark["peer"]:
        return "kept" if mark["reached"] else "**exceeded**"
    better, worse = WORDS.get(mark["metric"], ("lower", "higher"))
    exact = mark["min"] == mark["max"]
    if mark["min"] > (1 + TOLERANCE if exact else 1):
        return better
    if mark["max"] < (1 - TOLERANCE if exact else 1):
        return f"**{worse}**"
    return "no clear difference"


def _unit(mark: Mapping[str, Any]) -> str:
    return {"x": TIMES, mark["metric"]: ""}.get(mark["unit"], str(mark["unit"]))


def _number(value: float) -> str:
    # What an idle Airflow takes is subtracted, so a small value may be negative.
    value = 0.0 if abs(value) < 0.005 else value
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    rows = list(rows)
    filled = [index for index in range(len(head)) if any(row[index] for row in rows)]
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row[index].replace('|', chr(92) + '|') for index in filled)} |"
    yield ""


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("benchmark", Benchmark)
    app.add_directive("verdicts", Verdicts)
    return {"parallel_read_safe": True}
