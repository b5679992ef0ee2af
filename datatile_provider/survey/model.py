"""A survey's variables and what was seen in its data, as plain data that goes through JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: A value that can have a label.
Code = float | str
#: ``unknown``: a variable without values, of a file without types.
Kind = Literal["numeric", "text", "date", "unknown"]


@dataclass(frozen=True, slots=True)
class Variable:
    """
    A variable of a survey.

    :param name: its name, by which DATATILE matches waves, without regard to case (documented).
    :param label: its label.
    :param kind: what its values are.
    :param labels: the labels of its codes.
    :param missing: the ranges of codes that mean a missing answer, with both ends; a single code is both ends. None if
        they are not known, as in a codebook.
    :param values: its values, if they are few; only of a file that has no labels, such as a CSV.
    """

    name: str
    label: str = ""
    kind: Kind = "numeric"
    labels: Mapping[Code, str] = field(default_factory=dict)
    missing: tuple[tuple[Code, Code], ...] | None = ()
    values: frozenset[str] = frozenset()

    def is_missing(self, code: Code) -> bool:
        """Return whether a code means a missing answer."""
        for low, high in self.missing or ():
            if isinstance(code, str) or isinstance(low, str) or isinstance(high, str):
                if code == low:
                    return True
            elif low <= code <= high:
                return True
        return False

    @property
    def is_categorical(self) -> bool:
        """Whether an answer has a label. Without labels, DATATILE reads a variable as numeric (documented)."""
        return any(not self.is_missing(code) for code in self.labels)


@dataclass(frozen=True, slots=True)
class Survey:
    """
    What is known of a survey file, or of a database's codebook.

    :param source: the file's name, or what else it is, for messages.
    :param rows: the number of interviews; None if it is not known.
    :param encoding: the encoding that the file declares; ``""`` if it declares none, None if its format needs none.
    :param labelled: whether its format can have labels.
    :param notes: what could not be read or compared, as sentences.
    :param undescribed: the names of further variables, which can't be compared.
    """

    source: str
    variables: tuple[Variable, ...]
    rows: int | None = None
    encoding: str | None = None
    labelled: bool = True
    notes: tuple[str, ...] = ()
    undescribed: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, Variable]:
        """The variables by their folded names. Of names that differ only in case, the last one counts."""
        return {fold(variable.name): variable for variable in self.variables}


@dataclass(frozen=True, slots=True)
class Contents:
    """
    A survey file, and what was seen in its data.

    :param empty: the names of the variables without any value.
    :param unlabelled: values without a label, of variables with labels.
    :param keyless: the number of interviews without a key.
    """

    survey: Survey
    empty: tuple[str, ...] = ()
    unlabelled: Mapping[str, tuple[Code, ...]] = field(default_factory=dict)
    keyless: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return this as JSON can hold it."""
        survey = self.survey
        return {
            "source": survey.source,
            "rows": survey.rows,
            "encoding": survey.encoding,
            "labelled": survey.labelled,
            "notes": list(survey.notes),
            "undescribed": list(survey.undescribed),
            # The codes are pairs, because JSON has no numbers as keys.
            "variables": [
                [v.name, v.label, v.kind, list(v.labels.items()), v.missing, sorted(v.values)] for v in survey.variables
            ],
            "empty": list(self.empty),
            "unlabelled": {name: list(codes) for name, codes in self.unlabelled.items()},
            "keyless": self.keyless,
        }

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Contents:
        """Return what :meth:`as_dict` has returned."""
        variables = tuple(
            Variable(
                *(name, label, kind, dict(map(tuple, labels))),
                None if missing is None else tuple(map(tuple, missing)),
                frozenset(values),
            )
            for name, label, kind, labels, missing, values in given["variables"]
        )
        survey = Survey(
            *(given["source"], variables, given["rows"], given["encoding"], given["labelled"]),
            tuple(given["notes"]),
            tuple(given["undescribed"]),
        )
        unlabelled = {name: tuple(codes) for name, codes in given["unlabelled"].items()}
        return cls(survey, tuple(given["empty"]), unlabelled, given["keyless"])


def fold(name: str) -> str:
    """Return a variable's name as it is compared: DATATILE ignores its case (documented)."""
    return name.strip().casefold()


def shown(code: Code) -> str:
    """Return a code as a person writes it."""
    if isinstance(code, float) and code.is_integer() and abs(code) < 1e15:
        return str(int(code))
    return str(code)


def shown_codes(labels: Iterable[tuple[Code, str]]) -> str:
    """Return codes with their labels on one line."""
    return ", ".join(f"{shown(code)} = {label}" for code, label in labels)
