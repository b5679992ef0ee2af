"""The command ``rehearse``: learn from a server itself how it speaks, with tiny uploads to a database of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import signal
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from datatile_provider import __version__
from datatile_provider.api import errors
from datatile_provider.api.settings import Settings
from datatile_provider.api.transport import proxy_of
from datatile_provider.api.validation import check_callback_url, check_hash
from datatile_provider.cli.commands import KNOWN, MISSING, UNUSABLE
from datatile_provider.cli.connection import connection, options_of
from datatile_provider.cli.rehearsal.findings import SPEECH, Verdict, findings
from datatile_provider.cli.rehearsal.report import Report, as_markdown, as_values, cells, redactor
from datatile_provider.cli.rehearsal.steps import Plan, Rehearsal
from datatile_provider.cli.rehearsal.survey import ROWS
from datatile_provider.cli.table import show
from datatile_provider.cli.terminal import ask, can_ask, logs_on_stderr, say

_STYLES = {Verdict.CONFIRMED: "green", Verdict.DIFFERS: "yellow", Verdict.UNSEEN: "dim"}
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
    """A signal stops the rehearsal; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(arguments: argparse.Namespace) -> int:
    """
    Run the command, and return its exit code.

    :param arguments: those of the command ``rehearse`` in :mod:`.commands`.
    :raises InvalidInputError: an argument or the connection is wrong; nothing was sent.
    """
    with logs_on_stderr() as stdout:
        return _run(arguments, stdout)


def _run(arguments: argparse.Namespace, stdout: TextIO) -> int:
    plan = _plan(arguments)
    connect, configured = _connect(arguments)
    rehearsal = Rehearsal(
        connect,
        plan,
        configured=configured,
        ask=ask if can_ask() and not arguments.yes else None,
        say=say,
    )
    _check_report(arguments.report)
    say(_announcement(rehearsal, plan))
    if not arguments.yes and not can_ask():
        say("Nothing was sent. Without a terminal, --yes is needed.")
        return UNUSABLE
    if not arguments.yes and not _agreed():
        say("Nothing was sent.")
        return UNUSABLE
    with _handlers():
        try:
            number = _stopped_by(rehearsal)
        except Exception:
            # Even a bug must not hide what to delete.
            _finish(arguments, rehearsal, connect({}), 0, stdout)
            raise
        return _finish(arguments, rehearsal, connect({}), number, stdout)


def _agreed() -> bool:
    try:
        return ask("Go on? [y/N] ").lower() in ("y", "yes")
    except KeyboardInterrupt:
        say()
        return False


def _check_report(path: Path | None) -> None:
    try:
        if path:
            path.touch()
    except OSError as e:
        raise errors.InvalidInputError(f"The report {path} cannot be written: {e}") from None


def _plan(arguments: argparse.Namespace) -> Plan:
    check_hash(arguments.folder)
    if arguments.database:
        check_hash(arguments.database)
    check_callback_url(arguments.callback_url or None)
    if not 0 < arguments.timeout < float("inf"):
        raise errors.InvalidInputError("--timeout must be a number of seconds over zero")
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
    given = options_of(arguments.extra) if arguments.extra else {}
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


def _finish(
    arguments: argparse.Namespace, rehearsal: Rehearsal, settings: Settings, number: int, stdout: TextIO
) -> int:
    record = rehearsal.record
    found = findings(record)
    versions = {
        "airflow-provider-datatile": __version__,
        "Airflow": version("apache-airflow"),
        "Python": platform.python_version(),
    }
    report = Report(record, found, versions, signal.Signals(number).name if number else "")
    say()
    say(report.verdict)
    if record.ended:
        say(f"It ended early: {record.ended}")
    rows = []
    for row in found.rows:
        topic, verdict, seen, option = cells(row)
        rows.append((topic, (verdict, _STYLES[row.verdict]), seen, option))
    show(("topic", "verdict", "seen", "option"), rows)
    if found.differs:
        say("The connection's extra needs:")
        say(json.dumps(dict(found.extra), indent=2, ensure_ascii=False))
    say(report.cleanup)
    hosts = () if arguments.hosts else (record.server.url, proxy_of(settings) or "")
    masked = redactor([settings.token, arguments.callback_url], hosts)
    if arguments.report:
        try:
            arguments.report.write_text(as_markdown(report, masked), "utf-8")
            say(f"Report: {arguments.report}")
        except OSError as e:
            say(f"The report cannot be written: {e}")
    if arguments.json:
        print(json.dumps(as_values(report, masked), indent=2), file=stdout, flush=True)
    elif found.differs:
        print(json.dumps(dict(found.extra)), file=stdout, flush=True)
    if number:
        return 128 + number
    return KNOWN if found.passed else MISSING


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
