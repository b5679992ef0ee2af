"""
The commands, as data: the parser here and Airflow's command line are made from it.

Airflow imports this module for each of its own commands, so a command's code is imported when the command runs.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

#: All that is needed is known.
KNOWN = 0
#: Something that is needed is not known.
MISSING = 1
#: The arguments or what they name cannot be used.
UNUSABLE = 2
_DESCRIPTION = "Learns how a DATATILE server speaks, shows what was sent to it, and checks files before they are sent."


@dataclass(frozen=True, slots=True)
class Argument:
    """
    An argument of a command.

    :param flags: its name, or its flags.
    :param settings: the other arguments of :meth:`argparse.ArgumentParser.add_argument`.
    """

    flags: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """
    A command.

    :param name: its name.
    :param help: what it does, for the list of commands.
    :param description: what it does, for its own help.
    :param function: ``module:name`` of a function that takes the parsed arguments and returns the exit code.
    :param arguments: its arguments.
    """

    name: str
    help: str
    description: str
    function: str
    arguments: tuple[Argument, ...] = ()

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command, and return its exit code."""
        from datatile_provider.api.errors import DatatileError

        module, _, name = self.function.partition(":")
        try:
            return int(getattr(importlib.import_module(module), name)(arguments))
        except DatatileError as error:
            print(error, file=sys.stderr)
            return UNUSABLE


_CONN_ID = Argument(
    ("--conn-id",),
    {"default": "datatile_default", "metavar": "ID", "help": "the connection (default: datatile_default)"},
)

