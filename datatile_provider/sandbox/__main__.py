"""Runs the sandbox until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from datatile_provider.sandbox import Options, Sandbox
from datatile_provider.sandbox.options import ROLES

BANNER = """\
DATATILE sandbox: {url}
  token   {token}
  folder  {folder}  (accepts create)
  root    {root}  (rejects create)

For Airflow:
export AIRFLOW_CONN_DATATILE_DEFAULT={connection}

From a shell:
curl -H 'token: {token}' -F dataset=@FILE {api_url}/upload/create/{folder}

From Python:
post("{api_url}/upload/create/{folder}",
     headers={{"token": "{token}"}}, files={{"dataset": open(FILE, "rb")}})
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser, with an argument for each option of :class:`Options`."""
    command = argparse.ArgumentParser(
        prog="python -m datatile_provider.sandbox",
        description="The sandbox: a fake DATATILE server on this machine, for demos and tests.",
        argument_default=argparse.SUPPRESS,
    )
    add = command.add_argument
    add("--host", help=f"loopback address to listen on (default {Options.host})")
    add("--port", type=int, help="port to listen on (default: a free one)")
    add("--token", help="the user's API token (default: random)")
    add("--folder", metavar="HASH", help="hash of the folder for new databases (default: random)")
    add("--state-dir", type=Path, metavar="DIR", help="keep the state here, and resume it after a restart")
    add(
        "--processing-seconds",
        type=float,
        metavar="SECONDS",
        help=f"duration of a job (default {Options.processing_seconds:g})",
    )
    add("--max-upload-bytes", type=int, metavar="BYTES", help="largest file that is accepted (default: no limit)")
    add(
        "--uploads-per-minute",
        type=float,
        metavar="N",
        help="rate limit; uploads must be evenly spaced (default: no limit)",
    )
    add("--role", action="append", dest="roles", choices=ROLES, help="a role of the user; repeatable (default: both)")
    add("--tls-cert", type=Path, metavar="PEM", help="certificate; the sandbox then serves https")
    add("--tls-key", type=Path, metavar="PEM", help="private key of the certificate")
    add("--api-path", metavar="PATH", help=f"path of the API (default {Options.api_path})")
    add("--job-path", metavar="PATH", help=f"path of a job's status (default {Options.job_path})")
    nested = "in responses, with dots for nested fields"
    add("--job-id-field", metavar="NAME", help=f"field of the job's id {nested} (default {Options.job_id_field})")
    add("--bare-id", choices=("json", "text"), help="respond to an upload with the job's id alone")
    add("--numeric-ids", action="store_true", help="give jobs numbers as ids")
    add("--status-field", metavar="NAME", help=f"field of the status {nested} (default {Options.status_field})")
    add("--state-words", type=json_object, metavar="JSON", help='statuses by state: {"QUEUED": "waiting in line"}')
    add("--rows-field", metavar="NAME", help=f"field of the imported rows {nested} (default {Options.rows_field})")
    add("--database-field", metavar="NAME", help=f"field of the database {nested} (default {Options.database_field})")
    add("--callback-field", metavar="NAME", help=f"form field with the callback URL (default {Options.callback_field})")
    paths = {"read": "--codebook-export-path", "written": "--codebook-import-path"}
    for what, name in paths.items():
        default = getattr(Options, name[2:].replace("-", "_"))
        add(name, metavar="PATH", help=f"path at which a codebook is {what} (default {default})")
    add("--codebook-field", metavar="NAME", help=f"form field of a codebook (default {Options.codebook_field})")
    add("--status-codes", type=json_object, metavar="JSON", help='status codes of rejections: {"busy": 423}')
    add("--json", action="store_true", help="print one line of JSON: url, token, folder, root, connection")
    return command


def json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return found


def stop(*_: object) -> NoReturn:
    """Exit, which closes the sandbox."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(0)


def main() -> None:
    command = parser()
    arguments = vars(command.parse_args())
    as_json = arguments.pop("json", False)
    try:
        sandbox = Sandbox(**arguments)
    except ValueError as error:
        command.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with ExitStack() as stack:
        try:
            stack.enter_context(sandbox)
        except (OSError, ValueError) as error:
            sys.exit(f"The sandbox cannot start: {error}")
        facts = {name: getattr(sandbox, name) for name in ("url", "token", "folder", "root", "connection")}
        if as_json:
            print(json.dumps(facts), flush=True)
        else:
            facts["connection"] = shlex.quote(json.dumps(sandbox.connection))
            print(BANNER.format(**facts, api_url=sandbox.api_url), flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
