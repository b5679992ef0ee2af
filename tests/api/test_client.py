"""Uploads and polls over real sockets, to servers that behave and to servers that do not."""

from __future__ import annotations

import gzip
import io
import threading
import time
from contextlib import nullcontext
from typing import Any

import certifi
import pytest

from datatile_provider.api import client as client_module
from datatile_provider.api import errors
from datatile_provider.api.client import DatatileClient
from datatile_provider.api.dataset import Dataset
from datatile_provider.api.models import Action, Job, Upload
from datatile_provider.api.responses import MAX_RESPONSE_BYTES
from datatile_provider.api.states import JobState
from datatile_provider.sandbox import Sandbox
from tests.support.clients import (
    GARBAGE,
    MIB,
    Proxy,
    dataset_of_size,
    drip,
    drip_head,
    endless,
    settings_for,
    upload_of,
)
from tests.support.rawserver import TOKEN, Peer, RawServer
from tests.support.reading import one_line
from tests.support.scripted import scripted
from tests.support.waiting import until


def send(url: str, size: int = 100, action: Action = Action.APPEND, **kwargs: object) -> Job:
    dataset = dataset_of_size(size)
    return DatatileClient(settings_for(url, **kwargs)).upload(upload_of(dataset, action), dataset)


def poll_job(url: str, job_id: str = "7", **kwargs: object) -> Job:
    return DatatileClient(settings_for(url, **kwargs)).get_job(job_id)


def failure(call, *arguments: object, **kwargs: object) -> errors.DatatileError:
    with pytest.raises(errors.DatatileError) as caught:
        call(*arguments, **kwargs)
    assert TOKEN not in one_line(caught.value)
    return caught.value


def test_requests_of_an_upload_and_a_poll():
    seen = []

    def handle(peer: Peer) -> None:
        seen.append(peer.request())
        peer.respond(200, b'{"job_id": 7, "status": "queued"}')

    with RawServer(handle) as server:
        job = send(server.url + "/base")
        poll_job(server.url)
    assert (job.id, job.state) == ("7", JobState.QUEUED)
    (head, body), (poll_head, _) = seen
    assert head.startswith("POST /base/api/v2/upload/append/abc123 HTTP/1.1\r\n")
    assert f"\r\ntoken: {TOKEN}" in head
    assert "transfer-encoding" not in head.lower()
    assert body.count(b'name="dataset"') == 1
    assert poll_head.startswith("GET /api/v2/jobs/7 HTTP/1.1\r\n")
    assert f"\r\ntoken: {TOKEN}" in poll_head


def test_against_the_sandbox():
    with Sandbox(token=TOKEN, processing_seconds=0.05) as sandbox:
        content = b"a,b\n1,2\n"
        file = Dataset("w.csv", len(content), "1", "here", lambda: nullcontext(io.BytesIO(content)), lambda: "1")
        client = DatatileClient(settings_for(sandbox.url))
        upload = Upload(Action.CREATE, sandbox.folder, file.name, file.size)
        job = client.upload(upload, file)
        until(lambda: client.get_job(job.id).state.finished, "the job has finished")
        assert client.get_job(job.id).state is JobState.SUCCEEDED
        assert [(u["filename"], u["size"]) for u in sandbox.uploads()] == [("w.csv", len(content))]
        client.probe()
        assert isinstance(failure(client.upload, upload_of(file), file), errors.NotFoundError)
        assert isinstance(failure(client.get_job, "nope"), errors.NotFoundError)
        sandbox.regenerate_token()
        assert isinstance(failure(client.get_job, job.id), errors.TokenRefusedError)
        assert len(sandbox.uploads()) == 1


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("polite", [False, True], ids=["closes at once", "reads on"])
@pytest.mark.parametrize(
    ("status", "kind"), [(413, errors.FileTooLargeError), (401, errors.TokenRefusedError), (409, errors.TransientError)]
)
def test_early_response_is_read(certificates, tls, polite, status, kind):
    """A server may respond before it has the whole body, and close the connection while the client still sends."""

    def handle(peer: Peer) -> None:
        peer.head()
        peer.read(100_000)
        peer.respond(status, b'{"error": "said early"}', "Connection: close")
        if polite:
            peer.drain()
        else:
            # An immediate reset could discard the response before it leaves the server's send buffer.
            time.sleep(0.2)

    with RawServer(handle, certificates.server_context() if tls else None) as server:
        error = failure(send, server.url, 32 * MIB, verify=str(certificates.authority))
    assert isinstance(error, kind)
    assert error.status == status
    assert "said early" in one_line(error)


