"""The findings as short lines, for a log that does not wrap them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from datatile_provider.survey.findings import Finding, Result
from datatile_provider.survey.rules import RULES, Severity

#: Characters of a line, and lines for each rule.
WIDTH, LINES = 80, 20


def lines(result: Result) -> Iterator[tuple[Severity, str]]:
    """Yield the lines with their severities, the worst first. ``IGNORE`` is that of what was found in order."""
    head = [f"Wave check of {result.source}: {result.summary}"]
    if result.references:
        head.append(f"Compared with {', '.join(result.references)}")
    for line in head:
        yield from ((Severity.IGNORE, part) for part in textwrap.wrap(line, WIDTH))
    for (severity, name), findings in result.by_rule().items():
        rule = RULES[name]
        yield severity, f"{severity.value.upper()} {name}: {rule.what}"
        for finding in findings[:LINES]:
            for line in lines_of(finding):
                yield severity, f"  {line}"
        if len(findings) > LINES:
            yield severity, f"  … and {len(findings) - LINES} more"
        for line in textwrap.wrap(f"What to do: {rule.hint}", WIDTH - 2):
            yield severity, f"  {line}"
    for note in result.notes:
        for line in textwrap.wrap(note, WIDTH):
            yield Severity.IGNORE, line


def lines_of(finding: Finding) -> list[str]:
    """Return what a finding is about, on one line, or before and after on two."""
    whole = _cut(": ".join(filter(None, [finding.variable, finding.change])))
    if not whole.endswith("…") or not (finding.before and finding.after):
        return [whole]
    return [_cut(f"{finding.variable}: {finding.before}"), _cut(f"-> {finding.after}")]


def _cut(text: str) -> str:
    # A control character could forge a line of the log.
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= WIDTH - 2 else f"{text[: WIDTH - 3]}…"
