"""Which uploads the sandbox accepts, and how their jobs end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from requests import post

from datatile_provider.sandbox import reader

CSV = b"respondent,vote\n1,0\n2,1\n"


def test_vendors_snippet(user, survey):
    server, token, hash = user.sandbox.url, user.sandbox.token, user.sandbox.folder
    file = survey("wave1.sav", rows=5)
    response = post(
        f"{server}/api/v2/upload/create/{hash}",
        headers={"token": token},
        files={"dataset": open(file, "rb")},  # noqa: SIM115 - as in the vendor's snippet
    )
    job = user.wait(response.json()["job_id"])
    assert (job["status"], job["rows"], job["total_rows"], job["filename"]) == (
        "succeeded",
        5,
        5,
        "wave1.sav",
    )
    (database,) = user.sandbox.databases()
    assert database["hash"] == job["database"]
    assert (database["name"], database["rows"], database["variables"]) == ("wave1", 5, ["respondent", "vote"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("name", ["wave.csv", 'a "b" c.csv', "Опрос 1.csv", "🙂; x=1.csv", "100%.csv", "a\\b.csv"])
def test_curl(user, survey, name):
    file = survey("wave.csv", rows=4)
    named = file.rename(file.with_name(name))
    url = f"{user.sandbox.url}/api/v2/upload/create/{user.sandbox.folder}"
    quoted = str(named).replace("\\", "\\\\").replace('"', '\\"')
    command = ["curl", "-sS", "-H", f"token: {user.sandbox.token}", "-F", f'dataset=@"{quoted}"', url]
    response = subprocess.run(command, check=True, capture_output=True, timeout=10).stdout
    assert b"job_id" in response
    (upload,) = user.sandbox.uploads()
    assert upload["filename"] == name
    assert upload["size"] == named.stat().st_size
    assert user.wait(upload["job_id"])["total_rows"] == 4


@pytest.mark.parametrize(
    "name", ["wave 2.csv", 'a "b".csv', "Опрос.csv", "🙂.csv", "line\r\nbreak.csv", "x;y.csv", "a\\b.csv"]
)
def test_names_sent_by_requests(user, name):
    job = user.run("create", user.sandbox.folder, (name, CSV))
    assert job["filename"] == name
    assert job["status"] == "succeeded"


def test_file_name_in_extended_notation(user):
    body = (
        b"--b\r\nContent-Disposition: form-data; name=dataset; "
        b"filename*=utf-8''%D0%AF%22%2522.csv\r\n\r\n" + CSV + b"\r\n--b--\r\n"
    )
    response = _post(user, body)
    assert response.status_code == 200
    assert user.sandbox.uploads()[0]["filename"] == 'Я"%22.csv'


@pytest.mark.parametrize("suffix", ["sav", "zsav", "csv", "xlsx"])
def test_create_append_reload(user, survey, suffix):
    created = user.run("create", user.sandbox.folder, survey(f"wave1.{suffix}", rows=3))
    database = created["database"]
    appended = user.run("append", database, survey(f"wave2.{suffix}", 4, ("respondent", "age")))
    assert (appended["database"], appended["rows"], appended["total_rows"]) == (database, 4, 7)
    assert user.sandbox.databases()[0]["variables"] == ["respondent", "vote", "age"]
    reloaded = user.run("reload", database, survey(f"all.{suffix}", 6, ("respondent", "age")))
    assert (reloaded["rows"], reloaded["total_rows"]) == (6, 6)
    (found,) = user.sandbox.databases()
    assert (found["hash"], found["name"], found["rows"]) == (database, "wave1", 6)
    assert found["variables"] == ["respondent", "age"]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffrespondent;vote\r\n1;0\r\n2;1\r\n".encode(),
        b"respondent\tvote\n1\t0\n2\t1",
        b'respondent,"vote, last"\n1,"a\nb"\n\n2,"say ""no"""\n',
    ],
)
def test_csv_dialects(user, content):
    assert user.run("create", user.sandbox.folder, ("wave.CSV", content))["total_rows"] == 2


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.sav", b"not SPSS", "not an SPSS data file"),
        ("a.zsav", b"$FL3" + b"x" * 500, "damaged or truncated"),
        ("a.xlsx", b"PK\x03\x04 not a workbook", "not an Excel workbook"),
        ("a.csv", b"a,b\n1,2\n3\n", "line 3 has 1 values, but there are 2 variables"),
        ("a.csv", b'a,b\n1,"2\n', "line 2 is not well-formed CSV"),
        ("a.csv", b"\xff\xfe\x00", "not UTF-8 text"),
        ("a.csv", b"a,b\n", "no rows"),
        ("a.csv", b"\n", "no variables"),
        ("a.csv", b"a,\n1,2\n", "variables without a name"),
        ("a.csv", b"a,a\n1,2\n", "several variables with the same name"),
        ("a.txt", CSV, ".txt is not one of .sav, .zsav, .csv, .xlsx"),
        ("a", CSV, "a file without suffix"),
    ],
)
def test_unreadable_file_fails_the_job(user, name, content, reason):
    database = user.sandbox.add_database(rows=2, variables=["a"])
    job = user.run("reload", database, (name, content))
    assert job["status"] == "failed"
    assert reason in job["message"]
    assert name in job["message"]
    assert user.sandbox.databases()[0]["rows"] == 2