@pytest.mark.parametrize("body", [b'{"job_id": "1"}', b'{"errors": ["no"]}', b""])
def test_a_success_before_the_last_byte_leaves_the_outcome_unknown(body):
    """There is no job to wait for, and a resend would get the same response."""

    def handle(peer: Peer) -> None:
        peer.head()
        peer.respond(200, body, "Connection: close")

    with RawServer(handle) as server:
        error = failure(send, server.url, 32 * MIB)
    assert type(error) is errors.OutcomeUnknownError
    assert "before the whole file was sent" in one_line(error)


INTERIM = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"


@pytest.mark.parametrize("interim", [INTERIM, INTERIM * 3, b"HTTP/1.1 100 Continue\r\n\r\n" + INTERIM])
def test_interim_responses_are_skipped(interim):
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(interim)
        peer.respond(200, b'{"job_id": "7", "status": "queued"}')

    with RawServer(handle) as server:
        assert send(server.url).id == "7"
        assert poll_job(server.url).state is JobState.QUEUED


def test_endless_interim_responses_time_out():
    def handle(peer: Peer) -> None:
        peer.request()
        while True:
            peer.send(INTERIM)
            time.sleep(0.01)

    with RawServer(handle) as server:
        started = time.monotonic()
        assert isinstance(failure(send, server.url, timeout=0.3), errors.OutcomeUnknownError)
        assert time.monotonic() - started < 3


def test_an_interim_response_is_not_a_final_response():
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(INTERIM)

    with RawServer(handle) as server:
        assert isinstance(failure(send, server.url), errors.OutcomeUnknownError)


@pytest.mark.parametrize("status", [201, 202, 303, 302])
@pytest.mark.parametrize("location", ["/api/v2/jobs/j-1", "{url}/api/v2/jobs/j-1", "../../jobs/j-1"])
def test_a_job_id_in_the_location_is_used(status, location):
    def handle(peer: Peer) -> None:
        peer.request()
        peer.respond(status, b"", f"Location: {where}")

    with RawServer(handle) as server:
        where = location.format(url=server.url)
        assert send(server.url).id == "j-1"


@pytest.mark.parametrize("location", ["/jobs/j-1", "http://127.0.0.2/api/v2/jobs/j-1", "/api/v2/jobs/", "/login", ""])
@pytest.mark.parametrize("status", [201, 302, 303])
def test_a_location_that_is_not_a_job_url_leaves_the_outcome_unknown(status, location):
    with RawServer(scripted((status, b"", f"Location: {location}"))) as server:
        assert isinstance(failure(send, server.url), errors.OutcomeUnknownError)


def test_connection_refused():
    with RawServer(Peer.reset) as server:
        url = server.url
    for call in (send, poll_job):
        error = failure(call, url)
        assert type(error) is errors.ServerUnreachableError
        assert "Connection refused" in one_line(error)
        assert url in one_line(error)


@pytest.mark.parametrize("host", ["datatile.invalid", "xn--.invalid", "-"])
def test_host_that_does_not_resolve(host):
    for call in (send, poll_job):
        error = failure(call, f"https://{host}")
        assert type(error) is errors.ServerUnreachableError
        assert host in one_line(error)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_reset_in_mid_body(certificates, tls):
    def handle(peer: Peer) -> None:
        peer.head()
        peer.read(100_000)
        peer.reset()

    with RawServer(handle, certificates.server_context() if tls else None) as server:
        error = failure(send, server.url, 32 * MIB, verify=str(certificates.authority))
    assert type(error) is errors.ServerUnreachableError
    assert "bytes were sent, so the file was not accepted" in one_line(error)
    sent, size = (int(word.replace(",", "")) for word in str(error).split("\n")[-2].split()[0:3:2])
    assert sent < size
    assert 32 * MIB < size < 32 * MIB + 1_000


def test_close_in_mid_body():
    def handle(peer: Peer) -> None:
        peer.head()
        peer.read(100_000)

    with RawServer(handle) as server:
        assert type(failure(send, server.url, 32 * MIB)) is errors.ServerUnreachableError


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("end", [Peer.reset, lambda peer: None, lambda peer: peer.send(b"HTTP/1.1 2")])
def test_connection_lost_after_the_last_byte(certificates, tls, end):
    def handle(peer: Peer) -> None:
        peer.request()
        end(peer)

    with RawServer(handle, certificates.server_context() if tls else None) as server:
        error = failure(send, server.url, 2 * MIB, verify=str(certificates.authority))
    assert isinstance(error, errors.OutcomeUnknownError)
    assert "The whole file was sent" in one_line(error)
    assert f"{server.url}/" in one_line(error)


