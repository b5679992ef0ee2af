"""``python -m datatile_provider.sandbox`` as a process."""

from __future__ import annotations

import itertools
import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import requests

from tests.support.tls import Certificates

COMMAND = [sys.executable, "-m", "datatile_provider.sandbox"]
CSV = b"respondent,vote\n1,0\n2,1\n"


@contextmanager
def running(*options):
    """Run the command with ``--json``; yield the process and the printed object."""
    with subprocess.Popen([*COMMAND, "--json", *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def end(process, signum=signal.SIGTERM):
    process.send_signal(signum)
    assert process.wait(3) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_prints_one_line_of_json_and_ends_on_a_signal(signum):
    with running("--role", "data-collector") as (process, printed):
        assert set(printed) == {"url", "token", "folder", "root", "connection"}
        extra = {"processing_log_url": f"{printed['url']}/processing-log/{{job_id}}"}
        assert printed["connection"] == {
            "conn_type": "datatile",
            "host": printed["url"],
            "password": printed["token"],
            "extra": extra,
        }
        url = f"{printed['url']}/api/v2/upload/create/{printed['folder']}"
        files = {"dataset": ("a.csv", CSV)}
        assert requests.post(url, headers={"token": printed["token"]}, files=files, timeout=5).status_code == 403
        end(process, signum)
        assert process.stdout.read() == ""


def test_another_dialect():
    given = {
        "--api-path": "rest",
        "--job-path": "{api_path}/status?id={job_id}",
        "--job-id-field": "result.id",
        "--status-field": "result.state",
        "--state-words": '{"QUEUED": 0}',
        "--rows-field": "result.count",
        "--database-field": "result.db",
        "--callback-field": "notify",
        "--status-codes": '{"token": 403}',
    }
    with running("--numeric-ids", *itertools.chain(*given.items())) as (process, printed):
        extra = printed["connection"]["extra"]
        options = {f"--{name.replace('_', '-')}": value for name, value in extra.items()}
        same = {"--api-path", "--job-path", *(name for name in given if name.endswith("-field"))}
        assert {name: options[name] for name in same} == {name: given[name] for name in same}
        assert (extra["status_map"], extra["status_codes"]) == ({"0": "QUEUED"}, {"403": "token"})
        url = f"{printed['url']}/rest/upload/create/{printed['folder']}"
        files = {"dataset": ("a.csv", CSV)}
        assert requests.post(url, files=files, timeout=5).status_code == 403
        result = requests.post(url, headers={"token": printed["token"]}, files=files, timeout=5).json()["result"]
        assert (type(result["id"]), result["state"]) == (int, 0)
        end(process)


def test_greeting_holds_lines_to_paste(tmp_path):
    file = tmp_path / "wave.csv"
    file.write_bytes(CSV)
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            lines: list[str] = []
            while not (lines and lines[-1].startswith("curl ")):
                lines.append(process.stdout.readline())
                assert lines[-1]
            (export,) = [line for line in lines if line.startswith("export AIRFLOW_CONN_DATATILE_DEFAULT=")]
            connection = json.loads(shlex.split(export)[1].partition("=")[2])
            curl = [argument.replace("FILE", str(file)) for argument in shlex.split(lines[-1])]
            response = subprocess.run(curl, capture_output=True, check=True, timeout=10).stdout
            job_id = json.loads(response)["job_id"]
            log_url = connection["extra"]["processing_log_url"]
            assert log_url == f"{connection['host']}/processing-log/{{job_id}}"
            # The links in Airflow: the log, and the job.
            for link in (log_url.replace("{job_id}", ""), log_url.replace("{job_id}", job_id)):
                assert requests.get(link, timeout=5).status_code == 200
            state = requests.get(f"{connection['host']}/sandbox/state", timeout=5).json()
            assert state["token"] == connection["password"]
            assert [upload["job_id"] for upload in state["uploads"]] == [job_id]
            end(process)
        finally:
            process.kill()


def test_killed_and_restarted(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (
        "--state-dir",
        str(tmp_path / "new" / "dir"),
        "--port",
        str(port),
        "--processing-seconds",
        "0.5",
    )
    with running(*options) as (process, printed):
        url = f"{printed['url']}/api/v2/upload/create/{printed['folder']}"
        job_id = requests.post(
            url, headers={"token": printed["token"]}, files={"dataset": ("a.csv", CSV)}, timeout=5
        ).json()["job_id"]
        process.kill()
        process.wait(3)
    with running(*options) as (process, again):
        assert again == printed
        deadline = time.monotonic() + 10
        while not (databases := requests.get(f"{printed['url']}/sandbox/state", timeout=5).json()["databases"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [database["rows"] for database in databases] == [2]
        job = requests.get(f"{printed['url']}/api/v2/jobs/{job_id}", headers={"token": printed["token"]}, timeout=5)
        assert job.json()["status"] == "succeeded"
        end(process)


def test_https(tmp_path):
    certificates = Certificates.make(tmp_path)
    cert, key = certificates.certificate, certificates.key
    with running("--tls-cert", str(cert), "--tls-key", str(key)) as (process, printed):
        assert printed["url"].startswith("https://127.0.0.1:")
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(printed["url"], timeout=5)
        assert requests.get(printed["url"], verify=str(certificates.authority), timeout=5).status_code == 200
        end(process)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "not a loopback address"),
        (["--port", "99999"], "must be 0 to 65535"),
        (["--state-words", "[]"], "not a JSON object"),
        (["--state-words", "{"], "not JSON"),
        (["--bare-id", "xml"], "invalid choice: 'xml'"),
        (["--status-codes", '{"busy": 200}'], "status_codes: must map busy, too_large"),
        (
            ["--tls-cert", "none.pem", "--tls-key", "none.pem"],
            "none.pem and none.pem are not a certificate and its key",
        ),
    ],
)
def test_rejects_options_that_cannot_work(options, message):
    ended = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=10)
    assert ended.returncode != 0
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_port_in_use():
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        options = ["--port", str(occupied.getsockname()[1])]
        ended = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=10)
    assert ended.returncode != 0
    assert ended.stderr.startswith("The sandbox cannot start: ")