@pytest.mark.parametrize("suffix", ["sav", "zsav", "xlsx"])
def test_truncated_file_fails_the_job(user, survey, suffix):
    whole = survey(f"a.{suffix}", rows=500).read_bytes()
    job = user.run("create", user.sandbox.folder, (f"a.{suffix}", whole[: len(whole) // 2]))
    assert job["status"] == "failed"
    assert user.sandbox.databases() == []


@pytest.mark.parametrize(("name", "module"), [("a.sav", "pyreadstat"), ("a.xlsx", "openpyxl")])
def test_without_the_extra_the_reason_holds_the_install_command(survey, monkeypatch, name, module):
    file = survey(name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(reader.UnreadableError, match=rf"needs {module}: pip install .*\[sandbox\]"):
        reader.read(file, name)


def test_append_needs_a_variable_in_common(user):
    database = user.sandbox.add_database(rows=2, variables=["age"])
    job = user.run("append", database, ("a.csv", CSV))
    assert job["status"] == "failed"
    assert "no variable in common" in job["message"]
    assert user.sandbox.databases()[0]["rows"] == 2


def test_append_to_an_empty_database(user):
    assert user.run("append", user.sandbox.add_database(), ("a.csv", CSV))["total_rows"] == 2


def test_rejections(user):
    sandbox = user.sandbox
    database = sandbox.add_database()
    for action, target, status in [
        ("merge", sandbox.folder, 404),
        ("create", "0123456789abcdef", 404),
        ("create", sandbox.root, 422),
        ("create", database, 422),
        ("append", sandbox.folder, 422),
        ("reload", sandbox.root, 422),
    ]:
        response = user.upload(action, target, ("a.csv", CSV))
        assert (response.status_code, bool(response.json()["error"])) == (status, True), (action, target)
    assert sandbox.uploads() == []


def test_roles(user):
    sandbox = user.sandbox
    database = sandbox.add_database()
    sandbox.set_roles("data-collector")
    rejected = user.upload("create", sandbox.folder, ("a.csv", CSV))
    assert (rejected.status_code, "Database creator" in rejected.text) == (403, True)
    assert user.upload("append", database, ("a.csv", CSV)).status_code == 200
    sandbox.set_roles("database-creator")
    rejected = user.upload("reload", database, ("a.csv", CSV))
    assert (rejected.status_code, "Data collector" in rejected.text) == (403, True)
    assert user.upload("create", sandbox.folder, ("a.csv", CSV)).status_code == 200


def test_edit_permission(user):
    database = user.sandbox.add_database()
    for action, target in [("create", user.sandbox.folder), ("append", database)]:
        user.sandbox.set_permission(target, False)
        assert user.upload(action, target, ("a.csv", CSV)).status_code == 403
        user.sandbox.set_permission(target, True)
        assert user.upload(action, target, ("a.csv", CSV)).status_code == 200


def test_token(user):
    old = user.sandbox.token
    job_id = user.upload("create", user.sandbox.folder, ("a.csv", CSV)).json()["job_id"]
    new = user.sandbox.regenerate_token()
    assert user.sandbox.token == new != old
    status = f"{user.sandbox.url}/api/v2/jobs/{job_id}"
    upload = f"{user.sandbox.url}/api/v2/upload/create/{user.sandbox.folder}"
    for token in (old, "", "ключ".encode()):
        assert requests.get(status, headers={"token": token}, timeout=5).status_code == 401
        rejected = post(upload, headers={"token": token}, files={"dataset": ("a.csv", CSV)}, timeout=5)
        assert rejected.status_code == 401
    assert requests.get(status, timeout=5).status_code == 401
    assert requests.get(status, headers={"token": new}, timeout=5).status_code == 200


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"data": ("a.csv", CSV)}, "part named dataset"),
        ({"dataset": ("a.csv", b"")}, "file is empty"),
        ({"dataset": (None, CSV)}, "no file name"),
        ([("dataset", ("a.csv", CSV)), ("dataset", ("b.csv", CSV))], "several parts"),
    ],
)
def test_invalid_forms(user, files, message):
    url = f"{user.sandbox.url}/api/v2/upload/create/{user.sandbox.folder}"
    response = post(url, headers={"token": user.sandbox.token}, files=files, timeout=5)
    assert (response.status_code, message in response.json()["error"]) == (400, True)
    assert _nothing_accepted(user)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (CSV, "text/csv"),
        (CSV, "multipart/form-data"),
        (CSV, "multipart/form-data; boundary=b"),
        (b'--b\r\nContent-Disposition: form-data; name="dataset"; filename="a.csv"\r\n\r\n' + CSV, None),
    ],
)
def test_not_a_form(user, body, content_type):
    response = _post(user, body, content_type or "multipart/form-data; boundary=b")
    assert response.status_code == 400
    assert response.json()["error"]
    assert _nothing_accepted(user)


