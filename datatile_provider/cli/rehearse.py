"""The command ``rehearse``: learn from a server itself how it speaks, with tiny uploads to a database of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from datatile_provider import __version__
from datatile_provider.api import errors
from datatile_provider.api.validation import check_callback_url, check_hash
from datatile_provider.cli.connection import connection, options_of
from datatile_provider.cli.output import Output, can_ask
from datatile_provider.cli.rehearsal.findings import SPEECH, findings
from datatile_provider.cli.rehearsal.report import Report, as_markdown, as_values, cells, redactor
from datatile_provider.cli.rehearsal.steps import Plan, Rehearsal
from datatile_provider.cli.rehearsal.survey import ROWS

DESCRIPTION = """\
Learn from a server itself how it speaks, and prove it.

It creates a database in a folder, from a survey of three interviews, and sends that survey again: append, reload,
a second upload while one runs, a damaged file, a target that does not exist, a made-up token. It writes nothing
outside of that folder and that database, and says at the end what to delete. Ctrl-C stops it at any moment.

stderr: what happens, and the result for people. stdout: the connection's options that say how the server speaks,
as one JSON object, if one of them must be set or changed; otherwise nothing. With --json: the whole report.
Exit code: 0 if accepted uploads, job id, status and final status are confirmed with the connection as it is and
--extra; 1 if not; 2 if it could not begin; 130 or 143 if a signal stopped it.
"""


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
    """A signal stops the rehearsal; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--conn-id", default="datatile_default", help="the connection (default: %(default)s)")
    add("--folder", required=True, metavar="HASH", help="hash of the folder to create a database in; not the root")
    add("--yes", action="store_true", help="ask nothing, neither at the start nor later")
    add("--extra", metavar="JSON", help="options on top of the connection's, as JSON or @FILE")
    add("--finished", action="append", default=[], metavar="WORD", help="a status that means succeeded; repeatable")
    add("--failed", action="append", default=[], metavar="WORD", help="a status that means failed; repeatable")
    add(
        "--database",
        default="",
        metavar="HASH",
        help="hash of a database to append to and reload, if the server does not report that of the new one; "
        "ALL ITS DATA IS REPLACED, so give one of an earlier rehearsal",
    )
    add("--callback-url", default="", metavar="URL", help="also try a callback to this URL")
    add("--timeout", type=float, default=600.0, metavar="S", help="seconds for each job (default: %(default)g)")
    add("--report", type=Path, metavar="FILE.md", help="also write a report to keep or to send, without secrets")
    add("--json", action="store_true", help="print the whole report as JSON to stdout")
    add("--hosts", action="store_true", help="name the server in the reports")


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    output = Output()
    try:
        plan = _plan(arguments)
        connect, configured = _connect(arguments)
        rehearsal = Rehearsal(
            connect,
            plan,
            configured=configured,
            ask=output.ask if can_ask() and not arguments.yes else None,
            say=output.line,
        )
        if arguments.report:
            arguments.report.touch()
    except (errors.DatatileError, OSError, ValueError) as e:
        output.line(str(e))
        return 2
    output.line(_announcement(rehearsal, plan))
    if not arguments.yes:
        if not can_ask():
            output.line("Nothing was sent. Without a terminal, --yes is needed.")
            return 2
        if output.ask("Go on? [y/N] ").lower() not in ("y", "yes"):
            output.line("Nothing was sent.")
            return 2
    with _handlers():
        number = _stopped_by(rehearsal)
        return _finish(arguments, rehearsal, connect({}).token, output, number)


def _plan(arguments: argparse.Namespace) -> Plan:
    check_hash(arguments.folder)
    if arguments.database:
        check_hash(arguments.database)
    check_callback_url(arguments.callback_url or None)
    if not 0 < arguments.timeout < float("inf"):
        raise ValueError("--timeout must be a number of seconds over zero")
    return Plan(
        arguments.folder,
        timeout=arguments.timeout,
        database=arguments.database,
        callback_url=arguments.callback_url,
        finished=tuple(arguments.finished),
        failed=tuple(arguments.failed),
    )


def _connect(arguments: argparse.Namespace) -> tuple[Any, Mapping[str, Any]]:
    settings, own = connection(arguments.conn_id)
    try:
        given = options_of(arguments.extra) if arguments.extra else {}
    except ValueError as e:
        raise ValueError(f"--extra is not JSON, or not an object: {e}") from None
    everything = {**own, **given}
    # Validated, and with text parsed, as a connection's URI can hold nothing else.
    settings(given)
    configured = {
        name: json.loads(value) if name in ("status_map", "status_codes") and isinstance(value, str) else value
        for name, value in everything.items()
        if name in SPEECH and value not in (None, "")
    }
    return lambda learned: settings({**given, **_merged(configured, learned)}), configured


def _merged(configured: Mapping[str, Any], learned: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {**configured.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in learned.items()
    }


def _announcement(rehearsal: Rehearsal, plan: Plan) -> str:
    uploads = 9 if plan.callback_url else 8
    lines = [
        f"Server:  {rehearsal.record.server.url}",
        f"Folder:  {plan.folder}",
        f"It creates one database there, {rehearsal.record.name.rpartition('.')[0]}, and sends {uploads} files of "
        f"{ROWS} interviews in all, some of them to be rejected.",
        "Nothing else on the server is changed. DATATILE's licence may count the uploaded rows.",
    ]
    if plan.database:
        lines.append(f"If the server does not report its hash, the data of {plan.database} is REPLACED instead.")
    return "\n".join(lines)


def _finish(arguments: argparse.Namespace, rehearsal: Rehearsal, token: str, output: Output, number: int) -> int:
    record = rehearsal.record
    found = findings(record)
    versions = {
        "airflow-provider-datatile": __version__,
        "Airflow": version("apache-airflow"),
        "Python": platform.python_version(),
    }
    report = Report(record, found, versions, signal.Signals(number).name if number else "")
    output.line()
    output.line(report.verdict)
    if record.ended:
        output.line(f"It ended early: {record.ended}")
    output.table(("topic", "verdict", "seen", "option"), [cells(row) for row in found.rows])
    if found.differs:
        output.line("The connection's extra needs:")
        output.line(json.dumps(dict(found.extra), indent=2, ensure_ascii=False))
    output.line(report.cleanup)
    masked = redactor(record, [token, arguments.callback_url], hosts=arguments.hosts)
    if arguments.report:
        try:
            arguments.report.write_text(as_markdown(report, masked), "utf-8")
            output.line(f"Report: {arguments.report}")
        except OSError as e:
            output.line(f"The report cannot be written: {e}")
    if arguments.json:
        sys.stdout.write(json.dumps(as_values(report, masked), indent=2) + "\n")
    elif found.differs:
        sys.stdout.write(json.dumps(dict(found.extra)) + "\n")
    sys.stdout.flush()
    if number:
        return 128 + number
    return 0 if found.passed else 1


def _stopped_by(rehearsal: Rehearsal) -> int:
    """Run the rehearsal, and return the number of the signal that stopped it; 0 if none did."""

    def stop(number: int, frame: FrameType | None) -> None:
        # A second one must not interrupt the report.
        _handle(signal.SIG_IGN)
        raise StoppedError(number)

    _handle(stop)
    try:
        rehearsal.run()
        _handle(signal.SIG_IGN)
    except StoppedError as e:
        return e.number
    return 0


@contextlib.contextmanager
def _handlers() -> Iterator[None]:
    """Restore the signals' handlers at the end."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handler: Any) -> None:
    for number in _SIGNALS:
        signal.signal(number, handler)
