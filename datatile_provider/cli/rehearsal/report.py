"""The report of a rehearsal, as JSON values and as Markdown: pure, and without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

from datatile_provider.api.responses import redact
from datatile_provider.cli.rehearsal.exchange import Exchange, Record, Step, described, reading
from datatile_provider.cli.rehearsal.findings import Findings, Row, Verdict

#: The most bytes of a response's body that are shown.
_MOST_BYTES = 2048


@dataclass(frozen=True)
class Report:
    """
    A rehearsal's result.

    :param versions: what to name beside the result: the package, Airflow, Python.
    :param stopped: the name of the signal that stopped it; ``""`` if none did.
    """

    record: Record
    findings: Findings
    versions: Mapping[str, str]
    stopped: str = ""

    @property
    def verdict(self) -> str:
        """The result in one line."""
        missing = [row.topic for row in self.findings.rows if row.needed and row.verdict is Verdict.UNSEEN]
        if self.stopped:
            return f"STOPPED by {self.stopped}: this is what was seen until then"
        if missing:
            return f"NOT CONFIRMED: {', '.join(missing)}"
        if not self.findings.passed:
            return "DIFFERS: set the options below in the connection's extra, and run again to confirm them"
        if self.findings.differs:
            return "CONFIRMED: uploads and waits work; set the options below in the connection's extra"
        return "CONFIRMED: uploads and waits work with this connection"

    @property
    def cleanup(self) -> str:
        """What a person should delete, and where."""
        record = self.record
        name = record.name.rpartition(".")[0]
        elsewhere = [e.upload.target_hash for e, found in _accepted(record, Step.NO_TARGET) if e.upload]
        more = (
            f" The server also accepted an upload to {', '.join(elsewhere)}, which did not exist." if elsewhere else ""
        )
        if not any(e.step is Step.CREATE for e in record.exchanges):
            return "Nothing to delete: no file was sent."
        if record.database:
            given = " (given)" if record.database_given else ""
            return f"Delete the database {name}, {record.database}{given}, in the folder {record.folder}.{more}"
        return f"Look for a database {name} in the folder {record.folder}, and delete it if it is there.{more}"


def _accepted(record: Record, step: Step) -> list[tuple[Exchange, Any]]:
    return [(e, found) for e, found in record.read(step, upload=True) if e.succeeded]


def redactor(secrets: Sequence[str], hosts: Sequence[str]) -> Callable[[str], str]:
    """
    Return a function that masks secrets and the names of hosts in a text.

    :param secrets: the token, the callback's URL.
    :param hosts: the URLs of the hosts: the server and its proxy.
    """
    parts = [urlsplit(url) for url in hosts]
    found = {part.netloc.rpartition("@")[2] for part in parts} | {part.hostname or "" for part in parts}
    # The longest first, as a name with its port begins with the name.
    names = sorted(found - {""}, key=len, reverse=True)

    def masked(text: str) -> str:
        for secret in secrets:
            text = redact(text, secret)
        for name in names:
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "<server>", text, flags=re.IGNORECASE)
        return text

    return masked


def as_values(report: Report, masked: Callable[[str], str]) -> dict[str, Any]:
    """Return the report as JSON values."""
    record = report.record
    value = {
        "passed": report.findings.passed and not report.stopped,
        "verdict": report.verdict,
        "differs": report.findings.differs,
        "ended": record.ended,
        "server": record.server.address,
        "versions": dict(report.versions),
        "rows": [
            {"topic": r.topic, "verdict": r.verdict.value, "seen": r.seen, "option": dict(r.option), "needed": r.needed}
            for r in report.findings.rows
        ],
        "extra": dict(report.findings.extra),
        "folder": record.folder,
        "database": record.database,
        "cleanup": report.cleanup,
        "exchanges": list(_exchanges(record)),
    }
    found: dict[str, Any] = _mapped(value, masked)
    return found


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _mapped(inner, change) for name, inner in value.items()}
    return [_mapped(inner, change) for inner in value] if isinstance(value, list) else value


def _exchanges(record: Record) -> Iterator[dict[str, Any]]:
    """Yield each exchange. Polls in a row with the same reading are one, with their number."""
    read = [(e, described(reading(record.server, e), upload=e.upload is not None)) for e in record.exchanges]

    def key(pair: tuple[Exchange, str]) -> object:
        exchange, text = pair
        # An upload is never like another one.
        return (exchange.step, exchange.url, text, id(exchange) if exchange.upload else 0)

    for _, group in groupby(read, key):
        same = list(group)
        exchange, text = same[-1]
        response = exchange.response
        yield {
            "step": exchange.step.value,
            "request": f"{exchange.method} {exchange.url}",
            "parts": list(exchange.parts),
            "times": len(same),
            "status": response.status if response else None,
            "headers": {
                name: found
                for name, found in (
                    ("Retry-After", response.retry_after if response else ""),
                    ("Location", response.location if response else ""),
                )
                if found
            },
            "body": response.body[:_MOST_BYTES].decode("utf-8", "replace") if response else "",
            "read as": text,
        }


def as_markdown(report: Report, masked: Callable[[str], str]) -> str:
    """Return the report as Markdown, to keep or to send: the hashes of folder and database are masked too."""
    hashes = {report.record.folder: "<folder>", report.record.database: "<database>"}

    def clean(text: str) -> str:
        for found, name in hashes.items():
            text = text.replace(found, name) if found else text
        return masked(text)

    value = _mapped(as_values(report, masked), clean)
    lines = [
        "# Rehearsal of a DATATILE server",
        "",
        f"**{_inline(value['verdict'])}**",
        "",
        *([f"It ended early: {_inline(value['ended'])}", ""] if value["ended"] else []),
        f"Server: {_inline(value['server'])}. Versions: {', '.join(f'{n} {v}' for n, v in report.versions.items())}.",
        "",
        "| topic | verdict | seen | option |",
        "|---|---|---|---|",
        *(f"| {' | '.join(_inline(cell) for cell in _cells(row))} |" for row in value["rows"]),
        "",
        "Extra:",
        "",
        *_fenced(json.dumps(value["extra"], indent=2, ensure_ascii=False), "json"),
        "",
        "## Requests and responses",
        "",
    ]
    for found in value["exchanges"]:
        times = f" ({found['times']} times)" if found["times"] > 1 else ""
        parts = f", parts: {', '.join(found['parts'])}" if found["parts"] else ""
        head = [f"status {found['status']}", *(f"{n}: {v}" for n, v in found["headers"].items())]
        lines += [
            f"### {found['step']}{times}",
            "",
            f"{_inline(found['request'] + parts)}",
            "",
            *(_fenced("\n".join([*head, "", found["body"]])) if found["status"] else ["No response."]),
            "",
            f"Read as: {_inline(found['read as'])}",
            "",
        ]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    option = json.dumps(row["option"], ensure_ascii=False) if row["option"] else ""
    return row["topic"], row["verdict"], row["seen"], option


def cells(row: Row) -> tuple[str, str, str, str]:
    """Return a row as the cells of a table."""
    return _cells({"topic": row.topic, "verdict": row.verdict.value, "seen": row.seen, "option": dict(row.option)})


def _inline(text: str) -> str:
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(text.split()))


def _fenced(text: str, language: str = "") -> list[str]:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text, fence]
