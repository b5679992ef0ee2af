"""The check of a wave before it is uploaded."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from datatile_provider.survey.compare import compare, not_loaded
from datatile_provider.survey.findings import Finding, Result, severities, sort
from datatile_provider.survey.inspect import inspect
from datatile_provider.survey.model import Contents, Survey, fold
from datatile_provider.survey.read import read

ROW_RATIO = 2.0
_EXAMPLES = 5


def check_wave(
    file: Path,
    references: Sequence[Path | Survey] = (),
    *,
    key: str = "",
    required: Sequence[str] = (),
    severity: Mapping[str, str] | None = None,
    row_ratio: float = ROW_RATIO,
    names: Mapping[Path, str] | None = None,
    loaded: bool = False,
) -> Result:
    """
    Check a wave by itself, and against earlier ones.

    :param file: the wave: ``.sav``, ``.zsav``, ``.csv`` or ``.xlsx``.
    :param references: the earlier waves, the latest last: files, codebooks (``.dtcb.xlsx``), or descriptions.
    :param key: the variable that identifies an interview; ``""`` for none.
    :param required: the names of variables that the wave must have.
    :param severity: ``error``, ``warning`` or ``ignore`` by rule, where it is to differ from the default.
    :param row_ratio: how many times more or fewer interviews than the earlier waves are too many.
    :param names: the names of files for messages, where they differ from the paths'.
    :param loaded: whether the wave was loaded. Then the only question is what of it the reference, a database's
        codebook, does not have.
    :raises InvalidInputError: there is no such rule or severity.
    :raises SurveyUnreadableError: a file can't be read.
    """
    levels = severities(severity or {})
    with tempfile.TemporaryDirectory(prefix="datatile-") as folder:
        database = Path(folder, "keys.sqlite")
        found = [
            Contents(given)
            if isinstance(given, Survey)
            else read(given, (names or {}).get(given, given.name), key=key, database=database, number=number)
            for number, given in enumerate([file, *references])
        ]
        wave, *earlier = found
        surveys = [contents.survey for contents in earlier]
        if loaded:
            findings = [finding for survey in surveys for finding in not_loaded(wave.survey, survey)]
        else:
            findings = [*inspect(wave, key, required), *compare(wave.survey, surveys, row_ratio)]
        notes = [*wave.survey.notes, *(note for survey in surveys for note in survey.notes)]
        if key and not loaded and fold(key) in wave.survey.by_name:
            findings += _keys(database, key)
            notes += [
                f"{survey.source} has no {key}, so its interviews were not compared."
                for survey in surveys
                if fold(key) not in survey.by_name or survey.rows is None
            ]
    sources = tuple(survey.source for survey in surveys)
    return Result(wave.survey.source, sources, wave.survey.rows, sort(findings, levels), tuple(dict.fromkeys(notes)))


_REPEATED_QUERY = "SELECT key, count(*) AS found FROM keys WHERE source = 0 GROUP BY key HAVING found > 1"
_KNOWN_QUERY = "SELECT DISTINCT key FROM keys WHERE source = 0 AND key IN (SELECT key FROM keys WHERE source > 0)"


def _keys(database: Path, key: str) -> Iterator[Finding]:
    """Yield the interviews that are not the only ones with their key."""
    with closing(sqlite3.connect(database)) as connection:
        for rule, query in (("key-repeated", _REPEATED_QUERY), ("known-interview", _KNOWN_QUERY)):
            count_query = f"SELECT count(*) FROM ({query})"  # noqa: S608  # constants
            (count,) = connection.execute(count_query).fetchone()
            if count:
                examples_query = f"{query} LIMIT {_EXAMPLES}"
                examples = [row[0] for row in connection.execute(examples_query)]
                more = ", …" if count > len(examples) else ""
                yield Finding(rule, key, after=f"{count:,} key{'' if count == 1 else 's'}: {', '.join(examples)}{more}")
