"""The command ``ledger``: what was sent where, and how to let it be sent again."""

from __future__ import annotations

import argparse
import json
import uuid
from dataclasses import asdict
from typing import TextIO

import pendulum

from datatile_provider.api.errors import DatatileError, InvalidInputError, LedgerUnusableError
from datatile_provider.cli.commands import KNOWN, MISSING
from datatile_provider.cli.connection import connection
from datatile_provider.cli.table import show
from datatile_provider.cli.terminal import logs_on_stderr, say
from datatile_provider.ledger.entry import Entry, Owner, Phase
from datatile_provider.ledger.ledger import Ledger, Stored
from datatile_provider.ledger.store import store_of


def run(arguments: argparse.Namespace) -> int:
    """
    List the entries of a connection's ledger, show one, release some, or delete old ones.

    :raises InvalidInputError: the connection has no ledger, or an argument is wrong.
    :raises LedgerUnusableError: the ledger can't be read or written.
    """
    with logs_on_stderr() as stdout:
        connect, _ = connection(arguments.conn_id)
        settings = connect({})
        if not settings.ledger:
            raise InvalidInputError(
                f"The connection {arguments.conn_id!r} has no ledger", hint="Set the option ledger in its extra."
            )
        if (arguments.do == "list") == bool(arguments.entry):
            raise InvalidInputError(
                "show and forget need an entry, and list takes none", hint="An entry is the name that list prints."
            )
        before = _time_of(arguments.older_than)
        if bool(before) != ((arguments.do, arguments.entry) == ("forget", "all")):
            raise InvalidInputError("--older-than goes with: forget all", hint="To forget one entry, give its name.")
        try:
            ledger = Ledger(store_of(settings.ledger))
            ledger.check()
            if before:
                return _forget_old(ledger, before)
            return _do(ledger, settings.server.address, arguments, stdout)
        except DatatileError:
            raise
        except Exception as e:  # any store's
            raise LedgerUnusableError(
                f"The ledger {settings.ledger!r} can't be used: {type(e).__name__}: {e}"
            ) from None


def _do(ledger: Ledger, server: str, arguments: argparse.Namespace, stdout: TextIO) -> int:
    found, damaged = [], []
    for stored in ledger.entries():
        if not isinstance(stored, Stored):
            damaged.append(stored)
        elif arguments.entry in (None, stored.name, stored.entry.sha256):
            found.append(stored)
    if arguments.do == "forget" and arguments.entry in [name for name, _ in damaged]:
        try:
            ledger.discard(arguments.entry, _nothing_known(server))
        except ValueError as e:
            raise InvalidInputError(str(e), hint="Name the connection of that server with --conn-id.") from None
        say(f"Released: {arguments.entry}")
        return KNOWN
    if arguments.do == "forget":
        for stored in found:
            ledger.change(stored.name, Phase.RELEASED)
            say(f"Released: {stored.name}")
    elif arguments.json or arguments.do == "show":
        print(json.dumps([{"entry": stored.name, **asdict(stored.entry)} for stored in found], indent=1), file=stdout)
    else:
        show(
            ("when", "file", "target", "phase", "job", "DAG, task and run", "entry"),
            [_row(stored) for stored in sorted(found, key=lambda stored: stored.entry.at)],
        )
    for name, error in damaged:
        say(f"Damaged: {name}: {error}")
    if arguments.entry and not found:
        say(f"There is no entry {arguments.entry!r}")
    return MISSING if damaged or (arguments.entry and not found) else KNOWN


def _row(stored: Stored) -> tuple[str, ...]:
    entry, owner = stored.entry, stored.entry.owner
    where = f"{owner.dag_id} {owner.task_id} {owner.run_id}"
    return (
        entry.at[:19],
        entry.name,
        f"{entry.action} {entry.target}",
        entry.phase.value,
        entry.job_id,
        where,
        stored.name,
    )


def _nothing_known(server: str) -> Entry:
    now = pendulum.now("UTC").isoformat()
    return Entry(str(uuid.uuid4()), server, "", "", "", 0, "", Phase.RELEASED, "", now, Owner("", "", "", "", -1, 0))


def _forget_old(ledger: Ledger, before: str) -> int:
    for name in ledger.delete_before(before):
        say(f"Deleted: {name}")
    return KNOWN


def _time_of(days: float | None) -> str:
    if days is None:
        return ""
    if not 1 <= days <= 36_500:
        raise InvalidInputError("--older-than takes days, from 1 to 36500")
    return pendulum.now("UTC").subtract(seconds=round(days * 86_400)).isoformat()
