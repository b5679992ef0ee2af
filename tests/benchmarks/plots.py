"""The chart of a benchmark's result: a row of panels per case, a panel per metric, a bar per variant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from tests.benchmarks.report import number

#: The maximum number of metrics in a chart; the table shows all.
PANELS = 4
OURS, PEER, INK = "#0b6e99", "#c3ccd3", "#222b33"
STYLE = {
    "axes.edgecolor": PEER,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 9,
    "svg.hashsalt": "datatile",
    "text.color": INK,
}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw a result of :class:`tests.benchmarks.report.Report`."""
    found = {(m["case"], m["variant"], m["metric"]): m for m in result["measurements"]}
    cases, variants, metrics = (list(dict.fromkeys(key[i] for key in found)) for i in range(3))
    metrics = metrics[:PANELS]
    cases = [case for case in cases if any((case, v, m) in found for v in variants for m in metrics)]
    shown = {case: [v for v in variants if any((case, v, m) in found for m in metrics)] for case in cases}
    heights = [len(shown[case]) + 1.2 for case in cases]
    with rc_context(STYLE):
        figure = Figure((2.2 + 3.1 * len(metrics), 1.1 + 0.24 * sum(heights)), layout="constrained")
        axes = figure.subplots(len(cases), len(metrics), height_ratios=heights, squeeze=False)
        for row, case in enumerate(cases):
            for column, metric in enumerate(metrics):
                bars = {v: found[case, v, metric] for v in shown[case] if (case, v, metric) in found}
                _panel(axes[row][column], shown[case], bars, labelled=column == 0)
                if column == 0:
                    axes[row][column].set_title(case, loc="left", fontweight="bold", fontsize=9)
                if row == 0 and bars:
                    unit = next(iter(bars.values()))["unit"]
                    axes[row][column].annotate(
                        f"{metric}, {unit}" if unit else metric,
                        (0, 1),
                        (0, 22),
                        "axes fraction",
                        "offset points",
                        color=INK,
                        fontsize=10,
                    )
        run = result["run"]
        figure.suptitle(
            f"{result['title']}\n",
            x=0.01,
            ha="left",
            fontsize=12,
            fontweight="bold",
        )
        figure.supxlabel(
            f"Median of {_runs(result)}, lines from least to most · "
            f"{run['cpus']} cores of {run['cpu']}, Python {run['python']}, Linux {run['kernel']} · {run['date'][:10]}",
            x=0.01,
            ha="left",
            fontsize=7.5,
            color="#66727c",
        )
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def _runs(result: Mapping[str, Any]) -> str:
    counts = sorted({len(m["values"]) for m in result["measurements"]})
    return f"{' or '.join(map(str, counts))} run{'s' if counts[-1] > 1 else ''}"


def _panel(axis: Any, variants: list[str], bars: Mapping[str, Mapping[str, Any]], *, labelled: bool) -> None:
    maximum = max((bar["max"] for bar in bars.values()), default=1) or 1
    for variant, bar in bars.items():
        position = variants.index(variant)
        ours = variant.startswith("ours")
        axis.barh(position, bar["median"], height=0.7, color=OURS if ours else PEER)
        if bar["min"] != bar["max"]:
            axis.plot([bar["min"], bar["max"]], [position, position], color=INK, linewidth=1)
        weight = "bold" if ours else "normal"
        text = number(bar["median"])
        axis.annotate(text, (bar["max"], position), (4, 0), textcoords="offset points", va="center", fontweight=weight)
    axis.set_xlim(0, maximum * 1.3)
    axis.set_ylim(len(variants) - 0.4, -0.6)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    axis.set_yticks(range(len(variants)), variants if labelled else [""] * len(variants))
    axis.tick_params(length=0, labelcolor=INK)


def draw_series(series: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw memory, open files and connections over the time: a row a process."""
    shown = {"memory": "memory, MiB", "files": "open files", "connections": "connections"}
    with rc_context(STYLE):
        figure = Figure((3.4 * len(shown), 1.9 * len(series)), layout="constrained")
        axes = figure.subplots(len(series), len(shown), squeeze=False)
        for row, (name, samples) in zip(axes, series.items(), strict=True):
            for axis, (metric, label) in zip(row, shown.items(), strict=True):
                axis.plot([second / 60 for second in samples["seconds"]], samples[metric], color=OURS, linewidth=1)
                axis.set_ylim(0, 1.3 * max(samples[metric]) or 1)
                axis.set_title(f"{name}: {label}", loc="left", fontsize=9)
        for axis in axes[-1]:
            axis.set_xlabel("minutes")
        figure.savefig(path, metadata={"Date": None}, dpi=110)
