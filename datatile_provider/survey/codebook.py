"""
What a codebook v2 declares: rows of worksheets in, a survey out, and back. Pure.

The worksheets for variables, values and properties, the types, and the column ``name`` (older: ``datatile_id``) are
documented by the vendor. The other columns are assumed, so several names of each are accepted. What can't be read is
a note, and not a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datatile_provider.survey.model import Code, Kind, Survey, Variable, fold, shown

#: The suffix of a codebook (documented).
SUFFIX = ".dtcb.xlsx"
#: The names of a column. The first one is written.
NAME = ("name", "datatile_id")
TYPE = ("type",)
LABEL = ("label", "title", "text")
VARIABLE = ("variable", "variable_name", *NAME)
VALUE = ("value", "code")
#: The kinds of the types that a variable of a file can have (documented).
KINDS: Mapping[str, Kind] = {"CAT": "numeric", "NUM": "numeric", "DATE": "date", "TXT": "text", "TEXT": "text"}
#: Why a variable of another type is not compared.
OTHER_TYPES = {
    "MC": "of the type MC, which can be several variables of a file",
    "MD": "of the type MD, which can be several variables of a file",
    "IGN": "of the type IGN, which a load ignores",
    "": "without a type",
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_EXAMPLES = 10
_MAX_TEXT = 32_767


class CodebookError(Exception):
    """The worksheets are not those of a codebook; the message says why."""


@dataclass
class _Notes:
    """What could not be read, as counts and names by reason."""

    source: str
    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.found.setdefault(reason, []).append(name)

    def sentences(self) -> tuple[str, ...]:
        return tuple(f"{self.source}: {reason}: {_listed(names)}." for reason, names in self.found.items())


def _listed(names: Sequence[str]) -> str:
    # Names come from a file, and may be long.
    shown_names = [name if len(name) <= 64 else f"{name[:63]}…" for name in names[:_EXAMPLES]]
    return ", ".join(shown_names) + (f" and {len(names) - _EXAMPLES:,} more" if len(names) > _EXAMPLES else "")


def survey_of(sheets: Mapping[str, Iterable[Sequence[Any]]], source: str) -> Survey:
    """
    Return the survey that a codebook declares.

    :param sheets: the rows of its worksheets by title, the names of the columns first. They are read once.
    :param source: what it is the codebook of, for messages.
    :raises CodebookError: it is not a codebook.
    """
    by_title = {_folded(title): rows for title, rows in sheets.items()}
    if "variables" not in by_title:
        raise CodebookError(f"it has no worksheet named variables (it has {_listed(list(sheets))})")
    notes = _Notes(source)
    declared = _variables(by_title["variables"], notes)
    labels = _labels(by_title["values"], {fold(name) for name, _, _ in declared}, notes) if "values" in by_title else {}
    if "values" not in by_title:
        notes.add("labels of codes were not compared, as a worksheet is missing", "values")
    found: dict[str, Variable] = {}
    for name, kind, label in declared:
        if fold(name) in found:
            notes.add("declared twice, and the last declaration counts", name)
        if kind not in KINDS:
            notes.add(f"not compared, {OTHER_TYPES.get(kind, 'of an unknown type')}", name)
            continue
        codes = labels.get(fold(name), {}) if kind == "CAT" else {}
        # Codes that are texts belong to a text.
        is_text = any(isinstance(code, str) for code in codes)
        found[fold(name)] = Variable(name, label, "text" if is_text else KINDS[kind], codes)
    return Survey(source, tuple(found.values()), notes=notes.sentences())


def _variables(rows: Iterable[Sequence[Any]], notes: _Notes) -> list[tuple[str, str, str]]:
    found = []
    for number, row in _records(rows, "variables", NAME):
        name = _text(_first(row, NAME))
        if name:
            found.append((name, _text(_first(row, TYPE)).upper(), _text(_first(row, LABEL))))
        else:
            notes.add("rows of the worksheet variables without a name", str(number))
    return found


def _labels(rows: Iterable[Sequence[Any]], declared: set[str], notes: _Notes) -> dict[str, dict[Code, str]]:
    found: dict[str, dict[Code, str]] = {}
    for number, row in _records(rows, "values", VARIABLE, VALUE):
        name, code = _text(_first(row, VARIABLE)), _code(_first(row, VALUE))
        if not name or code is None:
            notes.add("rows of the worksheet values that can't be read", str(number))
        elif fold(name) not in declared:
            notes.add("values of variables that the codebook does not declare", name)
        else:
            found.setdefault(fold(name), {})[code] = _text(_first(row, LABEL))
    return found


def _records(rows: Iterable[Sequence[Any]], title: str, *needed: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row that is not empty by the names of the columns, with its number."""
    numbered = ((number, row) for number, row in enumerate(rows, 1) if any(cell is not None for cell in row))
    _, first = next(numbered, (0, ()))
    header = [_folded(_text(cell)) for cell in first]
    for names in needed:
        if not set(names) & set(header):
            raise CodebookError(
                f"its worksheet {title} has no column named {names[0]} (it has {_listed([n for n in header if n])})"
            )
    for number, row in numbered:
        yield number, dict(zip(header, row, strict=False))


def _folded(name: str) -> str:
    return "_".join(name.replace("_", " ").split()).casefold()


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _text(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return shown(value)
    return "" if value is None else str(value).strip()


def _code(value: Any) -> Code | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = _text(value)
    try:
        code = float(text) if _NUMBER.fullmatch(text) else text
    except OverflowError:
        return None
    return None if code in ("", math.inf, -math.inf) or code != code else code


def sheets_of(survey: Survey, properties: Mapping[str, bool] | None = None) -> dict[str, list[list[str | float]]]:
    """
    Return the rows of the worksheets that declare a survey's variables, as :func:`survey_of` reads them.

    Missing codes are not declared: where a codebook has them is not documented.

    :param properties: what a load drops, such as ``ignore_undeclared_vars`` (documented).
    """
    variables: list[list[str | float]] = [[NAME[0], TYPE[0], LABEL[0]]]
    values: list[list[str | float]] = [[VARIABLE[0], VALUE[0], LABEL[0]]]
    for variable in survey.variables:
        kind = {"date": "DATE", "text": "TXT", "numeric": "NUM"}[variable.kind]
        variables.append([variable.name, "CAT" if variable.labels else kind, variable.label])
        values += [[variable.name, code, label] for code, label in variable.labels.items()]
    given: list[list[str | float]] = [[name, str(value).lower()] for name, value in (properties or {}).items()]
    return {"variables": variables, "values": values, "properties": [["property", "value"], *given]}


def write(path: Any, survey: Survey, properties: Mapping[str, bool] | None = None) -> None:
    """
    Write a codebook that declares a survey's variables, as an Excel file.

    :param path: the file; its name ends with :data:`SUFFIX`.
    :param survey: the survey, as the wave check has read it.
    :param properties: what a load drops, as for :func:`sheets_of`.
    """
    import openpyxl
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = openpyxl.Workbook(write_only=True)
    for title, rows in sheets_of(survey, properties).items():
        sheet = book.create_sheet(title)
        for row in rows:
            cells = []
            for value in row:
                is_text = isinstance(value, str)
                clean = ILLEGAL_CHARACTERS_RE.sub("", value)[:_MAX_TEXT] if isinstance(value, str) else value
                cell = WriteOnlyCell(sheet, clean)
                # Otherwise a text that begins with "=" would be a formula.
                cell.data_type = "s" if is_text else "n"
                cells.append(cell)
            sheet.append(cells)
    book.save(path)