def test_no_response_after_the_last_byte():
    with RawServer(Peer.drain) as server:
        error = failure(send, server.url, timeout=0.3)
    assert isinstance(error, errors.OutcomeUnknownError)
    assert "timed out" in one_line(error)


@pytest.mark.parametrize("status", [500, 502, 504])
def test_server_error_after_the_last_byte(status):
    with RawServer(scripted((status,))) as server:
        assert isinstance(failure(send, server.url), errors.OutcomeUnknownError)
        assert type(failure(poll_job, server.url)) is errors.ServerError


def test_server_that_stops_reading():
    stopped = threading.Event()

    def handle(peer: Peer) -> None:
        peer.head()
        stopped.wait(8)

    with RawServer(handle) as server:
        started = time.monotonic()
        error = failure(send, server.url, 32 * MIB, timeout=0.5)
        stopped.set()
    assert type(error) is errors.ServerUnreachableError
    assert time.monotonic() - started < 5


def test_slow_connection_is_not_a_failure(monkeypatch):
    """Sending one block takes longer than the connect timeout."""
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT", 0.2)
    size = 12 * MIB

    def handle(peer: Peer) -> None:
        peer.head()
        left = size
        for _ in range(3):
            time.sleep(0.4)
            peer.read(MIB // 2)
            left -= MIB // 2
        peer.read(left)
        peer.respond(200, b'{"job_id": "slow"}')

    with RawServer(handle) as server:
        assert send(server.url, size).id == "slow"


@pytest.mark.parametrize("call", [send, poll_job])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(call, status):
    with RawServer(scripted((200, b'{"id": 1, "status": "done"}'))) as elsewhere:
        location = f"Location: {elsewhere.url}/?token={TOKEN}"
        with RawServer(scripted((status, b"", location))) as server:
            error = failure(call, server.url)
            assert server.connections == 1
        assert elsewhere.connections == 0
    # A server that responds with 301, 302 or 303 may have processed the request.
    unknown = call is send and status < 304
    assert type(error) is (errors.OutcomeUnknownError if unknown else errors.RedirectedError)
    assert unknown or elsewhere.url in one_line(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_the_same_path_elsewhere_accepted_nothing(status):
    def handle(peer: Peer) -> None:
        head, _ = peer.request()
        peer.respond(status, b"", f"Location: https://elsewhere.invalid{head.split()[1]}")

    with RawServer(handle) as server:
        error = failure(send, server.url)
    assert type(error) is errors.RedirectedError
    assert "Put the server's final address" in one_line(error)


def test_large_redirect_is_not_read_whole():
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(f"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        while True:
            peer.send(bytes(MIB))

    with RawServer(handle) as server:
        assert type(failure(poll_job, server.url)) is errors.RedirectedError


def test_netrc_is_not_sent(netrc):
    heads: list[str] = []
    with RawServer(scripted((200, b'{"job_id": 7, "status": "queued"}'), requests=heads)) as server:
        send(server.url)
        poll_job(server.url)
    assert len(heads) == 2
    assert not any("authorization" in head.lower() for head in heads)


def test_cookies_are_not_kept():
    heads: list[str] = []
    response = (200, b'{"job_id": 1, "status": "queued"}', "Set-Cookie: a=b; Path=/")
    with RawServer(scripted(response, requests=heads)) as server:
        client = DatatileClient(settings_for(server.url))
        client.get_job("1")
        client.get_job("1")
    assert len(heads) == 2
    assert not any("cookie" in head.lower() for head in heads)


def _job_over_tls(peer: Peer) -> None:
    peer.request()
    peer.respond(200, b'{"job_id": 7, "status": "running"}')


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_untrusted_certificate(certificates):
    with RawServer(_job_over_tls, certificates.server_context()) as server:
        for call in (send, poll_job):
            error = failure(call, server.url)
            assert isinstance(error, errors.UntrustedCertificateError)
            assert "Set verify" in one_line(error)
            assert "certificate verify failed" in one_line(error)
        assert poll_job(server.url, verify=False).state is JobState.RUNNING


def test_certificate_of_another_host(certificates):
    with RawServer(_job_over_tls, certificates.server_context()) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        error = failure(poll_job, url, verify=str(certificates.authority))
    assert isinstance(error, errors.UntrustedCertificateError)
    assert "localhost" in one_line(error)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_bundle_of_the_connection_and_of_the_environment(certificates, monkeypatch, name):
    with RawServer(_job_over_tls, certificates.server_context()) as server:
        monkeypatch.setenv(name, certifi.where())
        for call in (send, poll_job):
            assert call(server.url, verify=str(certificates.authority)).state is JobState.RUNNING
            assert isinstance(failure(call, server.url), errors.UntrustedCertificateError)
        monkeypatch.setenv(name, str(certificates.authority))
        assert poll_job(server.url).state is JobState.RUNNING
        monkeypatch.setenv(name, "/no/such/bundle")
        assert "/no/such/bundle" in one_line(failure(poll_job, server.url))


@pytest.mark.parametrize("response", GARBAGE.values(), ids=GARBAGE)
def test_garbage(response):
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(response)

    with RawServer(handle) as server:
        assert isinstance(failure(poll_job, server.url), (errors.TransientError, errors.PermanentError))
        assert isinstance(
            failure(send, server.url),
            (errors.OutcomeUnknownError, errors.PermanentError, errors.RateLimitedError, errors.ServerBusyError),
        )


def test_response_is_read_up_to_a_limit():
    sent: list[int] = []
    with RawServer(endless(sent)) as server:
        error = failure(poll_job, server.url)
        assert server.wait_until_left()
    assert (type(error), error.status) == (errors.ServerError, 500)
    assert len(sent) < 100
    assert len(str(error)) < 2_000


def test_compressed_response_is_decompressed_up_to_a_limit():
    bomb = gzip.compress(b" " * (64 * MIB))
    with RawServer(scripted((200, bomb, "Content-Encoding: gzip"))) as server:
        assert isinstance(failure(poll_job, server.url), errors.UnexpectedResponseError)
    assert len(bomb) < MAX_RESPONSE_BYTES


@pytest.mark.parametrize("how", [drip, drip_head])
def test_slow_drip_times_out(how):
    with RawServer(how) as server:
        started = time.monotonic()
        assert isinstance(failure(poll_job, server.url, timeout=0.5), errors.TransientError)
        assert 0.9 < time.monotonic() - started < 3


def test_proxy():
    proxy = Proxy()
    with RawServer(proxy) as server:
        proxies = {"http": server.url}
        assert send("http://datatile.invalid", proxies=proxies).id == "by-proxy"
        assert poll_job("http://datatile.invalid:81/base", proxies=proxies).state is JobState.SUCCEEDED
    assert [head.split(" HTTP")[0] for head in proxy.heads] == [
        "POST http://datatile.invalid/api/v2/upload/append/abc123",
        "GET http://datatile.invalid:81/base/api/v2/jobs/7",
    ]


@pytest.mark.parametrize("status", [200, 413])
def test_tunnel_through_a_proxy(certificates, status):
    """The token and the file go through the tunnel only, and an early response is read there too."""

    def handle(peer: Peer) -> None:
        if status == 200:
            peer.request()
        else:
            peer.head()
            peer.read(100_000)
        peer.respond(status, b'{"job_id": "inside"}', "Connection: close")

    proxy = Proxy()
    with RawServer(handle, certificates.server_context()) as server, RawServer(proxy) as middle:
        kwargs: dict[str, Any] = {"proxies": {"https": middle.url}, "verify": str(certificates.authority)}
        if status == 200:
            assert send(server.url, 2 * MIB, **kwargs).id == "inside"
        else:
            assert isinstance(failure(send, server.url, 32 * MIB, **kwargs), errors.FileTooLargeError)
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT {server.address} HTTP/1.")
    assert TOKEN not in head


def test_proxy_that_rejects_the_tunnel(certificates):
    with RawServer(scripted((403,))) as server:
        error = failure(send, "https://datatile.invalid", proxies={"https": server.url})
    assert type(error) is errors.ServerUnreachableError
    assert "403" in one_line(error)


def test_no_thread_is_left_running():
    with RawServer(scripted((200, b'{"id": 7, "status": "queued"}'))) as server:
        send(server.url)
        poll_job(server.url)
        before = threading.active_count()
        for _ in range(5):
            poll_job(server.url, timeout=60.0)
        assert server.wait_until_left()
        until(lambda: threading.active_count() <= before, "no thread is left")
