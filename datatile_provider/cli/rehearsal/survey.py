"""The survey file of a rehearsal: three interviews as an uncompressed SPSS system file, written without a library."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from io import BytesIO

from datatile_provider.api.dataset import Dataset

#: A variable's name, its label, and the labels of its codes.
Variable = tuple[str, str, Mapping[int, str]]

VARIABLES: Sequence[Variable] = (
    ("RESPID", "Respondent", {}),
    ("VOTE", "Did you vote?", {1: "Yes", 2: "No"}),
)
INTERVIEWS: Sequence[tuple[int, ...]] = ((1, 1), (2, 2), (3, 1))
#: The number of interviews in the file.
ROWS = len(INTERVIEWS)

_NUMERIC_FORMAT = 5 << 16 | 8 << 8  # F8.0
_LOWEST, _HIGHEST = -1.7976931348623155e308, 1.7976931348623157e308
_SYSTEM_MISSING = -1.7976931348623157e308


def survey() -> bytes:
    """Return the file's content."""
    parts = [
        struct.pack("<4s60siiiiid", b"$FL2", b"@(#) SPSS DATA FILE".ljust(60), 2, len(VARIABLES), 0, 0, ROWS, 100.0),
        b"01 Jan 2600:00:00" + b"Rehearsal".ljust(64) + bytes(3),
        *map(_variable, VARIABLES),
        *(_value_labels(index, labels) for index, (_, _, labels) in enumerate(VARIABLES, 1) if labels),
        # Integers: version 1.0.0, IEEE 754, little endian, UTF-8.
        _extension(3, 4, struct.pack("<8i", 1, 0, 0, -1, 1, 1, 2, 65001)),
        _extension(4, 8, struct.pack("<3d", _SYSTEM_MISSING, _HIGHEST, _LOWEST)),
        _extension(20, 1, b"UTF-8"),
        struct.pack("<2i", 999, 0),
        *(struct.pack(f"<{len(interview)}d", *interview) for interview in INTERVIEWS),
    ]
    return b"".join(parts)


def dataset(name: str, content: bytes) -> Dataset:
    """Return a content as a file to upload."""
    return Dataset(
        name, len(content), "1", "the survey of the rehearsal", lambda: nullcontext(BytesIO(content)), lambda: "1"
    )


def _variable(variable: Variable) -> bytes:
    name, label, _ = variable
    head = struct.pack("<6i8s", 2, 0, 1, 0, _NUMERIC_FORMAT, _NUMERIC_FORMAT, name.encode().ljust(8))
    text = label.encode()
    return head + struct.pack("<i", len(text)) + text.ljust(-(-len(text) // 4) * 4)


def _value_labels(index: int, labels: Mapping[int, str]) -> bytes:
    parts = [struct.pack("<2i", 3, len(labels))]
    for code, label in labels.items():
        text = label.encode()
        # With its length byte, a label fills whole blocks of 8 bytes.
        parts.append(struct.pack("<dB", code, len(text)) + text.ljust(-(-(len(text) + 1) // 8) * 8 - 1))
    return b"".join([*parts, struct.pack("<3i", 4, 1, index)])


def _extension(kind: int, size: int, data: bytes) -> bytes:
    return struct.pack("<4i", 7, kind, size, len(data) // size) + data
