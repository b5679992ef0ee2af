# /// script
# requires-python = ">=3.10"
# dependencies = ["pandas", "pyreadstat"]
# ///
"""
Write the survey of ``anes96.csv`` as labelled SPSS files: its two waves, and the whole.

Run it with ``uv run make_waves.py`` after a change of the survey or its codebook.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pyreadstat

HERE = Path(__file__).parent
FIRST_WAVE = 472


def main() -> None:
    survey = pandas.read_csv(HERE / "anes96.csv")
    codebook = json.loads((HERE / "anes96.codebook.json").read_text())
    values: dict[str, dict[float, str]] = {
        variable: {int(code): label for code, label in labels.items()}
        for variable, labels in codebook["values"].items()
    }
    parts = {"wave1": survey[:FIRST_WAVE], "wave2": survey[FIRST_WAVE:], "whole": survey}
    for name, rows in parts.items():
        pyreadstat.write_sav(
            rows,
            HERE / f"{name}.zsav",
            # The rest of the title counts the respondents of the whole.
            file_label=codebook["title"].split(",")[0],
            column_labels=codebook["variables"],
            variable_value_labels=values,
            variable_format=dict.fromkeys(survey, "F8.0"),
            compress=True,
        )


if __name__ == "__main__":
    main()