@pytest.mark.parametrize("missing", [1, 3, 20])
def test_truncated_body_is_not_accepted(user, missing):
    form = requests.Request("POST", "http://x", files={"dataset": ("a.csv", CSV)}).prepare()
    body = form.body
    assert isinstance(body, bytes)
    with _connection(user) as client:
        client.sendall(_head(user, str(form.headers["Content-Type"]), len(body)) + body[:-missing])
        _until(lambda: _files(user))
        rejected = user.upload("create", user.sandbox.folder, ("b.csv", CSV))
        assert rejected.status_code == 409
    _until(lambda: not _files(user))
    assert _nothing_accepted(user)
    assert user.run("create", user.sandbox.folder, ("b.csv", CSV))["status"] == "succeeded"


def test_busy_until_the_job_is_finished(start):
    user = start(processing_seconds=0.4)
    database, other = user.sandbox.add_database(), user.sandbox.add_database()
    for action, target in [("create", user.sandbox.folder), ("append", database)]:
        first = user.upload(action, target, ("a.csv", CSV)).json()["job_id"]
        assert user.upload(action, target, ("a.csv", CSV)).status_code == 409
        assert user.upload("reload", other, ("a.csv", CSV)).status_code == 200
        user.wait(first)
        other = user.sandbox.add_database()
        assert user.upload(action, target, ("a.csv", CSV)).status_code == 200


def test_size_limit(start):
    user = start(max_upload_bytes=100_000)
    rows = b"v\n" + b"1\n" * 49_999
    assert user.run("create", user.sandbox.folder, ("a.csv", rows))["rows"] == 49_999
    for excess in (b"1", b"1" * 1_000_000):
        response = user.upload("create", user.sandbox.folder, ("a.csv", rows + excess))
        assert (response.status_code, "100000 bytes" in response.json()["error"]) == (413, True)
    assert len(user.sandbox.uploads()) == 1
    _until(lambda: not _files(user))


def test_early_response_is_readable_and_closes_the_connection(start):
    user = start(max_upload_bytes=1000)
    with _connection(user) as client:
        client.sendall(_head(user, "multipart/form-data; boundary=b", 2**40))
        response = client.makefile("rb").read()
    assert response.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in response


@pytest.mark.parametrize(
    "sent", [b"", b"--b\r\nContent-Disposition: form-data; name=dataset; filename=a.csv\r\n\r\na,b"]
)
def test_a_client_that_disconnects_is_one_line_in_the_log(user, caplog, sent):
    caplog.set_level("INFO")
    with _connection(user) as client:
        client.sendall(_head(user, "multipart/form-data; boundary=b", 1000) + sent)
        _until(lambda: _files(user) or not sent)
    _until(lambda: caplog.records)
    assert [(r.levelname, r.exc_info) for r in caplog.records] == [("INFO", None)]
    assert "client disconnected" in caplog.text
    assert _nothing_accepted(user)


def test_upload_rate(start):
    user = start(uploads_per_minute=120)
    first, second = user.sandbox.add_database(), user.sandbox.add_database()
    assert user.upload("append", first, ("a.csv", CSV)).status_code == 200
    rejected = user.upload("append", second, ("a.csv", CSV))
    assert (rejected.status_code, rejected.headers["Retry-After"]) == (429, "1")
    time.sleep(0.5)
    assert user.upload("append", second, ("a.csv", CSV)).status_code == 200


def _connection(user) -> socket.socket:
    host, port = user.sandbox.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def _head(user, content_type: str, length: int) -> bytes:
    return (
        f"POST /api/v2/upload/create/{user.sandbox.folder} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"token: {user.sandbox.token}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def _post(user, body: bytes, content_type: str = "multipart/form-data; boundary=b") -> requests.Response:
    url = f"{user.sandbox.url}/api/v2/upload/create/{user.sandbox.folder}"
    headers = {"token": user.sandbox.token, "Content-Type": content_type}
    return post(url, headers=headers, data=body, timeout=5)


def _files(user) -> list[Path]:
    return list(user.state_dir.joinpath("uploads").iterdir())


def _nothing_accepted(user) -> bool:
    return not user.sandbox.uploads() and not user.sandbox.jobs() and not _files(user)


def _until(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