COMMANDS = (
    Command(
        "openapi",
        help="Learn the connection's extra from the server's OpenAPI document",
        description="Prints the connection's extra as JSON on stdout: the options that differ from the defaults. "
        "A table on stderr says where each is from, and how sure it is. "
        "The exit code is 0 if all that is needed was found, 1 if something is missing, 2 if the document cannot be "
        "used.",
        function="datatile_provider.cli.openapi_command:run",
        arguments=(
            Argument(
                ("spec",),
                {
                    "metavar": "SPEC",
                    "help": "file or http(s) URL of the document: Swagger 2.0 or OpenAPI 3, as JSON or YAML",
                },
            ),
        ),
    ),
    Command(
        "check",
        help="Test a connection without changing anything, and show each finding",
        description="Sends two uploads without a file to targets that cannot exist, and polls a job that cannot exist, "
        "with the connection's token and with a made-up one. The findings are a table on stderr; with --json, they "
        "are also on stdout. The exit code is 0 if all is well, 1 if something but TLS failed or could not be seen, 2 "
        "if the connection cannot be used.",
        function="datatile_provider.cli.check:run",
        arguments=(_CONN_ID, Argument(("--json",), {"action": "store_true", "help": "print the findings as JSON"})),
    ),
    Command(
        "rehearse",
        help="Learn from the server itself how it speaks, with tiny uploads to a database of its own",
        description="Creates a database in a folder from a survey of three interviews, and sends that survey again: "
        "append, reload, a second upload while one runs, a damaged file, a target that does not exist, a made-up "
        "token. It writes nothing outside of that folder and that database, asks before it starts, and says at the "
        "end what to delete. Ctrl-C stops it at any moment. What happens, and the result, are on stderr. stdout is "
        "empty, unless an option must be set: then it is all options that say how the server speaks, as one JSON "
        "object. With --json it is the whole report. The exit code is 0 if accepted uploads, the job's id, its status "
        "and the final status are confirmed for the connection as it is and --extra, 1 if not, 2 if it did not begin, "
        "130 or 143 if a signal stopped it.",
        function="datatile_provider.cli.rehearse:run",
        arguments=(
            _CONN_ID,
            Argument(
                ("--folder",),
                {"required": True, "metavar": "HASH", "help": "folder to create a database in; not the root"},
            ),
            Argument(("--yes",), {"action": "store_true", "help": "ask nothing, neither at the start nor later"}),
            Argument(("--extra",), {"metavar": "JSON", "help": "options on top of the connection's, as JSON or @FILE"}),
            Argument(
                ("--finished",),
                {
                    "action": "append",
                    "default": [],
                    "metavar": "WORD",
                    "help": "a status that a person knows to mean succeeded; repeatable",
                },
            ),
            Argument(
                ("--failed",),
                {"action": "append", "default": [], "metavar": "WORD", "help": "the same, for failed; repeatable"},
            ),
            Argument(
                ("--database",),
                {
                    "default": "",
                    "metavar": "HASH",
                    "help": "database to append to and reload, if the server does not report that of the new one. "
                    "ALL ITS DATA IS REPLACED: give one of an earlier rehearsal",
                },
            ),
            Argument(("--callback-url",), {"default": "", "metavar": "URL", "help": "also try a callback to this URL"}),
            Argument(
                ("--timeout",),
                {"type": float, "default": 600.0, "metavar": "SECONDS", "help": "for each job (default: 600)"},
            ),
            Argument(
                ("--report",),
                {"type": Path, "metavar": "FILE.md", "help": "also write a report to keep or to send, without secrets"},
            ),
            Argument(("--json",), {"action": "store_true", "help": "print the whole report as JSON"}),
            Argument(("--hosts",), {"action": "store_true", "help": "name the server in the reports"}),
        ),
    ),
    Command(
        "ledger",
        help="List the connection's ledger of uploads, or let a content be sent again",
        description="list prints a table on stderr, or JSON on stdout; show prints entries as JSON; forget releases "
        "entries, so that their content may be sent again. Nothing is deleted, but by: forget all --older-than DAYS. "
        "The exit code is 0 if all is well, 1 if there is no such entry or a file is damaged, 2 if the ledger cannot "
        "be used.",
        function="datatile_provider.cli.ledger:run",
        arguments=(
            Argument(("do",), {"choices": ["list", "show", "forget"], "help": "what to do"}),
            Argument(
                ("entry",),
                {"nargs": "?", "metavar": "ENTRY", "help": "name of an entry, or the SHA-256 of a content"},
            ),
            _CONN_ID,
            Argument(
                ("--older-than",),
                {"type": float, "metavar": "DAYS", "help": "with forget all: delete what is older"},
            ),
            Argument(("--json",), {"action": "store_true", "help": "print the list as JSON"}),
        ),
    ),
    Command(
        "check-wave",
        help="Check a survey file, and compare it with earlier waves, before it is uploaded",
        description="Reads SPSS (.sav, .zsav), CSV and Excel (.xlsx). The findings are on stderr, the worst first. "
        "The exit code is 0 if no rule of severity error was broken, 1 if one was, 2 if a file cannot be read.",
        function="datatile_provider.cli.check_wave:run",
        arguments=(
            Argument(("file",), {"type": Path, "metavar": "FILE", "help": "the wave"}),
            Argument(
                ("--reference",),
                {
                    "type": Path,
                    "action": "append",
                    "default": [],
                    "metavar": "FILE",
                    "help": "an earlier wave; repeatable, the latest last",
                },
            ),
            Argument(
                ("--key",), {"default": "", "metavar": "VARIABLE", "help": "variable that identifies an interview"}
            ),
            Argument(
                ("--required",),
                {
                    "action": "append",
                    "default": [],
                    "metavar": "VARIABLE",
                    "help": "variable that the wave must have; repeatable",
                },
            ),
            Argument(
                ("--severity",),
                {
                    "action": "append",
                    "default": [],
                    "metavar": "RULE=LEVEL",
                    "help": "error, warning or ignore for a rule; repeatable",
                },
            ),
            Argument(
                ("--row-ratio",),
                {
                    "type": float,
                    "default": 2.0,
                    "metavar": "NUMBER",
                    "help": "how many times more or fewer interviews than before are too many (default: 2)",
                },
            ),
            Argument(("--report",), {"type": Path, "metavar": "FILE.html", "help": "also write a report"}),
            Argument(("--json",), {"action": "store_true", "help": "print the findings as JSON"}),
        ),
    ),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m datatile_provider``."""
    whole = argparse.ArgumentParser(prog="python -m datatile_provider", description=_DESCRIPTION)
    group = whole.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        one = group.add_parser(command.name, help=command.help, description=command.description)
        for argument in command.arguments:
            one.add_argument(*argument.flags, **argument.settings)
        one.set_defaults(run=command.run)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command of a command line, and return its exit code."""
    arguments = parser().parse_args(argv)
    return int(arguments.run(arguments))


def airflow_commands() -> list[Any]:
    """Return the group of commands for Airflow's own command line, as provider info ``cli`` names it (Airflow 3.2)."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    # The class has no types.
    arg: Callable[..., Any] = Arg
    commands = [
        ActionCommand(
            name=command.name,
            help=command.help,
            description=command.description,
            func=_exiting(command.run),
            args=[arg(flags=argument.flags, **argument.settings) for argument in command.arguments],
        )
        for command in COMMANDS
    ]
    return [GroupCommand(name="datatile", help=_DESCRIPTION, subcommands=commands)]


def _exiting(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], NoReturn]:
    # Airflow ignores what the function of a command returns.
    def function(arguments: argparse.Namespace) -> NoReturn:
        sys.exit(run(arguments))

    return function
