"""``openapi SPEC``: the connection's extra from the server's OpenAPI document."""

from __future__ import annotations

import argparse
import json

from datatile_provider.cli.commands import KNOWN, MISSING
from datatile_provider.cli.fetch import fetch, is_url
from datatile_provider.cli.openapi.findings import Finding, Learned
from datatile_provider.cli.openapi.load import DocumentError, load
from datatile_provider.cli.openapi.read import read
from datatile_provider.cli.table import printed, show

_STYLES = {"sure": "green", "likely": "yellow", "not found": "red", "differs, no option": "red"}


def run(arguments: argparse.Namespace) -> int:
    """
    Print what is learned from a document: the extra on stdout, a table on stderr.

    :param arguments: ``spec`` is the document's file or URL.
    :raises DocumentError: the document cannot be read, or is not DATATILE's.
    """
    spec: str = arguments.spec
    try:
        learned = read(load(fetch(spec)), spec if is_url(spec) else "")
    except DocumentError as error:
        if error.subject:
            raise
        raise DocumentError(error.what, subject=printed(spec), hint=error.hint) from None
    _show(learned)
    print(json.dumps(learned.extra))
    return KNOWN if learned.complete else MISSING


def _show(learned: Learned) -> None:
    rows = [
        (finding.topic, _option(finding), (finding.certainty.value, _style(finding)), finding.where, _why(finding))
        for finding in learned.findings
    ]
    notes = list(learned.notes)
    if missing := [finding.topic for finding in learned.findings if finding.missing]:
        notes.append(f"Needed, and not known: {', '.join(missing)}.")
    show(("what", "found", "certainty", "where in the document", "why, or candidates"), rows, notes)


def _option(finding: Finding) -> str:
    if finding.value is None:
        return finding.found
    return f"{finding.option} = {finding.value if isinstance(finding.value, str) else json.dumps(finding.value)}"


def _style(finding: Finding) -> str:
    return (
        _STYLES[finding.certainty.value] if finding.needed or finding.certainty.value in ("sure", "likely") else "dim"
    )


def _why(finding: Finding) -> str:
    return "; ".join(filter(None, [finding.why, ", ".join(finding.candidates)]))
