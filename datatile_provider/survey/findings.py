"""What a check finds, as data that goes through JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.survey.model import Code, shown
from datatile_provider.survey.rules import RULES, Severity

VERSION = 1
#: Findings of a result as data. A metadata database keeps it, and perhaps the arguments of a waiting task.
MOST = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """
    A broken rule.

    :param rule: the rule's id.
    :param variable: the variable; ``""`` for the whole file.
    :param before: what the earlier waves have.
    :param after: what this wave has.
    :param codes: the codes that it is about.
    """

    rule: str
    variable: str = ""
    before: str = ""
    after: str = ""
    codes: tuple[Code, ...] = ()

    @property
    def change(self) -> str:
        """What was and what is, on one line."""
        return f"{self.before} -> {self.after}" if self.before and self.after else self.after or self.before


@dataclass(frozen=True, slots=True)
class Result:
    """
    All that a check has found, the worst first.

    :param source: the wave's file.
    :param references: what it was compared with.
    :param rows: the number of interviews of the wave; None if it is not known.
    :param findings: the broken rules, with their severity.
    :param notes: what could not be compared, as sentences.
    """

    source: str
    references: tuple[str, ...]
    rows: int | None
    findings: tuple[tuple[Severity, Finding], ...]
    notes: tuple[str, ...] = ()

    def of(self, severity: Severity) -> list[Finding]:
        """Return the findings of a severity."""
        return [finding for found, finding in self.findings if found is severity]

    @property
    def errors(self) -> list[Finding]:
        """The findings for which the wave is rejected."""
        return self.of(Severity.ERROR)

    def by_rule(self) -> dict[tuple[Severity, str], list[Finding]]:
        """Return the findings by severity and rule, in their order."""
        found: dict[tuple[Severity, str], list[Finding]] = {}
        for severity, finding in self.findings:
            found.setdefault((severity, finding.rule), []).append(finding)
        return found

    @property
    def summary(self) -> str:
        """The numbers of findings, and the rules of the errors with the first variables."""
        counts = (len(self.errors), "error"), (len(self.of(Severity.WARNING)), "warning")
        return ", ".join(f"{number or 'no'} {word}{'' if number == 1 else 's'}" for number, word in counts)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON can hold it, with the worst findings if there are very many."""
        left = len(self.findings) - MOST
        more = [f"{left:,} more findings are in the report."] if left > 0 else []
        return {
            "version": VERSION,
            "file": self.source,
            "references": list(self.references),
            "rows": self.rows,
            "errors": len(self.errors),
            "warnings": len(self.of(Severity.WARNING)),
            "findings": [
                {
                    "severity": severity.value,
                    **asdict(finding),
                    "codes": [shown(code) for code in finding.codes],
                    "hint": RULES[finding.rule].hint,
                }
                for severity, finding in self.findings[:MOST]
            ],
            "notes": [*self.notes, *more],
        }


def sort(findings: Sequence[Finding], severities: Mapping[str, Severity]) -> tuple[tuple[Severity, Finding], ...]:
    """Return the findings with their severities: the worst first, then in the order of the rules and variables."""
    levels, rules = list(Severity), list(RULES)
    kept = [(severities[f.rule], f) for f in findings if severities[f.rule] is not Severity.IGNORE]
    return tuple(sorted(kept, key=lambda pair: (levels.index(pair[0]), rules.index(pair[1].rule))))


def severities(given: Mapping[str, str]) -> dict[str, Severity]:
    """
    Return each rule's severity.

    :param given: what is to differ from the defaults: ``error``, ``warning`` or ``ignore``, by rule.
    :raises InvalidInputError: there is no such rule or severity.
    """
    found = {name: rule.severity for name, rule in RULES.items()}
    for name, value in given.items():
        if name not in RULES:
            raise InvalidInputError(f"There is no rule {name!r}", hint=f"The rules are: {', '.join(RULES)}.")
        try:
            found[name] = Severity(value)
        except ValueError:
            raise InvalidInputError(
                f"There is no severity {value!r}", hint=f"Use {', '.join(s.value for s in Severity)}."
            ) from None
    return found
