"""The command line: what it prints where, its exit codes, and that Airflow can show it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from datatile_provider.cli import fetch
from datatile_provider.cli.commands import COMMANDS, airflow_commands, main
from tests.cli.samples import new_document


@pytest.fixture
def spec(tmp_path):
    """A file with a document whose callback has another name."""
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(new_document(form={"webhook": "string"})))
    return path


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/large":
            for _ in range(4):
                self.wfile.write(b" " * 100_000)
            return
        document = new_document()
        document["servers"] = [{"url": "../api/v3"}]
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_extra_is_on_stdout_and_the_table_on_stderr(spec):
    command = [sys.executable, "-m", "datatile_provider", "openapi", str(spec)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"callback_field": "webhook"}
    assert done.stdout.count("\n") == 1
    assert "callback_field = webhook" in done.stderr
    assert "\x1b" not in done.stderr


def test_what_is_missing_is_named(tmp_path, capsys):
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(new_document(upload={"type": "object", "properties": {"folder_id": {}}})))
    assert main(["openapi", str(path)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {}
    assert "Needed, and not known: job's id." in err


def test_texts_of_the_document_cannot_change_the_terminal(tmp_path, capsys):
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(new_document(form={"callback[red]\x1b[31m\ud800": "string"})))
    assert main(["openapi", str(path)]) == 0
    err = capsys.readouterr().err
    assert "callback[red]" in err
    assert "\x1b" not in err


def test_an_error_is_a_few_lines_and_no_traceback(tmp_path, capsys):
    path = tmp_path / "page.html"
    path.write_text("<html>")
    assert main(["openapi", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"INVALID INPUT\n{path}\n")


@pytest.mark.parametrize("name", ["missing.json", ".", "\0"])
def test_a_file_that_cannot_be_read(name, tmp_path, capsys):
    assert main(["openapi", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.startswith("INVALID INPUT\n")


def test_a_url(url, capsys):
    assert main(["openapi", f"{url}/docs/openapi.json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"api_path": "api/v3"}
    assert url in err


def test_a_url_that_cannot_be_read(url, capsys, monkeypatch):
    assert main(["openapi", f"{url}/missing"]) == 2
    assert "The server responded with 404" in capsys.readouterr().err
    monkeypatch.setattr(fetch, "MAX_BYTES", 250_000)
    assert main(["openapi", f"{url}/large"]) == 2
    assert "The document is larger than" in capsys.readouterr().err
    assert main(["openapi", "http://127.0.0.1:1/openapi.json"]) == 2
    assert "cannot be downloaded" in capsys.readouterr().err
    assert main(["openapi", "http://[/openapi.json"]) == 2


def test_arguments_that_are_wrong_exit_with_2(capsys):
    for arguments in ([], ["other"], ["openapi"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.needs_airflow(">=3.2")
def test_airflow_has_the_same_commands(spec, capsys):
    from airflow.cli.cli_parser import _add_command

    parser = argparse.ArgumentParser()
    (group,) = airflow_commands()
    _add_command(parser.add_subparsers(), group)
    assert [command.name for command in group.subcommands] == [command.name for command in COMMANDS]
    arguments = parser.parse_args(["datatile", "openapi", str(spec)])
    with pytest.raises(SystemExit) as ended:
        arguments.func(arguments)
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"callback_field": "webhook"}
