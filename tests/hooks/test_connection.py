"""The connection test, the connection form, and a server with another dialect of the API."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from datatile_provider.api import errors
from datatile_provider.api.states import JobState
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.hooks.form import OPTIONS
from datatile_provider.sandbox import Sandbox
from tests.support.clients import finished
from tests.support.rawserver import TOKEN, Peer, RawServer
from tests.support.scripted import scripted


def token_of(head: str) -> str:
    """Return the token in a request's head."""
    (found,) = re.findall("^token: (.*?)\r?$", head, re.MULTILINE)
    return str(found)


class TestConnectionTest:
    def test_works(self, sandbox, hook):
        assert hook.test_connection() == (True, f"{sandbox.url} accepts the token.")
        assert sandbox.uploads() == []

    def test_token_rejected(self, sandbox, hook):
        sandbox.regenerate_token()
        works, message = hook.test_connection()
        assert not works
        assert "rejected the API token" in message

    @pytest.mark.parametrize("left", [[], ["database-creator"], ["data-collector"]])
    def test_role_missing(self, sandbox, hook, left):
        sandbox.set_roles(*left)
        works, message = hook.test_connection()
        assert not works
        assert "The token's user lacks a role or a permission" in message

    @pytest.mark.parametrize("extra", [{"api_path": "api/v9"}, {"job_path": "nowhere/{job_id}"}])
    def test_wrong_path(self, sandbox, connect, extra):
        works, message = connect(sandbox.url, extra=extra).test_connection()
        assert not works
        assert "The response is not one of DATATILE's API" in message
        assert next(iter(extra)) in message

    @pytest.mark.parametrize("status", [200, 404, 405])
    def test_wrong_server(self, connect, status):
        with RawServer(scripted((status, b"<html><h1>Welcome</h1></html>"))) as server:
            works, message = connect(server.url).test_connection()
        assert not works
        assert "host" in message or "refused" in message

    @pytest.mark.parametrize("status", [400, 404, 409, 422])
    def test_a_server_that_never_checks_the_token_is_not_taken_for_datatile(self, connect, caplog, status):
        caplog.set_level("DEBUG")
        tokens = []

        def handle(peer: Peer) -> None:
            tokens.append(token_of(peer.request()[0]))
            peer.respond(status, json.dumps({"error": f"nothing here for {tokens[-1]}"}).encode())

        with RawServer(handle) as server:
            works, message = connect(server.url).test_connection()
        assert not works
        assert message == (
            f"NOT DATATILE ({status}): The server responds to a made-up token as it does to yours, so it does not "
            'check tokens. The server said: "nothing here for ***" Check the connection\'s host, api_path and '
            "job_path. "
            f"(test of {server.url}/api/v2/jobs/connection-test)"
        )
        *yours, made_up = tokens
        assert yours == [TOKEN] * 3
        assert re.fullmatch("[0-9a-f]{40}", made_up)
        assert made_up not in caplog.text

    def test_each_connection_test_makes_up_its_own_token(self, connect):
        heads: list[str] = []
        with RawServer(scripted((404, b"{}"), requests=heads)) as server:
            for _ in range(2):
                connect(server.url).test_connection()
        assert len({token_of(head) for head in heads} - {TOKEN}) == 2

    @pytest.mark.parametrize("status", [400, 401, 403, 302, 500])
    def test_a_server_that_responds_to_a_made_up_token_differently_works(self, connect, status):
        heads: list[str] = []
        responses = [(404, b"{}")] * 3
        with RawServer(scripted(*responses, (status, b"{}"), requests=heads)) as server:
            assert connect(server.url).test_connection() == (True, f"{server.url} accepts the token.")
        assert len(heads) == 4

    @pytest.mark.parametrize("first", [404, 429])
    def test_a_rate_limited_made_up_token_proves_nothing(self, connect, first):
        responses = [(first, b"{}")] * 3
        with RawServer(scripted(*responses, (429, b"{}"))) as server:
            works, message = connect(server.url).test_connection()
        assert not works
        assert "Requests come too fast" in message
        assert "does not check tokens" not in message

    def test_a_connection_lost_with_the_made_up_token_is_reported(self, connect):
        def handle(peer: Peer) -> None:
            if token_of(peer.request()[0]) == TOKEN:
                peer.respond(404, b"{}")
            else:
                peer.reset()

        with RawServer(handle) as server:
            works, message = connect(server.url).test_connection()
        assert not works
        assert f"No response from {server.url}: " in message

    def test_unreachable(self, connect):
        with RawServer(Peer.reset) as server:
            hook = connect(server.url)
        works, message = hook.test_connection()
        assert not works
        assert "Connection refused" in message

    def test_host_that_does_not_resolve(self, connect):
        works, message = connect("datatile.invalid").test_connection()
        assert not works
        assert "datatile.invalid" in message

    def test_untrusted_certificate(self, connect, certificates):
        with Sandbox(token=TOKEN, tls_cert=certificates.certificate, tls_key=certificates.key) as sandbox:
            works, message = connect(sandbox.url).test_connection()
            assert not works
            assert "Set verify" in message
            assert connect(sandbox.url, extra={"verify": str(certificates.authority)}).test_connection()[0]

    def test_bad_connection(self, connect):
        assert connect("http://datatile.example.com").test_connection()[0] is False
        works, message = DatatileHook("no_such_connection").test_connection()
        assert not works
        assert "no_such_connection" in message


