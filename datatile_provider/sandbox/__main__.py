"""Runs the sandbox until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shlex
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn

from . import Options, Sandbox
from .options import ROLES

GREETING = """\
DATATILE sandbox: {url}
  token   {token}
  folder  {folder}  (ready for create)
  root    {root}  (refuses create)

For Airflow:
export AIRFLOW_CONN_DATATILE_DEFAULT={connection}

From a shell:
curl -H 'token: {token}' -F dataset=@FILE {url}/api/v2/upload/create/{folder}

From Python:
post("{url}/api/v2/upload/create/{folder}",
     headers={{"token": "{token}"}}, files={{"dataset": open(FILE, "rb")}})
"""


def parser() -> argparse.ArgumentParser:
    """The command line, an option of :class:`Options` each."""
    default = {field.name: field.default for field in dataclasses.fields(Options)}
    command = argparse.ArgumentParser(
        prog="python -m datatile_provider.sandbox",
        description="A DATATILE server on this machine, for demos and tests.",
        argument_default=argparse.SUPPRESS,
    )
    add = command.add_argument
    add("--host", help=f"loopback address to listen on (default {default['host']})")
    add("--port", type=int, help="port to listen on (default: a free one)")
    add("--token", help="the user's token (default: made up)")
    add("--folder", metavar="HASH", help="hash of the ready folder (default: made up)")
    add("--state-dir", type=Path, metavar="DIR", help="keep everything here, and take it up after a restart")
    add(
        "--processing-seconds",
        type=float,
        metavar="SECONDS",
        help=f"time that a job takes (default {default['processing_seconds']:g})",
    )
    add("--max-upload-bytes", type=int, metavar="BYTES", help="largest file accepted (default: any)")
    add("--uploads-per-minute", type=float, metavar="N", help="evenly spaced (default: any number)")
    add("--role", action="append", dest="roles", choices=ROLES, help="repeatable (default: both)")
    add("--tls-cert", type=Path, metavar="PEM", help="certificate, to serve https")
    add("--tls-key", type=Path, metavar="PEM", help="its key")
    add("--job-path", metavar="PATH", help=f"where a job's status is (default {default['job_path']})")
    add("--job-id-field", metavar="NAME", help="name of the id in answers, dots nest (default job_id)")
    add("--status-field", metavar="NAME", help="name of the status in answers, likewise (default status)")
    add("--state-words", type=words, metavar="JSON", help='words for states: {"QUEUED": "waiting in line"}')
    add("--callback-field", metavar="NAME", help="form field with the callback URL (default callback)")
    add("--json", action="store_true", help="print one line of JSON: url, token, folder, root, connection")
    return command


def words(text: str) -> dict[str, str]:
    """The argument of ``--state-words``."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return found


def end(signum: int, frame: FrameType | None) -> NoReturn:
    """Leave by the ordinary way out, which stops the server."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(0)


def main() -> None:
    """Run the sandbox as the command line says."""
    command = parser()
    arguments = vars(command.parse_args())
    as_json = arguments.pop("json", False)
    if "roles" in arguments:
        arguments["roles"] = tuple(arguments["roles"])
    try:
        sandbox = Sandbox(**arguments)
    except ValueError as error:
        command.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    with ExitStack() as stack:
        try:
            stack.enter_context(sandbox)
        except (OSError, ValueError) as error:
            sys.exit(f"The sandbox cannot start: {error}")
        reported = {name: getattr(sandbox, name) for name in ("url", "token", "folder", "root", "connection")}
        if as_json:
            print(json.dumps(reported), flush=True)
        else:
            reported["connection"] = shlex.quote(json.dumps(sandbox.connection))
            print(GREETING.format(**reported), flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
