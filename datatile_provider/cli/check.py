"""The command ``check``: what can be known about a server without changing anything."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum

from datatile_provider.api import errors
from datatile_provider.api.client import DatatileClient
from datatile_provider.api.settings import Settings
from datatile_provider.cli.commands import KNOWN, MISSING
from datatile_provider.cli.connection import connection
from datatile_provider.cli.table import show
from datatile_provider.cli.terminal import logs_on_stderr, say

_ROLES = {"create": "Database creator", "append": "Data collector"}


class Outcome(str, Enum):
    """The outcome of a finding. The value is for people."""

    OK = "ok"
    FAILED = "failed"
    UNSEEN = "could not be seen"


_STYLES = {Outcome.OK: "green", Outcome.FAILED: "red", Outcome.UNSEEN: "dim"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: what was tested, its outcome, and what was seen."""

    what: str
    outcome: Outcome
    seen: str


def findings(settings: Settings, probes: Iterable[tuple[str, errors.DatatileError | None]]) -> list[Finding]:
    """Return what the probes of a connection show, one finding for each thing that can be wrong. Pure."""
    results = dict(probes)
    return [
        _reachable(settings, results),
        _tls(settings, results),
        _token(results),
        *(_path(settings, what, results) for what in ("create", "append", "job")),
        _roles(results),
        _made_up_token(results),
    ]


_Results = dict[str, errors.DatatileError | None]


def _responded(results: _Results) -> bool:
    return any(error is None or error.status is not None for error in results.values())


def _first(results: _Results, kind: type[errors.DatatileError]) -> errors.DatatileError | None:
    return next((error for error in results.values() if isinstance(error, kind)), None)


def _reachable(settings: Settings, results: _Results) -> Finding:
    if _responded(results):
        return Finding("reachable", Outcome.OK, f"{settings.server.url} responds")
    error = next(iter(results.values()), None)
    return Finding("reachable", Outcome.FAILED, error.paragraph if error else "nothing was sent")


def _tls(settings: Settings, results: _Results) -> Finding:
    if settings.server.url.startswith("http:"):
        return Finding("TLS", Outcome.UNSEEN, "plain http: the token and the data are sent unencrypted")
    if error := _first(results, errors.UntrustedCertificateError):
        return Finding("TLS", Outcome.FAILED, error.paragraph)
    if not _responded(results):
        return Finding("TLS", Outcome.UNSEEN, "no response")
    if settings.verify is False:
        return Finding("TLS", Outcome.UNSEEN, "the certificate is not verified: the option verify is false")
    by = f"by {settings.verify}" if isinstance(settings.verify, str) else "by a trusted authority"
    return Finding("TLS", Outcome.OK, f"the certificate is signed {by}")


def _token(results: _Results) -> Finding:
    if error := _first(results, errors.TokenRefusedError):
        return Finding("token", Outcome.FAILED, error.paragraph)
    # Who lacks a role is known to the server.
    if any(error is None or isinstance(error, errors.RoleMissingError) for error in results.values()):
        return Finding("token", Outcome.OK, "the server accepts it")
    return Finding("token", Outcome.UNSEEN, "no request got a response of the API")


def _path(settings: Settings, what: str, results: _Results) -> Finding:
    server = settings.server
    where = server.job_path.replace("{api_path}", server.api_path)
    name = f"path of a job, {where}" if what == "job" else f"path of {what}, {server.api_path}/upload/{what}/…"
    error = results.get(what)
    if what in results and error is None:
        return Finding(name, Outcome.OK, "a target that cannot exist is rejected, in JSON")
    if isinstance(error, errors.NotFoundError):
        return Finding(name, Outcome.FAILED, error.paragraph)
    return Finding(name, Outcome.UNSEEN, error.title if error else "not tested")


def _roles(results: _Results) -> Finding:
    missing = {what: e for what in _ROLES if isinstance(e := results.get(what), errors.RoleMissingError)}
    if missing:
        return Finding("roles", Outcome.FAILED, " ".join(f"{w}: {e.paragraph}" for w, e in missing.items()))
    if all(what in results and results[what] is None for what in _ROLES):
        return Finding("roles", Outcome.OK, "none is missing, as far as a request without a file shows")
    return Finding("roles", Outcome.UNSEEN, "no upload got a response of the API")


def _made_up_token(results: _Results) -> Finding:
    if "made-up token" not in results:
        return Finding("made-up token", Outcome.UNSEEN, "not tested: the poll with the connection's token failed")
    error = results["made-up token"]
    if error is None:
        return Finding("made-up token", Outcome.OK, "it is rejected")
    failed = isinstance(error, errors.NotDatatileError)
    seen = f"something answers, but it does not look at tokens. {error.paragraph}" if failed else error.paragraph
    return Finding("made-up token", Outcome.FAILED if failed else Outcome.UNSEEN, seen)


def passed(found: Sequence[Finding]) -> bool:
    """Return whether all is well; that a connection does without TLS is its choice."""
    return all(f.outcome is Outcome.OK or (f.what == "TLS" and f.outcome is Outcome.UNSEEN) for f in found)


def run(arguments: argparse.Namespace) -> int:
    """
    Run the command, and return its exit code.

    :param arguments: ``conn_id`` is the connection's id, ``json`` whether the findings are printed as JSON.
    :raises InvalidInputError: the connection is missing or wrong.
    """
    with logs_on_stderr() as stdout:
        connect, _ = connection(arguments.conn_id)
        settings = connect({})
        read = Finding("connection", Outcome.OK, f"{arguments.conn_id} is valid")
        found = [read, *findings(settings, DatatileClient(settings).probes())]
    good = passed(found)
    say(f"{'OK' if good else 'NOT OK'}: connection {arguments.conn_id}, {settings.server.url}")
    show(("tested", "outcome", "seen"), [(f.what, (f.outcome.value, _STYLES[f.outcome]), f.seen) for f in found])
    if arguments.json:
        print(json.dumps({"passed": good, "findings": [asdict(f) for f in found]}, indent=2), file=stdout)
    return KNOWN if good else MISSING
