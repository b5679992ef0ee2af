"""Twelve monthly waves of a real survey, and one function for each fault that can be planted in a wave."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas
import pyreadstat

DATA = Path(__file__).parents[2] / "example_dags" / "data"
#: The interviews of each month: 944 in all.
SIZES = (60, 70, 80, 90, 100, 64, 72, 84, 96, 68, 76, 84)
KEY = "respondent"
REQUIRED = ("vote", "age")


@dataclass
class Wave:
    """
    A wave, as a program holds it before it is written.

    :param labels: the variables' labels.
    :param values: the labels of the codes, by variable.
    :param missing: the codes that mean a missing answer, by variable.
    :param patch: changes the bytes of the file.
    """

    rows: pandas.DataFrame
    labels: dict[str, str]
    values: dict[str, dict[float, str]]
    missing: dict[str, list[Any]] = field(default_factory=dict)
    patch: Callable[[bytes], bytes] = bytes

    def rename(self, old: str, new: str) -> None:
        self.rows = self.rows.rename(columns={old: new})
        maps: tuple[dict[str, Any], ...] = (self.labels, self.values, self.missing)
        for names in maps:
            if old in names:
                names[new] = names.pop(old)

    def write(self, path: Path) -> Path:
        """Write the wave in the format of the suffix."""
        if path.suffix == ".csv":
            self.rows.to_csv(path, index=False)
        elif path.suffix == ".xlsx":
            self.rows.to_excel(path, index=False)
        else:
            pyreadstat.write_sav(
                self.rows,
                path,
                column_labels=dict(self.labels),
                variable_value_labels=self.values,
                missing_ranges=self.missing,
                compress=path.suffix == ".zsav",
            )
            path.write_bytes(self.patch(path.read_bytes()))
        return path


def waves() -> list[Wave]:
    """Return the twelve waves."""
    rows = pandas.read_csv(DATA / "anes96.csv")
    codebook = json.loads((DATA / "anes96.codebook.json").read_text())
    found, start = [], 0
    for size in SIZES:
        values: dict[str, dict[float, str]] = {
            name: {int(code): label for code, label in codes.items()} for name, codes in codebook["values"].items()
        }
        found.append(Wave(rows[start : start + size].reset_index(drop=True), dict(codebook["variables"]), values))
        start += size
    return found


def swap(codes: dict[float, str], first: float, second: float) -> None:
    codes[first], codes[second] = codes[second], codes[first]


def other_label(wave: Wave, earlier: Wave) -> None:
    """A code gets another label."""
    wave.values["PID"][3] = "Undecided"


def scale_reversed(wave: Wave, earlier: Wave) -> None:
    """A scale is turned round."""
    for code in (1, 2, 3):
        swap(wave.values["selfLR"], code, 8 - code)


def type_changed(wave: Wave, earlier: Wave) -> None:
    """The labels are written in place of the codes."""
    wave.rows["educ"] = wave.rows["educ"].map(wave.values.pop("educ"))


def variable_gone(wave: Wave, earlier: Wave) -> None:
    """A variable is dropped."""
    wave.rows = wave.rows.drop(columns="popul")
    del wave.labels["popul"]


def renamed_variable(wave: Wave, earlier: Wave) -> None:
    """A variable is renamed."""
    wave.rename("income", "hh_income")


def missing_codes_changed(wave: Wave, earlier: Wave) -> None:
    """A code is declared as missing."""
    wave.missing["age"] = [99]


def new_variable(wave: Wave, earlier: Wave) -> None:
    """A variable is added."""
    wave.rows["mood"] = 1.0
    wave.labels["mood"] = "Mood of respondent"


def new_code(wave: Wave, earlier: Wave) -> None:
    """An answer is added."""
    wave.values["vote"][2] = "Perot"


def code_gone(wave: Wave, earlier: Wave) -> None:
    """An answer is dropped."""
    wave.rows.loc[wave.rows["income"] == 24, "income"] = 23
    del wave.values["income"][24]


def label_changed(wave: Wave, earlier: Wave) -> None:
    """A question is worded anew."""
    wave.labels["TVnews"] = "Hours per week respondent watches TV news"


def row_count(wave: Wave, earlier: Wave) -> None:
    """Most interviews are lost."""
    wave.rows = wave.rows[:20]


def known_interview(wave: Wave, earlier: Wave) -> None:
    """Three interviews of the wave before are in it."""
    wave.rows = pandas.concat([wave.rows, earlier.rows[:3]], ignore_index=True)


def unlabelled_code(wave: Wave, earlier: Wave) -> None:
    """Interviews have codes without a label."""
    wave.rows.loc[5, "vote"] = 7
    wave.rows.loc[9, "vote"] = 3


def name_case(wave: Wave, earlier: Wave) -> None:
    """Two names differ only in case."""
    wave.rows["AGE"] = wave.rows["age"]
    wave.labels["AGE"] = wave.labels["age"]


def name_characters(wave: Wave, earlier: Wave) -> None:
    """A name gets other letters."""
    wave.rename("popul", "größe")


def name_keyword(wave: Wave, earlier: Wave) -> None:
    """A name is a keyword."""
    wave.rename("popul", "with")


def encoding(wave: Wave, earlier: Wave) -> None:
    """The file declares another encoding."""
    wave.patch = lambda content: content.replace(b"UTF-8", b"CP850")


def mojibake(wave: Wave, earlier: Wave) -> None:
    """A label was read with the wrong encoding."""
    wave.labels["age"] = "Age of respondent".replace("A", "Ã„")


def no_rows(wave: Wave, earlier: Wave) -> None:
    """The file has no interviews."""
    wave.rows = wave.rows[:0]


def empty_variable(wave: Wave, earlier: Wave) -> None:
    """A variable loses its values."""
    wave.rows["TVnews"] = float("nan")


def required_missing(wave: Wave, earlier: Wave) -> None:
    """A required variable is dropped."""
    variable = "vote"
    wave.rows = wave.rows.drop(columns=variable)
    del wave.labels[variable], wave.values[variable]


def key_missing(wave: Wave, earlier: Wave) -> None:
    """The key is dropped."""
    wave.rows = wave.rows.drop(columns=KEY)
    del wave.labels[KEY]


def key_empty(wave: Wave, earlier: Wave) -> None:
    """Two interviews have no key."""
    wave.rows.loc[[3, 4], KEY] = float("nan")


def key_repeated(wave: Wave, earlier: Wave) -> None:
    """Two interviews have the same key."""
    wave.rows.loc[3, KEY] = wave.rows.loc[4, KEY]


Expected = tuple[str, str, tuple[float, ...]]
#: For each rule: what plants its fault, and all that the check says of it: rule, variable, codes.
FAULTS: dict[str, tuple[Callable[[Wave, Wave], None], list[Expected]]] = {
    "other-label": (other_label, [("other-label", "PID", (3,))]),
    "scale-reversed": (scale_reversed, [("scale-reversed", "selfLR", (1, 2, 3, 5, 6, 7))]),
    "type-changed": (type_changed, [("type-changed", "educ", ())]),
    "variable-gone": (variable_gone, [("variable-gone", "popul", ())]),
    "renamed-variable": (renamed_variable, [("renamed-variable", "hh_income", ())]),
    "missing-codes-changed": (missing_codes_changed, [("missing-codes-changed", "age", ())]),
    "new-variable": (new_variable, [("new-variable", "mood", ())]),
    "new-code": (new_code, [("new-code", "vote", (2,))]),
    "code-gone": (code_gone, [("code-gone", "income", (24,))]),
    "label-changed": (label_changed, [("label-changed", "TVnews", ())]),
    "row-count": (row_count, [("row-count", "", ())]),
    "known-interview": (known_interview, [("known-interview", KEY, ())]),
    "unlabelled-code": (unlabelled_code, [("unlabelled-code", "vote", (3, 7))]),
    "name-case": (name_case, [("name-case", "AGE", ())]),
    "name-characters": (
        name_characters,
        [("renamed-variable", "größe", ()), ("name-characters", "größe", ())],
    ),
    "name-keyword": (name_keyword, [("renamed-variable", "with", ()), ("name-keyword", "with", ())]),
    "encoding": (encoding, [("encoding", "", ())]),
    "mojibake": (mojibake, [("mojibake", "age", ()), ("label-changed", "age", ())]),
    "no-rows": (no_rows, [("no-rows", "", ())]),
    "empty-variable": (empty_variable, [("empty-variable", "TVnews", ())]),
    "required-missing": (required_missing, [("variable-gone", "vote", ()), ("required-missing", "vote", ())]),
    "key-missing": (key_missing, [("variable-gone", KEY, ()), ("key-missing", KEY, ())]),
    "key-empty": (key_empty, [("key-empty", KEY, ())]),
    "key-repeated": (key_repeated, [("key-repeated", KEY, ())]),
}
