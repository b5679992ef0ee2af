"""The command ``check-wave``: the check of a wave, for those who make the files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.cli.commands import KNOWN, MISSING
from datatile_provider.cli.terminal import logs_on_stderr, say
from datatile_provider.survey.check import check_wave
from datatile_provider.survey.report import html
from datatile_provider.survey.table import lines


def run(arguments: argparse.Namespace) -> int:
    """
    Run the command, and return its exit code.

    :raises InvalidInputError: the arguments can't be used.
    :raises SurveyUnreadableError: a file can't be read.
    """
    with logs_on_stderr() as stdout:
        result = check_wave(
            arguments.file,
            arguments.reference,
            key=arguments.key,
            required=arguments.required,
            severity=_severity(arguments.severity),
            row_ratio=arguments.row_ratio,
        )
        for _, line in lines(result):
            say(line)
        if arguments.report:
            try:
                arguments.report.write_text(html(result), encoding="utf-8")
            except OSError as e:
                raise InvalidInputError(
                    f"The report {str(arguments.report)!r} can't be written: {e.strerror}", hint="Use another path."
                ) from None
        if arguments.json:
            print(json.dumps(result.as_dict(), indent=2), file=stdout)
        return MISSING if result.errors else KNOWN


def _severity(given: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if wrong := [rule for rule, equals, _ in pairs if not equals]:
        raise InvalidInputError(f"--severity takes RULE=LEVEL, not {wrong[0]!r}", hint="As in: new-variable=ignore")
    return {rule: level for rule, _, level in pairs}
