"""
Codebooks of the sandbox's databases: their Excel files, and what a load keeps of a survey file by their properties.

The worksheets for variables, values and properties, the types and the properties' names are documented. The columns
are assumed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: The types of variables (documented).
TYPES = ("CAT", "MC", "MD", "NUM", "DATE", "TXT", "TEXT", "IGN")
#: The properties that the sandbox knows. ``ignore_empty_cats`` and ``ignore_missing_values`` are stored only.
PROPERTIES = (
    *("ignore_undeclared_vars", "ignore_undeclared_cats", "ignore_string_vars"),
    *("ignore_empty_cats", "ignore_missing_values"),
)
_COLUMNS = {"variables": ("name", "type", "label"), "values": ("variable", "value", "label")}
#: Bytes of the parts of a workbook, which a small file can expand to.
_LARGEST = 2**26


def variable(name: str, kind: str = "", label: str = "", values: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a variable of a codebook; ``values`` are the labels of its codes."""
    return {"name": name, "type": kind, "label": label, "values": dict(values or {})}


def loaded(
    declared: Sequence[Mapping[str, Any]], properties: Mapping[str, bool], found: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """
    Return the variables that a load keeps of a file.

    :param declared: the variables of the codebook that was imported.
    :param properties: its properties.
    :param found: the variables of the file.
    """
    known = {entry["name"].casefold(): entry for entry in declared}
    kept = []
    for entry in found:
        of_codebook = known.get(entry["name"].casefold())
        kind = (of_codebook or {}).get("type") or entry["type"]
        undeclared = of_codebook is None and properties.get("ignore_undeclared_vars")
        if undeclared or kind == "IGN" or (properties.get("ignore_string_vars") and kind in ("TXT", "TEXT")):
            continue
        labels, values = (of_codebook or {}).get("values", {}), entry["values"]
        if of_codebook and properties.get("ignore_undeclared_cats"):
            values = {code: label for code, label in values.items() if code in labels}
        label = (of_codebook or {}).get("label") or entry["label"]
        kept.append(variable(entry["name"], kind, label, {**values, **labels}))
    return kept


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


def write(variables: Sequence[Mapping[str, Any]], properties: Mapping[str, bool]) -> bytes:
    """Return a codebook as an Excel file."""
    import openpyxl

    book = openpyxl.Workbook(write_only=True)
    rows: dict[str, list[tuple[Any, ...]]] = {
        "variables": [(entry["name"], entry["type"], entry["label"]) for entry in variables],
        "values": [(entry["name"], code, label) for entry in variables for code, label in entry["values"].items()],
        "properties": [(name, bool(properties.get(name))) for name in PROPERTIES],
    }
    for title, columns in {**_COLUMNS, "properties": ("property", "value")}.items():
        sheet = book.create_sheet(title)
        sheet.append(columns)
        for row in rows[title]:
            sheet.append([_cell(sheet, value) for value in row])
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def _cell(sheet: Any, value: Any) -> Any:
    from openpyxl.cell import WriteOnlyCell

    if not isinstance(value, str):
        return value
    # A text that begins with "=" would be a formula. Excel has no control characters.
    cell = WriteOnlyCell(sheet, "".join(letter for letter in value if letter.isprintable()))
    cell.data_type = "s"
    return cell


def read(content: bytes) -> tuple[list[dict[str, Any]], dict[str, bool]]:
    """
    Return the variables and properties of a codebook in an Excel file.

    :raises ValueError: it is not one; the message says why.
    """
    import openpyxl

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(part.file_size for part in archive.infolist()) > _LARGEST:
                raise ValueError("it is too large")
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        sheets = {sheet.title.strip().casefold(): _rows(sheet) for sheet in book.worksheets}
    except (zipfile.BadZipFile, OSError, LookupError, TypeError, AttributeError, SyntaxError) as error:
        raise ValueError(f"it is not an Excel workbook, or it is damaged ({error})") from error
    if "variables" not in sheets:
        raise ValueError("it has no worksheet named variables")
    variables = {}
    for row in sheets["variables"]:
        # Older codebooks have the second name (documented).
        name, kind = row.get("name") or row.get("datatile_id", ""), row.get("type", "").upper()
        if not name or (kind and kind not in TYPES):
            raise ValueError(f"the variable {name!r} has the type {kind!r}; it is one of {', '.join(TYPES)}")
        variables[name.casefold()] = variable(name, kind, row.get("label", ""))
    for row in sheets.get("values", ()):
        if row.get("variable", "").casefold() not in variables:
            raise ValueError(f"the worksheet values has an unknown variable, {row.get('variable', '')!r}")
        variables[row["variable"].casefold()]["values"][row.get("value", "")] = row.get("label", "")
    properties = {
        row["property"]: row.get("value", "").casefold() == "true"
        for row in sheets.get("properties", ())
        if row.get("property") in PROPERTIES
    }
    return list(variables.values()), properties


def _rows(sheet: Any) -> list[dict[str, str]]:
    """Return the rows of a sheet as texts by column."""
    rows = ([_text(value) for value in row] for row in sheet.iter_rows(values_only=True))
    header = [name.casefold() for name in next(rows, [])]
    return [dict(zip(header, row, strict=False)) for row in rows if any(row)]


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()
