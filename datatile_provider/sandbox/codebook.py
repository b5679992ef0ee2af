"""
Codebooks of the sandbox's databases: what they declare, their worksheets, and what a load keeps of a survey file.

The worksheets for variables, values and properties, the types, and the names of variables and properties are documented
by the vendor. The other columns, and what exactly a property drops, are assumed.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: The types of variables (documented).
TYPES = ("CAT", "MC", "MD", "NUM", "DATE", "TXT", "TEXT", "IGN")
#: What a load drops silently (documented).
PROPERTIES = (
    *("ignore_undeclared_vars", "ignore_undeclared_cats", "ignore_string_vars"),
    *("ignore_empty_cats", "ignore_missing_values"),
)
_COLUMNS = {
    "variables": ("name", "type", "label"),
    "values": ("variable", "value", "label"),
    "properties": ("property", "value"),
}
_EXAMPLES = 3


def variable(name: str, kind: str = "", label: str = "", values: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a variable of a codebook; ``values`` are the labels of its codes."""
    return {"name": name, "type": kind, "label": label, "values": dict(values or {})}


@dataclasses.dataclass(frozen=True)
class Loaded:
    """
    What a load keeps of a file.

    :param variables: the variables, with the labels that they have in the database.
    :param dropped: the names of those that were dropped.
    :param unlabelled: the codes without a label that were read as missing, by variable, with the number of answers.
    """

    variables: list[dict[str, Any]]
    dropped: list[str]
    unlabelled: dict[str, dict[str, int]]

    @property
    def note(self) -> str:
        """What was dropped, in words; ``""`` for nothing."""
        notes = []
        if self.dropped:
            notes.append(f"{len(self.dropped)} variables were dropped ({_listed(self.dropped)})")
        if self.unlabelled:
            answers = sum(sum(codes.values()) for codes in self.unlabelled.values())
            where = _listed([f"{name}: {_listed(list(codes))}" for name, codes in self.unlabelled.items()])
            notes.append(f"{answers} answers without a label were read as missing ({where})")
        return "; ".join(notes)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", …" if len(names) > _EXAMPLES else "")


def load(
    declared: Iterable[Mapping[str, Any]], properties: Mapping[str, bool], found: Iterable[Mapping[str, Any]]
) -> Loaded:
    """
    Return what a load keeps of a file.

    :param declared: the variables of the codebook that was imported.
    :param properties: its properties.
    :param found: the variables of the file, with the codes that are declared as missing and the number of answers by
        code; no number if the answers were not counted.
    """
    known = {entry["name"].casefold(): entry for entry in declared}
    loaded = Loaded([], [], {})
    for entry in found:
        declaration = known.get(entry["name"].casefold())
        kind = (declaration or {}).get("type") or entry["type"]
        undeclared = declaration is None and properties.get("ignore_undeclared_vars")
        is_text = kind in ("TXT", "TEXT")
        if undeclared or kind == "IGN" or (is_text and properties.get("ignore_string_vars")):
            loaded.dropped.append(entry["name"])
            continue
        values = _categories(entry, declaration, properties)
        label = (declaration or {}).get("label") or entry["label"]
        loaded.variables.append(variable(entry["name"], kind, label, values))
        had_labels = bool(entry["values"] or (declaration or {}).get("values"))
        # A variable without labels is numeric, so each of its codes is a value (documented).
        unlabelled = {code: n for code, n in (entry["answers"] or {}).items() if had_labels and code not in values}
        if unlabelled:
            loaded.unlabelled[entry["name"]] = unlabelled
    return loaded


def _categories(
    entry: Mapping[str, Any], declaration: Mapping[str, Any] | None, properties: Mapping[str, bool]
) -> dict[str, str]:
    values: dict[str, str] = dict(entry["values"])
    if properties.get("ignore_missing_values"):
        values = {code: label for code, label in values.items() if code not in entry["missing"]}
    if declaration is not None:
        # A variable without any declared category keeps those of the file.
        if properties.get("ignore_undeclared_cats") and declaration["values"]:
            values = {}
        values |= declaration["values"]
    if properties.get("ignore_empty_cats") and entry["answers"] is not None:
        values = {code: label for code, label in values.items() if entry["answers"].get(code)}
    return values


def merged(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return variables with those of a later load or codebook, which count where both have one."""
    found = {entry["name"].casefold(): dict(entry) for entry in before}
    for entry in after:
        old = found.get(entry["name"].casefold(), variable(entry["name"]))
        found[entry["name"].casefold()] = {
            "name": old["name"],
            "type": entry["type"] or old["type"],
            "label": entry["label"] or old["label"],
            "values": {**old["values"], **entry["values"]},
        }
    return list(found.values())


def workbook(variables: Sequence[Mapping[str, Any]], properties: Mapping[str, bool]) -> bytes:
    """
    Return a codebook as an Excel file.

    :raises ImportError: openpyxl is not installed.
    """
    import openpyxl

    book = openpyxl.Workbook(write_only=True)
    rows: dict[str, list[tuple[str, ...]]] = {
        "variables": [(entry["name"], entry["type"], entry["label"]) for entry in variables],
        "values": [(entry["name"], code, label) for entry in variables for code, label in entry["values"].items()],
        "properties": [(name, str(bool(properties.get(name))).lower()) for name in PROPERTIES],
    }
    for title, columns in _COLUMNS.items():
        sheet = book.create_sheet(title)
        for row in [columns, *rows[title]]:
            sheet.append([_cell(sheet, value) for value in row])
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def _cell(sheet: Any, value: str) -> Any:
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    # Excel's limit of a text.
    cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", value)[:32_767])
    # Otherwise a text that begins with "=" would be a formula.
    cell.data_type = "s"
    return cell


def parsed(sheets: Mapping[str, Sequence[Sequence[str]]]) -> tuple[list[dict[str, Any]], dict[str, bool]]:
    """
    Return the variables and the properties of a codebook.

    :param sheets: the rows of its worksheets by their titles, the names of the columns first.
    :raises ValueError: it is not a codebook; the message says why.
    """
    rows = {title.strip().casefold(): _records(sheet) for title, sheet in sheets.items()}
    if "variables" not in rows:
        raise ValueError("it has no worksheet named variables")
    variables: dict[str, dict[str, Any]] = {}
    for row in rows["variables"]:
        # Older codebooks have the second name (documented).
        name, kind = row.get("name") or row.get("datatile_id", ""), row.get("type", "").upper()
        if not name:
            raise ValueError("the worksheet variables has a row without a name")
        if kind and kind not in TYPES:
            raise ValueError(f"the variable {name!r} has the type {kind!r}, which is not one of {', '.join(TYPES)}")
        variables[name.casefold()] = variable(name, kind, row.get("label", ""))
    for row in rows.get("values", ()):
        name = row.get("variable", "")
        if name.casefold() not in variables:
            raise ValueError(f"the worksheet values has an unknown variable, {name!r}")
        variables[name.casefold()]["values"][row.get("value", "")] = row.get("label", "")
    given = {row.get("property", ""): row.get("value", "") for row in rows.get("properties", ())}
    properties = {name: given[name].casefold() in ("true", "1", "yes") for name in PROPERTIES if name in given}
    return list(variables.values()), properties


def _records(rows: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    header = [name.strip().casefold() for name in rows[0]] if rows else []
    return [dict(zip(header, (cell.strip() for cell in row), strict=False)) for row in rows[1:] if any(row)]