def test_the_form_offers_every_option_and_no_other(connect):
    works, message = connect("https://datatile.example.com", extra={"no_such_option": 1}).test_connection()
    assert not works
    (known,) = re.findall(r"The options are: (.*)\.", message)
    assert set(known.split(", ")) == set(OPTIONS)


@pytest.mark.parametrize(
    ("name", "label", "kind", "end"),
    [
        ("timeout", "Timeout", "number", " Empty: 120."),
        ("max_upload_bytes", "Max upload bytes", "integer", " Empty: no limit."),
        ("max_connections", "Max connections", "integer", " Empty: 100."),
        ("allow_http", "Allow HTTP", "boolean", " sent unencrypted."),
        ("verify", "Verify the certificate", "string", " Empty: true."),
        ("status_map", "Status map", "string", " Empty: the usual words."),
        ("job_path", "Job path", "string", " Empty: {api_path}/jobs/{job_id}."),
    ],
)
def test_a_field_of_the_form(name, label, kind, end):
    option = OPTIONS[name]
    assert (option["label"], option["schema"]) == (label, {"type": [kind, "null"]})
    assert option["description"].endswith(end)
    assert "`" not in option["description"]


PRINT_THE_FORM = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
(form,) = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "datatile"]
options = {name: [field["schema"]["title"], field["description"]] for name, field in form.extra_fields.items()}
print(json.dumps([options, form.standard_fields.model_dump(by_alias=True)]))
"""


# Airflow 3.0 shows custom fields of no provider, unless Flask-AppBuilder is installed.
@pytest.mark.needs_airflow(">=3.1")
def test_airflow_3_shows_the_form():
    # In its own process: Airflow 3.1 replaces modules with mocks.
    done = subprocess.run([sys.executable, "-c", PRINT_THE_FORM], capture_output=True, text=True, check=True)
    options, standard = json.loads(done.stdout.splitlines()[-1])
    assert options == {name: [option["label"], option["description"]] for name, option in OPTIONS.items()}
    assert [name for name, field in standard.items() if field and field["hidden"]] == ["login"]
    assert "Profile page" in standard["password"]["placeholder"]


@pytest.mark.needs_airflow("<3")
def test_airflow_2_shows_the_form():
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    widgets = {name: widget.field for name, widget in manager.connection_form_widgets.items() if "datatile" in name}
    assert {name.removeprefix("extra__datatile__"): field.args[0] for name, field in widgets.items()} == {
        name: option["label"] for name, option in OPTIONS.items()
    }
    assert manager.field_behaviours["datatile"]["hidden_fields"] == ["login"]
    assert "Profile page" in manager.field_behaviours["datatile"]["placeholders"]["password"]


async def test_another_dialect_by_connection_extra_alone(connect, survey):
    """Every option that describes a server differs from its default."""
    words = {"QUEUED": "Eingereiht", "RUNNING": "Läuft", "SUCCEEDED": "Fertig", "FAILED": "Kaputt"}
    codes = {"busy": 400, "not_found": 410, "token": 403, "role": 402, "too_large": 412, "too_fast": 420}
    dialect = {
        "api_path": "schnittstelle/v7",
        "job_path": "{api_path}/zustand?art=import&nr={job_id}",
        "job_id_field": "antwort.vorgang.nummer",
        "status_field": "antwort.lage",
        "callback_field": "rueckruf",
        "rows_field": "antwort.zeilen",
        "database_field": "antwort.ziel.tabelle",
    }
    callbacks = []

    def handle(peer: Peer) -> None:
        callbacks.append(json.loads(peer.request()[1])["antwort"]["lage"])
        peer.respond(200)

    with (
        Sandbox(token=TOKEN, processing_seconds=0.1, state_words=words, status_codes=codes, **dialect) as sandbox,
        RawServer(handle) as listener,
    ):
        status_map = {word.upper(): state for state, word in words.items()}
        status_codes = {str(code): meaning for meaning, code in codes.items()}
        hook = connect(sandbox.url, extra={"status_map": status_map, "status_codes": status_codes, **dialect})
        assert hook.test_connection()[0]
        job = hook.upload("create", sandbox.folder, survey, callback_url=listener.url)
        assert (job.id, job.state, job.status) == (sandbox.jobs()[0]["job_id"], JobState.QUEUED, "Eingereiht")
        done = finished(hook, job)
        assert (done.state, done.status, done.details["total_rows"]) == (JobState.SUCCEEDED, "Fertig", 3)
        assert (done.rows, done.database) == (3, sandbox.databases()[0]["hash"])
        again = await hook.wait_for_job_async(job.id, poll_interval=0.05, timeout=5, started=time.time())
        assert again.state is JobState.SUCCEEDED
        invalid = survey.with_suffix(".sav")
        invalid.write_bytes(b"no SPSS file")
        with pytest.raises(errors.JobFailedError, match="cannot be read"):
            finished(hook, hook.upload("create", sandbox.folder, invalid))
        with pytest.raises(errors.NotFoundError):
            hook.upload("append", "0" * 16, survey)
        sandbox.set_roles()
        with pytest.raises(errors.RoleMissingError):
            hook.upload("append", done.database, survey)
        sandbox.regenerate_token()
        with pytest.raises(errors.TokenRefusedError):
            hook.get_job(job.id)
    assert callbacks[:3] == ["Eingereiht", "Läuft", "Fertig"]


@pytest.mark.parametrize("bare_id", ["json", "text"])
@pytest.mark.parametrize("numeric_ids", [True, False])
def test_a_bare_id_and_numbers_for_states(connect, survey, bare_id, numeric_ids):
    words = {"QUEUED": 0, "RUNNING": 1, "SUCCEEDED": 2, "FAILED": -1, "CANCELLED": -2}
    options = {"state_words": words, "bare_id": bare_id, "numeric_ids": numeric_ids, "status_field": "zustand"}
    with Sandbox(token=TOKEN, processing_seconds=0.1, **options) as sandbox:
        hook = connect(sandbox.url, extra=sandbox.connection["extra"])
        job = hook.upload("create", sandbox.folder, survey)
        assert (job.id, job.status) == (sandbox.jobs()[0]["job_id"], "")
        assert job.id.isdecimal() == numeric_ids
        assert (finished(hook, job).status, sandbox.jobs()[0]["state"]) == ("2", "SUCCEEDED")


def test_the_sandbox_gives_the_extra_of_its_dialect():
    options = {
        "job_path": "status?id={job_id}",
        "status_field": "result.phase",
        "state_words": {"QUEUED": False, "RUNNING": False, "SUCCEEDED": True},
        "status_codes": {"busy": 423},
    }
    with Sandbox(**options, rows_field="result.count") as sandbox:
        log_url = f"{sandbox.url}/processing-log/{{job_id}}"
        assert sandbox.connection["extra"] == {
            "processing_log_url": log_url,
            "job_path": "status?id={job_id}",
            "status_field": "result.phase",
            "status_map": {"false": "RUNNING", "true": "SUCCEEDED"},
            "rows_field": "result.count",
            "status_codes": {"423": "busy"},
        }
    with Sandbox() as sandbox:
        assert list(sandbox.connection["extra"]) == ["processing_log_url"]
