"""The command ``check``: each thing that can be wrong is a finding of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api import errors
from datatile_provider.api.models import ServerConfig
from datatile_provider.api.settings import Settings
from datatile_provider.cli.check import Finding, Outcome, findings
from datatile_provider.cli.commands import main
from datatile_provider.sandbox import Sandbox
from tests.support.fixtures import certificates, connect, plain_environment
from tests.support.rawserver import TOKEN, Peer, RawServer

__all__ = ["certificates", "connect", "plain_environment"]

SETTINGS = Settings(ServerConfig("https://datatile.example.com"), TOKEN)
PROBES = ("create", "append", "job", "made-up token")


class Result:
    """The exit code of the command, its findings, and its table."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.err = code, err
        self.findings = {found["what"].split(",")[0]: found for found in json.loads(out)["findings"]}

    def of(self, outcome: Outcome) -> set[str]:
        return {what for what, found in self.findings.items() if found["outcome"] == outcome.value}


@pytest.fixture
def check(connect, capsys) -> Any:
    def check(server: Any, **fields: Any) -> Result:
        connect(server, **{"extra": {}, **fields})
        capsys.readouterr()
        return Result(main(["check", "--json"]), *capsys.readouterr())

    return check


def test_a_sandbox_is_all_right_and_unchanged(check):
    with Sandbox() as sandbox:
        before = sandbox.state()
        result = check(sandbox)
        assert sandbox.state() == before
    assert result.code == 0, result.err
    assert result.of(Outcome.FAILED) == set()
    assert result.of(Outcome.UNSEEN) == {"TLS"}
    # Airflow 2 warns of other things before.
    assert re.search("^OK: ", result.err, re.MULTILINE)


def test_tls(check, certificates):
    with Sandbox(tls_cert=certificates.certificate, tls_key=certificates.key) as sandbox:
        trusted = check(sandbox, extra={"verify": str(certificates.authority)})
        unknown = check(sandbox)
        unverified = check(sandbox, extra={"verify": False})
    assert (trusted.code, trusted.findings["TLS"]["outcome"]) == (0, Outcome.OK.value)
    assert unknown.code == 1
    assert unknown.of(Outcome.FAILED) == {"reachable", "TLS"}
    assert "CERTIFICATE NOT TRUSTED" in unknown.findings["TLS"]["seen"]
    assert unverified.findings["TLS"] == {
        "what": "TLS",
        "outcome": Outcome.UNSEEN.value,
        "seen": "the certificate is not verified: the option verify is false",
    }


@pytest.mark.parametrize("airflow_first", [True, False])
def test_what_airflow_logs_is_not_on_stdout(certificates, airflow_first):
    """As with `airflow datatile check`, where Airflow's log is set up before, and with `python -m`."""
    code = "import sys; from datatile_provider.cli.commands import main; sys.exit(main(['check', '--json']))"
    if airflow_first:
        code = f"import airflow; airflow.settings.initialize(); {code}"
    with Sandbox(tls_cert=certificates.certificate, tls_key=certificates.key) as sandbox:
        connection = json.dumps({**sandbox.connection, "extra": {"verify": False}})
        environment = {**os.environ, "AIRFLOW_CONN_DATATILE_DEFAULT": connection}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["findings"]) == 9
    assert "Unverified HTTPS request" in done.stderr


def test_a_wrong_token(check):
    with Sandbox() as sandbox:
        result = check(sandbox, password="a-wrong-token")
    assert result.code == 1
    assert result.of(Outcome.FAILED) == {"token"}
    assert "a-wrong-token" not in result.err


@pytest.mark.parametrize(("role", "what"), [("data-collector", "create"), ("database-creator", "append")])
def test_a_missing_role_is_named_and_the_rest_is_still_tested(check, role, what):
    with Sandbox(roles=(role,)) as sandbox:
        result = check(sandbox)
    assert result.of(Outcome.FAILED) == {"roles"}
    assert result.findings["roles"]["seen"].startswith(f"{what}: ROLE MISSING")
    assert {"token", "path of a job", "made-up token"} <= result.of(Outcome.OK)


def test_another_job_path(check):
    with Sandbox(job_path="api/v2/status/{job_id}") as sandbox:
        result = check(sandbox)
    assert result.of(Outcome.FAILED) == {"path of a job"}
    assert result.of(Outcome.UNSEEN) == {"TLS", "made-up token"}


def test_a_server_that_does_not_look_at_tokens(check):
    def any_token(peer: Peer) -> None:
        peer.request()
        peer.respond(404, b'{"error": "no"}', "Connection: close")

    with RawServer(any_token) as server:
        result = check(server.url)
    assert result.code == 1
    assert result.of(Outcome.FAILED) == {"made-up token"}
    assert result.findings["made-up token"]["seen"].startswith("something answers, but it does not look at tokens")


def test_a_web_server(check):
    def page(peer: Peer) -> None:
        peer.request()
        peer.respond(200, b"<html><h1>It works</h1></html>", "Connection: close")

    with RawServer(page) as server:
        result = check(server.url)
    assert {what.split(",")[0] for what in result.of(Outcome.FAILED)} == {
        "path of create",
        "path of append",
        "path of a job",
    }
    assert result.findings["reachable"]["outcome"] == Outcome.OK.value


def test_a_server_that_is_down(check):
    result = check("http://127.0.0.1:1")
    assert result.code == 1
    assert result.of(Outcome.FAILED) == {"reachable"}
    assert result.of(Outcome.OK) == {"connection"}


@pytest.mark.parametrize(("conn_id", "said"), [("missing", "isn't defined"), ("datatile_default", "has no token")])
def test_a_connection_that_cannot_be_used(connect, capsys, conn_id, said):
    connect("http://127.0.0.1:1", password=None)
    assert main(["check", "--conn-id", conn_id, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


any_error = st.none() | st.builds(
    lambda kind, status: kind("what", status=status),
    st.sampled_from(list(errors.BY_CODE.values())),
    st.none() | st.integers(100, 599),
)


@given(st.dictionaries(st.sampled_from(PROBES), any_error), st.sampled_from([True, False, "/ca.pem"]), st.booleans())
def test_any_results_of_probes_are_findings(results, verify, plain):
    server = ServerConfig("http://localhost" if plain else SETTINGS.server.url)
    found = findings(replace(SETTINGS, server=server, verify=verify), results.items())
    assert len(found) == 8
    assert all(isinstance(f, Finding) and f.seen for f in found)
    if all(f.outcome is Outcome.OK for f in found):
        assert set(results) == set(PROBES)
        assert not any(results.values())
