"""Codebooks through an Airflow connection, with a sandbox and with servers that misbehave."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api import errors, parsing, responses
from datatile_provider.api.models import ServerConfig
from datatile_provider.api.responses import Response
from tests.support.rawserver import TOKEN, GoneError, Peer, RawServer

PATHS = {"codebook_export_path": "kodebuch/{hash}/lesen", "codebook_import_path": "{api_path}/kodebuch/{hash}/"}
EXCEL = b"PK\3\4 a workbook"


@pytest.fixture
def codebook(tmp_path: Path) -> Path:
    """A codebook that declares one variable."""
    path = tmp_path / "tracker.dtcb.xlsx"
    book = openpyxl.Workbook()
    book.worksheets[0].title = "variables"
    for row in (["name", "type", "label"], ["vote", "CAT", "Vote"]):
        book.worksheets[0].append(row)
    values = book.create_sheet("values")
    values.append(["variable", "value", "label"])
    values.append(["vote", 1, "Yes"])
    book.save(path)
    return path


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {sheet.title: list(sheet.values) for sheet in openpyxl.load_workbook(path).worksheets}


def answers(*responses_: tuple[int, bytes]) -> Callable[[Peer], None]:
    """Return a server that sends these responses, one to each request."""
    left = list(responses_)

    def handle(peer: Peer) -> None:
        peer.request()
        peer.respond(*left.pop(0))

    return handle


def test_import_and_export(sandbox, hook, codebook, tmp_path):
    database = sandbox.add_database("Tracker", variables=["vote", "age"])
    hook.import_codebook(database, codebook)
    hook.import_codebook(database, codebook.as_uri())
    path = tmp_path / "exported.dtcb.xlsx"
    path.write_bytes(b"an old one")
    hook.get_codebook(database, path)
    found = rows(path)
    assert found["variables"] == [("name", "type", "label"), ("vote", "CAT", "Vote"), ("age", None, None)]
    assert found["values"] == [("variable", "value", "label"), ("vote", "1", "Yes")]
    hook.import_codebook(database, path)
    again = tmp_path / "again.dtcb.xlsx"
    hook.get_codebook(database, str(again))
    assert rows(again) == found
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.dtcb.xlsx", path.name, codebook.name]


def test_requests(connect, codebook, tmp_path):
    heads = []

    def handle(peer: Peer) -> None:
        head, body = peer.request()
        heads.append((head.split("\r\n")[0], f"token: {TOKEN}" in head, b'name="datei"; filename="tracker' in body))
        peer.respond(200, EXCEL if head.startswith("GET") else b"")

    with RawServer(handle) as server:
        hook = connect(server.url, extra={**PATHS, "codebook_field": "datei", "api_path": "rest"})
        hook.get_codebook("0f3a", tmp_path / "a")
        hook.import_codebook("0f3a", codebook)
    assert heads == [
        ("GET /kodebuch/0f3a/lesen HTTP/1.1", True, False),
        ("POST /rest/kodebuch/0f3a/ HTTP/1.1", True, True),
    ]
    usual = ServerConfig("https://h")
    assert usual.codebook_export_url("0f3a") == "https://h/api/v2/projects/0f3a/api/codebook/export-v2/"
    assert usual.codebook_import_url("0f3a") == "https://h/api/v2/projects/0f3a/api/codebook/import-v2/"


def test_rejections_of_the_sandbox(sandbox, hook, codebook, tmp_path):
    database = sandbox.add_database()
    path = tmp_path / "a"
    for call in (lambda: hook.get_codebook("0f3a", path), lambda: hook.import_codebook("0f3a", codebook)):
        with pytest.raises(errors.NotFoundError, match="The server knows no such database") as raised:
            call()
        assert "codebook_export_path" in raised.value.hint
    codebook.write_bytes(b"PK\3\4")
    with pytest.raises(errors.PermanentError, match="The codebook cannot be read: it is not an Excel"):
        hook.import_codebook(database, codebook)
    sandbox.set_permission(database, False)
    with pytest.raises(errors.RoleMissingError):
        hook.import_codebook(database, codebook)
    sandbox.regenerate_token()
    for call in (lambda: hook.get_codebook(database, path), lambda: hook.import_codebook(database, codebook)):
        with pytest.raises(errors.TokenRefusedError):
            call()
    assert not path.exists()


@pytest.mark.parametrize("status", [*range(300, 306), 307, 308, *range(400, 432), *range(500, 506)])
def test_any_other_status_is_an_error(connect, codebook, tmp_path, status):
    transient = status >= 500 or status in (408, 409, 423, 425, 429)
    with RawServer(answers((status, b'{"error": "no"}'), (status, b'{"error": "no"}'))) as server:
        hook = connect(server.url)
        for call in (
            lambda: hook.get_codebook("0f3a", tmp_path / "a"),
            lambda: hook.import_codebook("0f3a", codebook),
        ):
            with pytest.raises(errors.TransientError if transient else errors.PermanentError) as raised:
                call()
            assert raised.value.status == status
            # A 304 has no body.
            assert raised.value.server_message == ("" if status == 304 else "no")
            assert "job" not in str(raised.value).replace("job_path", "")
    assert [file.name for file in tmp_path.iterdir()] == [codebook.name]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "The response is not an Excel file"),
        (b"<html><h1>Log in</h1></html>", "The response is not an Excel file"),
        (b'{"error": "not now"}', "The response is not an Excel file"),
    ],
)
def test_an_export_that_is_no_workbook_leaves_the_file(connect, tmp_path, body, what):
    path = tmp_path / "a"
    path.write_bytes(b"as it was")
    with (
        RawServer(answers((200, body))) as server,
        pytest.raises(errors.UnexpectedResponseError, match=what) as raised,
    ):
        connect(server.url).get_codebook("0f3a", path)
    assert raised.value.subject == "codebook of 0f3a"
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (b"as it was", 1)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"<html><h1>Log in</h1></html>", "The response does not show whether the codebook was imported"),
        (b"[]", "The response does not show whether the codebook was imported"),
        (b'{"success": false}', "The server returned success with an error inside"),
        (b'{"status": 500}', "The server returned success with an error inside"),
        (b'{"status": "failed"}', "The server returned success with the status 'failed'"),
    ],
)
def test_an_import_that_is_not_clearly_a_success(connect, codebook, body, what):
    with RawServer(answers((200, body))) as server, pytest.raises(errors.UnexpectedResponseError, match=what):
        connect(server.url).import_codebook("0f3a", codebook)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"variables": 3}', b'{"status": "ok"}'])
def test_an_import_that_succeeds(connect, codebook, body):
    with RawServer(answers((201, body))) as server:
        connect(server.url).import_codebook("0f3a", codebook)


@given(st.integers(200, 299), st.binary(max_size=60) | st.sampled_from([b"PK\3\4", b"{}", b'{"status": "done"}']))
def test_any_response_is_read_or_an_error(status, body):
    server, response = ServerConfig("https://h"), Response(status, body)
    try:
        parsing.read_codebook(server, "codebook", response, len(body))
        exported = True
    except errors.UnexpectedResponseError:
        exported = False
    assert exported == body.startswith(b"PK\3\4")
    try:
        parsing.read_codebook_import(server, "codebook", response)
        imported = True
    except errors.UnexpectedResponseError:
        imported = False
    assert imported == (not body.strip() or isinstance(responses.parse(body), dict))


def test_a_connection_that_breaks(connect, codebook, tmp_path):
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + EXCEL)
        peer.reset()

    with RawServer(handle) as server:
        hook = connect(server.url)
        with pytest.raises(errors.ServerUnreachableError):
            hook.get_codebook("0f3a", tmp_path / "a")
    with pytest.raises(errors.ServerUnreachableError):
        hook.import_codebook("0f3a", codebook)
    assert [file.name for file in tmp_path.iterdir()] == [codebook.name]


def test_the_largest_export_in_flat_memory(connect, tmp_path, monkeypatch):
    size = 24 << 20
    monkeypatch.setattr("datatile_provider.api.client.MAX_CODEBOOK_BYTES", size)
    monkeypatch.setattr("datatile_provider.api.parsing.MAX_CODEBOOK_BYTES", size)
    longer = iter((0, 1))

    def handle(peer: Peer) -> None:
        peer.request()
        left = size - len(EXCEL) + next(longer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (left + len(EXCEL), EXCEL))
        try:
            peer.send(bytes(left))
        except OSError as e:
            raise GoneError from e

    path = tmp_path / "a"
    with RawServer(handle) as server:
        hook = connect(server.url)
        hook.get_codebook("0f3a", path)
        assert path.stat().st_size == size
        path.unlink()
        with pytest.raises(errors.UnexpectedResponseError, match=f"The response has more than {size:,} bytes"):
            hook.get_codebook("0f3a", path)
    assert not list(tmp_path.iterdir())


def test_memory_of_an_export(connect, tmp_path):
    size = 16 << 20
    body = EXCEL + bytes(size)
    sending = memoryview(body)

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        peer.sock.sendall(sending)

    with RawServer(handle) as server:
        hook = connect(server.url)
        hook.get_codebook("0f3a", tmp_path / "first")
        tracemalloc.start()
        hook.get_codebook("0f3a", tmp_path / "second")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # The first megabyte is kept for messages, and copied a few times.
    assert peak < size / 2


@pytest.mark.parametrize("hash_", ["", "../x", "a b", "a/b"])
def test_wrong_hashes_are_not_sent(hook, codebook, tmp_path, hash_):
    with pytest.raises(errors.InvalidInputError):
        hook.get_codebook(hash_, tmp_path / "a")
    with pytest.raises(errors.InvalidInputError):
        hook.import_codebook(hash_, codebook)


def test_files_that_cannot_be_used(sandbox, hook, tmp_path):
    database = sandbox.add_database("Tracker", variables=["vote"])
    with pytest.raises(errors.InvalidInputError, match="No such file"):
        hook.get_codebook(database, tmp_path / "none" / "a")
    (tmp_path / "folder").mkdir()
    with pytest.raises(errors.InvalidInputError, match="The codebook could not be written to"):
        hook.get_codebook(database, tmp_path / "folder")
    with pytest.raises(errors.InvalidInputError):
        hook.import_codebook(database, tmp_path / "none.dtcb.xlsx")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_an_import_over_the_limit(connect, codebook):
    from datatile_provider.sandbox import Sandbox

    with Sandbox(max_upload_bytes=1000) as small:
        with pytest.raises(errors.FileTooLargeError, match="The codebook is over the server's size limit"):
            connect(small).import_codebook(small.add_database(), codebook)
        assert json.dumps(small.state())


def test_the_exported_file_is_a_whole_zip_archive(sandbox, hook, tmp_path):
    hook.get_codebook(sandbox.add_database("T", variables=["=1+1", "<b>"]), tmp_path / "a.xlsx")
    assert zipfile.ZipFile(io.BytesIO((tmp_path / "a.xlsx").read_bytes())).testzip() is None
    assert [row[0] for row in rows(tmp_path / "a.xlsx")["variables"]] == ["name", "=1+1", "<b>"]
