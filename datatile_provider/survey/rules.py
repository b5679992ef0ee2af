"""The rules of the check, as one table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """What follows when a rule is broken; the worst first."""

    ERROR = "error"  #: The wave is rejected.
    WARNING = "warning"  #: It is in the log and in the report.
    IGNORE = "ignore"  #: It is not reported.


class Origin(str, Enum):
    """Whose rule it is."""

    VENDOR = "vendor"  #: Documented in the vendor's knowledge base.
    PRACTICE = "practice"  #: Of those who keep trackers.


@dataclass(frozen=True, slots=True)
class Rule:
    """
    A rule of the check.

    :param severity: what follows by default.
    :param what: what is wrong, for the line above the variables.
    :param reason: why that matters.
    :param hint: what to do.
    """

    severity: Severity
    origin: Origin
    what: str
    reason: str
    hint: str


E, W, V, P = Severity.ERROR, Severity.WARNING, Origin.VENDOR, Origin.PRACTICE
_RECODE = "Recode it as in the earlier waves."
_RENAME = "Rename it."
RULES: dict[str, Rule] = {
    # Against the reference.
    "other-label": Rule(E, P, "a code has another label", "Answers would be counted as another answer.", _RECODE),
    "scale-reversed": Rule(
        E, P, "the same labels have other codes", "Answers would be counted as another answer.", _RECODE
    ),
    "type-changed": Rule(
        E, V, "another type", "The new values do not fit into the database's variable.", "Convert it to its old type."
    ),
    "variable-gone": Rule(
        E,
        P,
        "the variable is gone",
        "Its answers would be missing in this wave.",
        "Add it, or ignore this rule if the question was dropped.",
    ),
    "renamed-variable": Rule(
        E,
        V,
        "the variable has another name",
        "Waves are matched by name: a renamed variable is another one.",
        "Give it the old name.",
    ),
    "missing-codes-changed": Rule(
        E, P, "other codes mean a missing answer", "Missing answers would be counted, or answers would not.", _RECODE
    ),
    "new-variable": Rule(
        W,
        V,
        "a new variable",
        "A database may drop what its codebook does not declare.",
        "Declare it in the codebook, and compare its name with the questionnaire.",
    ),
    "new-code": Rule(
        W,
        V,
        "a new code",
        "A database may drop a category that its codebook does not declare.",
        "Declare it in the codebook, and compare it with the questionnaire.",
    ),
    "code-gone": Rule(
        W, P, "a code is gone", "The answer may have got another code.", "Compare it with the questionnaire."
    ),
    "label-changed": Rule(
        W, P, "the variable has another label", "It may be another question.", "Compare it with the questionnaire."
    ),
    "row-count": Rule(
        W,
        P,
        "the number of interviews is far from that of the earlier waves",
        "The file may be cut, or hold earlier waves too.",
        "Compare it with the fieldwork's count.",
    ),
    "known-interview": Rule(
        E,
        V,
        "interviews that an earlier wave has",
        "They would be counted twice, and the licence counts uploaded rows.",
        "Keep only the new interviews.",
    ),
    # Against the database, after the load.
    "variable-not-loaded": Rule(
        E,
        V,
        "the database does not have the variable",
        "A load drops what the codebook's properties say.",
        "Declare it in the codebook, and load the file again.",
    ),
    "code-not-loaded": Rule(
        E,
        V,
        "the database does not have the code",
        "A load drops what the codebook's properties say.",
        "Declare it in the codebook, and load the file again.",
    ),
    # Of the file itself.
    "unlabelled-code": Rule(
        E,
        V,
        "codes in the data have no label",
        "In a variable with labels, a code without one is read as missing.",
        "Label them, or declare them as missing. If it is a number, remove its labels, "
        "or declare the labelled codes as missing.",
    ),
    "name-case": Rule(E, V, "names that differ only in case", "Names are compared without regard to case.", _RENAME),
    "name-length": Rule(E, V, "a name of more than 64 characters", "At most 64 are accepted.", _RENAME),
    "name-characters": Rule(
        W,
        V,
        "a name with other characters",
        "Latin letters, digits and _ . $ # @ are accepted, a letter first.",
        _RENAME,
    ),
    "name-keyword": Rule(W, V, "a name that is a keyword of SPSS", "Keywords are not accepted as names.", _RENAME),
    "label-length": Rule(E, V, "a label of more than 1,024 characters", "It would be cut.", "Shorten it."),
    "encoding": Rule(
        W, V, "another encoding than UTF-8, or none declared", "Letters may be misread.", "Save the file as UTF-8."
    ),
    "mojibake": Rule(
        E,
        P,
        "text whose letters are broken",
        "It was read with the wrong encoding before it was saved.",
        "Export it again with the right encoding.",
    ),
    "no-rows": Rule(E, P, "no interviews", "There is nothing to append.", "Check the export."),
    "empty-variable": Rule(
        W,
        P,
        "a variable without any value",
        "A filter or the export may have failed.",
        "Compare it with the questionnaire.",
    ),
    "required-missing": Rule(E, P, "a required variable is missing", "The task names it as required.", "Add it."),
    "key-missing": Rule(E, P, "the variable of the key is missing", "The task names it as the key.", "Add it."),
    "key-empty": Rule(E, P, "interviews without a key", "A key identifies an interview.", "Fill it."),
    "key-repeated": Rule(
        E, P, "a key of several interviews", "An interview would be counted twice.", "Keep each interview once."
    ),
}
