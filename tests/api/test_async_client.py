"""Polls of the asynchronous client over real sockets: it shares sessions, and agrees with the synchronous client."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import certifi
import pytest

from datatile_provider.api import async_client, concurrency, errors, poll_queue
from datatile_provider.api.async_client import connected
from datatile_provider.api.client import DatatileClient
from datatile_provider.api.models import Job
from datatile_provider.api.settings import Settings
from datatile_provider.api.states import JobState
from datatile_provider.sandbox import Sandbox
from tests.support.clients import GARBAGE, Proxy, drip, drip_head, endless, settings_for
from tests.support.rawserver import TOKEN, Peer, RawServer
from tests.support.reading import one_line
from tests.support.scripted import scripted
from tests.support.waiting import until


async def poll_job(url: str, job_id: str = "7", **kwargs: object) -> Job:
    async with connected(settings_for(url, **kwargs)) as client:
        return await client.get_job(job_id)


async def failure(url: str, job_id: str = "7", **kwargs: object) -> errors.DatatileError:
    with pytest.raises(errors.DatatileError) as caught:
        await poll_job(url, job_id, **kwargs)
    assert TOKEN not in one_line(caught.value)
    return caught.value


RUNNING = b'{"status": "running"}'


async def test_request_of_a_poll():
    heads: list[str] = []
    with RawServer(scripted((200, RUNNING), requests=heads)) as server:
        assert (await poll_job(server.url + "/base", "a%2e:ö")).state is JobState.RUNNING
    (head,) = heads
    assert head.startswith("GET /base/api/v2/jobs/a%252e%3A%C3%B6 HTTP/1.1\r\n")
    assert f"\r\ntoken: {TOKEN}" in head


async def test_against_the_sandbox():
    with Sandbox(token=TOKEN) as sandbox:
        assert isinstance(await failure(sandbox.url, "nope"), errors.NotFoundError)
        sandbox.regenerate_token()
        assert isinstance(await failure(sandbox.url, "nope"), errors.TokenRefusedError)


async def test_fifty_waits_share_one_session():
    with RawServer(scripted((200, RUNNING), delay=0.01)) as server:
        settings = settings_for(server.url)

        async def wait(job_id: str) -> None:
            async with connected(settings) as client:
                for _ in range(3):
                    assert (await client.get_job(job_id)).state is JobState.RUNNING

        await asyncio.gather(*(wait(str(number)) for number in range(50)))
        assert 1 < server.connections <= 8
        assert await asyncio.to_thread(server.wait_until_left)


async def test_session_is_closed_when_the_last_leaves():
    with RawServer(scripted((200, RUNNING))) as server:
        settings = settings_for(server.url)
        async with connected(settings) as first:
            await first.get_job("7")
            async with connected(settings) as second:
                await second.get_job("7")
            await first.get_job("7")
            assert (server.connections, server.open_connections) == (1, 1)
        assert await asyncio.to_thread(server.wait_until_left)
        await poll_job(server.url)
        assert server.connections == 2


async def test_session_is_closed_after_a_failure_and_a_cancellation():
    with RawServer(Peer.drain) as server:
        assert isinstance(await failure(server.url, timeout=0.2), errors.TransientError)
        waiting = asyncio.create_task(poll_job(server.url))
        while server.connections < 2:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await asyncio.to_thread(server.wait_until_left)


async def test_waits_with_different_tokens_do_not_mix():
    heads: list[str] = []
    with RawServer(scripted((200, RUNNING), requests=heads)) as server:
        one, two = settings_for(server.url), dataclasses.replace(settings_for(server.url), token="another-token")
        async with connected(one) as first, connected(two) as second:
            await first.get_job("1")
            await second.get_job("2")
    assert [("another-token" in head, TOKEN in head) for head in heads] == [(False, True), (True, False)]


async def test_waits_for_one_job_with_different_tokens_share_no_poll():
    """The second team's token may not see the job: the response to the first one's must not reach it."""
    heads: list[str] = []

    def handle(peer: Peer) -> None:
        while True:
            head, _ = peer.request()
            heads.append(head)
            time.sleep(0.05)
            peer.respond(*((403, b"{}") if "another-token" in head else (200, RUNNING)))

    with RawServer(handle) as server:
        one, two = settings_for(server.url), dataclasses.replace(settings_for(server.url), token="another-token")

        async def wait(settings: Settings) -> list[object]:
            async with connected(settings) as client:
                return await asyncio.gather(
                    *(client.get_job("7", max_age=60) for _ in range(3)), client.get_job("7"), return_exceptions=True
                )

        for _ in range(5):
            first, second = await asyncio.gather(wait(one), wait(two))
            assert {job.state for job in first if isinstance(job, Job)} == {JobState.RUNNING}
            assert all(isinstance(job, Job) for job in first)
            assert {type(error) for error in second} == {errors.RoleMissingError}
    for head in heads:
        assert head.count("\r\ntoken: ") == 1
        assert ("another-token" in head) != (TOKEN in head)
    assert {"another-token" in head for head in heads} == {True, False}


async def test_connections_follow_the_need_up_to_the_limit():
    with RawServer(scripted((200, RUNNING), delay=0.2)) as server:
        settings = settings_for(server.url, max_connections=30)

        async def wait(number: int) -> float:
            async with connected(settings) as client:
                await client.get_job(str(number))
                return client.queued[0]

        async with connected(settings) as first:
            await first.get_job("7")
            assert server.connections == 1
            started = time.monotonic()
            queued = await asyncio.gather(*(wait(number) for number in range(200)))
            # Eight connections would take 5 s, and 30 from the start 1.4 s.
            assert 1.3 < time.monotonic() - started < 3
            assert 16 < server.connections <= 30
            assert 1 < max(queued) < 3
            assert first.queued[1] == "all 30 connections are in use (max_connections)"


async def test_a_limit_that_was_changed_is_used_by_new_waits():
    with RawServer(scripted((200, RUNNING))) as server:
        async with connected(settings_for(server.url)) as one:
            await one.get_job("7")
            await poll_job(server.url, max_connections=2)
            assert server.connections == 2


async def test_no_poll_but_a_last_one_is_sent_while_the_server_asks_for_a_pause():
    responses = [(429, b"{}", "Retry-After: 2")] * concurrency.IN_A_ROW
    heads: list[str] = []
    with RawServer(scripted(*responses, (200, RUNNING), requests=heads)) as server:
        settings = settings_for(server.url)
        async with connected(settings) as one, connected(settings) as two:
            for _ in responses:
                with pytest.raises(errors.RateLimitedError):
                    await one.get_job("7")
            started = time.monotonic()
            paused = asyncio.create_task(one.get_job("8"))
            await asyncio.sleep(0.2)
            assert len(heads) == concurrency.IN_A_ROW
            assert "429" in one.queued[1]
            await two.get_job("9", left=0.1)
            assert time.monotonic() - started < 1
            # It succeeded, but the server asked for this time.
            assert (await paused).state is JobState.RUNNING
            assert 1.8 < time.monotonic() - started < 3


async def test_a_lowered_limit_closes_connections():
    def handle(peer: Peer) -> None:
        closes = False
        while not closes:
            closes = "connection: close" in peer.request()[0].lower()
            time.sleep(0.1)
            peer.respond(200, RUNNING)

    with RawServer(handle) as server:
        async with connected(settings_for(server.url)) as client:

            async def poll(number: int) -> None:
                async with connected(settings_for(server.url)) as other:
                    await other.get_job(str(number))

            await asyncio.gather(*map(poll, range(8)))
            assert server.open_connections == 8
            client._shared.queue.limit.surplus = 6
            await asyncio.gather(*map(poll, range(8)))
            assert await asyncio.to_thread(until, lambda: server.open_connections == 2, "connections are closed")


def test_a_session_is_not_reused_in_the_next_event_loop():
    with RawServer(scripted((200, RUNNING))) as server:
        for _ in range(3):
            assert asyncio.run(poll_job(server.url)).state is JobState.RUNNING


async def test_no_connection():
    with RawServer(Peer.reset) as server:
        url = server.url
    error = await failure(url)
    assert type(error) is errors.ServerUnreachableError
    assert url in one_line(error)


@pytest.mark.parametrize("host", ["datatile.invalid", "xn--.invalid", "-"])
async def test_host_that_does_not_resolve(host):
    error = await failure(f"https://{host}")
    assert type(error) is errors.ServerUnreachableError
    assert host in one_line(error)


@pytest.mark.parametrize("handle", [Peer.reset, Peer.head, lambda peer: (peer.head(), peer.reset())])
async def test_connection_lost_before_the_response(handle):
    with RawServer(handle) as server:
        assert type(await failure(server.url)) is errors.ServerUnreachableError


async def test_connection_closed_between_two_polls():
    def handle(peer: Peer) -> None:
        peer.request()
        peer.respond(200, RUNNING)

    with RawServer(handle) as server:
        async with connected(settings_for(server.url)) as client:
            for _ in range(5):
                assert (await client.get_job("7")).state is JobState.RUNNING
                assert await asyncio.to_thread(server.wait_until_left)
        assert server.connections == 5


@pytest.mark.parametrize("how", [Peer.drain, drip, drip_head])
async def test_no_response_and_slow_drip_time_out(how):
    with RawServer(how) as server:
        started = time.monotonic()
        assert isinstance(await failure(server.url, timeout=0.3), errors.TransientError)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("response", GARBAGE.values(), ids=GARBAGE)
async def test_garbage(response):
    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(response)

    with RawServer(handle) as server:
        assert isinstance(await failure(server.url), (errors.TransientError, errors.PermanentError))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(status):
    with RawServer(scripted((200, RUNNING))) as elsewhere:
        location = f"Location: {elsewhere.url}/?token={TOKEN}"
        with RawServer(scripted((status, b"", location))) as server:
            error = await failure(server.url)
        assert elsewhere.connections == 0
    assert type(error) is errors.RedirectedError
    assert elsewhere.url in one_line(error)


async def test_netrc_and_cookies(netrc):
    heads: list[str] = []
    with RawServer(scripted((200, RUNNING, "Set-Cookie: a=b; Path=/"), requests=heads)) as server:
        async with connected(settings_for(server.url)) as client:
            await client.get_job("7")
            await client.get_job("7")
    assert len(heads) == 2
    assert not any("authorization" in head.lower() or "cookie" in head.lower() for head in heads)


async def test_certificates(certificates, monkeypatch, tmp_path):
    verify = str(certificates.authority)
    folder = tmp_path / "authorities"
    folder.mkdir()
    with RawServer(scripted((200, RUNNING)), certificates.server_context()) as server:
        error = await failure(server.url)
        assert isinstance(error, errors.UntrustedCertificateError)
        assert "Set verify" in one_line(error)
        assert (await poll_job(server.url, verify=verify)).state is JobState.RUNNING
        assert (await poll_job(server.url, verify=False)).state is JobState.RUNNING
        assert isinstance(await failure(server.url, verify=str(folder)), errors.UntrustedCertificateError)
        assert isinstance(
            await failure(server.url.replace("127.0.0.1", "localhost"), verify=verify), errors.UntrustedCertificateError
        )
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
        assert (await poll_job(server.url, verify=verify)).state is JobState.RUNNING
        assert isinstance(await failure(server.url), errors.UntrustedCertificateError)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", verify)
        assert (await poll_job(server.url)).state is JobState.RUNNING
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle")
        error = await failure(server.url)
        assert isinstance(error, errors.InvalidInputError)
        assert "/no/such/bundle" in one_line(error)


async def test_response_is_read_up_to_a_limit():
    sent: list[int] = []
    with RawServer(endless(sent)) as server:
        error = await failure(server.url)
        assert await asyncio.to_thread(server.wait_until_left)
    assert (type(error), error.status) == (errors.ServerError, 500)
    assert len(sent) < 100
    assert len(str(error)) < 2_000


async def test_proxy():
    proxy = Proxy()
    with RawServer(proxy) as server:
        found = await poll_job("http://datatile.invalid:81/base", proxies={"http": server.url})
    assert found.state is JobState.SUCCEEDED
    assert [head.split(" HTTP")[0] for head in proxy.heads] == ["GET http://datatile.invalid:81/base/api/v2/jobs/7"]


async def test_tunnel_through_a_proxy(certificates):
    proxy = Proxy()
    with RawServer(scripted((200, RUNNING)), certificates.server_context()) as server, RawServer(proxy) as middle:
        found = await poll_job(server.url, proxies={"https": middle.url}, verify=str(certificates.authority))
    assert found.state is JobState.RUNNING
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT {server.address} HTTP/1.")
    assert TOKEN not in head


@pytest.mark.parametrize("proxies", [{}, {"https": "http://127.0.0.1:1"}], ids=["none given", "another scheme's given"])
@pytest.mark.parametrize("excepted", ["", "datatile.invalid"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_proxy_of_the_environment(monkeypatch, proxies, excepted, scheme):
    """Both clients use the same proxy."""
    proxy = Proxy()
    with RawServer(proxy) as server:
        monkeypatch.setenv("http_proxy", scheme + server.address)
        monkeypatch.setenv("no_proxy", excepted)
        settings = settings_for("http://datatile.invalid", proxies=proxies)
        for call in (
            asyncio.to_thread(DatatileClient(settings).get_job, "7"),
            poll_job(settings.server.url, proxies=proxies),
        ):
            if excepted:
                with pytest.raises(errors.TransientError):
                    await call
            else:
                assert (await call).state is JobState.SUCCEEDED
    assert len(proxy.heads) == (0 if excepted else 2)


async def test_waits_for_one_job_share_a_poll():
    heads: list[str] = []

    with RawServer(scripted((200, RUNNING), requests=heads, delay=0.05)) as server:
        settings = settings_for(server.url)
        async with connected(settings) as one, connected(settings) as other:
            await asyncio.gather(*(client.get_job("7") for client in (one, other, one)))
            assert len(heads) == 1
            # A client never reuses its own last response, however fresh.
            await one.get_job("7", max_age=60)
            assert (len(heads), one.age) == (2, 0)
            await other.get_job("7", max_age=60)
            assert len(heads) == 2
            assert 0 < other.age < 60
            await other.get_job("7", max_age=60)
            assert len(heads) == 3
            await asyncio.sleep(0.1)
            await one.get_job("7", max_age=0.1)
            assert len(heads) == 4
            await one.get_job("8", max_age=60)
            assert len(heads) == 5


async def test_waits_of_two_connections_share_no_poll():
    heads: list[str] = []
    with RawServer(scripted((200, b'{"status": "busy"}'), requests=heads)) as server:
        plain = settings_for(server.url)
        mapped = replace(plain, server=replace(plain.server, status_map={"busy": JobState.RUNNING}))
        async with connected(plain) as one, connected(mapped) as other:
            seen = await asyncio.gather(one.get_job("7", max_age=60), other.get_job("7", max_age=60))
        assert [job.state for job in seen] == [JobState.UNKNOWN, JobState.RUNNING]
        async with connected(plain) as one, connected(replace(plain, token="another")) as other:
            await asyncio.gather(one.get_job("7", max_age=60), other.get_job("7", max_age=60))
        assert len(heads) == 4


async def test_a_failed_poll_is_not_shared_afterwards():
    with RawServer(scripted((500, b""), (200, RUNNING))) as server:
        settings = settings_for(server.url)
        async with connected(settings) as one, connected(settings) as other:
            with pytest.raises(errors.TransientError):
                await one.get_job("7")
            assert (await other.get_job("7", max_age=60)).state is JobState.RUNNING


async def test_a_cancelled_wait_does_not_cancel_a_shared_poll():
    with RawServer(scripted((200, RUNNING), delay=0.3)) as server:
        settings = settings_for(server.url)
        async with connected(settings) as one, connected(settings) as other:
            polls = [asyncio.create_task(client.get_job("7")) for client in (one, other)]
            await asyncio.sleep(0.1)
            polls[0].cancel()
            assert (await polls[1]).state is JobState.RUNNING
            assert polls[0].cancelled()
        assert server.connections == 1


def hanging(polled: list[str]):
    """Return a handler that never responds to polls of "hangs…" jobs; all other jobs are running."""

    def handle(peer: Peer) -> None:
        while True:
            job_id = peer.request()[0].split()[1].rpartition("/")[2]
            polled.append(job_id)
            if job_id.startswith("hangs"):
                peer.drain()
                return
            peer.respond(200, RUNNING)

    return handle


async def test_polls_of_cancelled_waits_are_not_sent():
    polled: list[str] = []
    with RawServer(hanging(polled)) as server:
        settings = settings_for(server.url)

        async def wait(number: int) -> None:
            async with connected(settings) as client:
                await client.get_job(f"hangs-{number}")

        async with connected(settings) as last:
            waits = [asyncio.create_task(wait(number)) for number in range(40)]
            await asyncio.sleep(0.2)
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            started = time.monotonic()
            assert (await last.get_job("7")).state is JobState.RUNNING
            assert time.monotonic() - started < 0.5
            await asyncio.sleep(0.2)
            assert len(polled) == concurrency.FEW + 1


async def test_a_poll_is_sent_again_for_a_wait_that_starts_while_the_last_one_is_cancelled():
    with RawServer(scripted((200, RUNNING), delay=0.2)) as server:
        async with connected(settings_for(server.url)) as one, connected(settings_for(server.url)) as other:
            first = asyncio.create_task(one.get_job("7"))
            await asyncio.sleep(0.1)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert (await other.get_job("7")).state is JobState.RUNNING


async def test_hanging_polls_never_take_the_connections_of_new_ones(monkeypatch):
    monkeypatch.setattr(poll_queue, "SLOW", 0.1)
    monkeypatch.setattr(concurrency, "FEW", 2)
    polled: list[str] = []
    with RawServer(hanging(polled)) as server:
        settings = settings_for(server.url, timeout=20, max_connections=10)

        async def wait(number: int) -> None:
            async with connected(settings) as client:
                while True:
                    with pytest.raises(errors.TransientError):
                        await client.get_job(f"hangs-{number}")

        waits = [asyncio.create_task(wait(number)) for number in range(40)]
        await asyncio.sleep(0.1)
        async with connected(settings) as client:
            for _ in range(3):
                started = time.monotonic()
                await client.get_job("7")
                assert time.monotonic() - started < 2
        assert {f"hangs-{number}" for number in range(40)} < set(polled)
        assert server.open_connections <= 11
        for task in waits:
            task.cancel()
        # Until then, each wait had only transient errors.
        ends = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError}


async def test_a_poll_cancelled_for_others_reports_it(monkeypatch):
    monkeypatch.setattr(poll_queue, "SLOW", 0.2)
    arguments = {"timeout": 20, "max_connections": 2}
    with RawServer(hanging([])) as server:
        polls = [asyncio.create_task(failure(server.url, f"hangs-{number}", **arguments)) for number in range(3)]
        done, _ = await asyncio.wait(polls, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        (error,) = (task.result() for task in done)
        assert type(error) is errors.ServerUnreachableError
        assert re.search(r"cancelled after 0\.[2-9] s, as other polls needed the connection", str(error))
        for task in polls:
            task.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


async def test_the_last_poll_of_a_wait_goes_before_the_others(monkeypatch):
    monkeypatch.setattr(poll_queue, "SLOW", 0.2)
    monkeypatch.setattr(concurrency, "FEW", 1)
    polled: list[str] = []
    with RawServer(hanging(polled)) as server:
        settings = settings_for(server.url)
        polls = [asyncio.create_task(failure(server.url, f"hangs-{number}")) for number in range(10)]
        await asyncio.sleep(0.1)
        async with connected(settings) as client:
            await client.get_job("7", left=0)
        assert polled.index("7") == 1
        for task in polls:
            task.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


async def test_a_wait_does_not_queue_forever_for_its_last_poll(monkeypatch):
    monkeypatch.setattr(poll_queue, "SLOW", 60)
    monkeypatch.setattr(concurrency, "FEW", 1)
    monkeypatch.setattr(async_client, "LAST_POLL_TIMEOUT", 0.3)
    with RawServer(hanging([])) as server:
        poll = asyncio.create_task(failure(server.url, "hangs"))
        await asyncio.sleep(0.1)
        async with connected(settings_for(server.url)) as client:
            started = time.monotonic()
            with pytest.raises(errors.TransientError, match=r"no connection was free within 0\.3 s"):
                await client.get_job("7", left=0.2)
            assert 0.5 <= time.monotonic() - started < 1
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)


async def test_a_replaced_bundle_is_used_by_new_waits(certificates, tmp_path):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes())
    with RawServer(scripted((200, RUNNING)), certificates.server_context()) as server:
        async with connected(settings_for(server.url, verify=str(bundle))) as client:
            with pytest.raises(errors.UntrustedCertificateError):
                await client.get_job("7")
            bundle.write_bytes(certificates.authority.read_bytes())
            os.utime(bundle, ns=(1, 1))
            assert (await poll_job(server.url, verify=str(bundle))).state is JobState.RUNNING


@pytest.mark.parametrize("size", [60_000, 70_000])
async def test_a_long_response_to_a_poll_is_not_read(size):
    body = b'{"status": "running", "x": "' + b"x" * size + b'"}'
    with RawServer(scripted((200, body))) as server:
        settings = settings_for(server.url)
        for call in (asyncio.to_thread(DatatileClient(settings).get_job, "7"), poll_job(server.url)):
            if size < 65_536:
                assert (await call).state is JobState.RUNNING
                continue
            with pytest.raises(errors.UnexpectedResponseError, match="response has more than 65,536 bytes") as e:
                await call
            assert e.value.status == 200


async def test_a_long_page_with_status_401_is_a_rejected_token():
    with RawServer(scripted((401, b'{"x": "' + b"x" * 200_000 + b'"}'))) as server:
        assert isinstance(await failure(server.url), errors.TokenRefusedError)


async def failures_of_both(url: str, **kwargs: Any) -> list[errors.DatatileError]:
    with pytest.raises(errors.TransientError) as caught:
        DatatileClient(settings_for(url, **kwargs)).get_job("7")
    return [caught.value, await failure(url, **kwargs)]


@pytest.mark.parametrize("proxy", ["http://user:pa55w0rd@127.0.0.1:1", "http://nowhere.invalid:1"])
async def test_an_unreachable_proxy_is_named_without_its_password(proxy):
    for error in await failures_of_both("https://datatile.invalid", proxies={"https": proxy}):
        named = proxy.replace("user:pa55w0rd@", "")
        assert f"No response from https://datatile.invalid through the proxy {named}: " in one_line(error)
        assert "Check the proxy: proxies in the connection's extra" in error.hint
        assert "pa55w0rd" not in repr(error) + str(error)


async def test_hints_when_the_server_cannot_be_reached(monkeypatch):
    async def hints_of_both(url: str) -> set[str]:
        return {found.hint for found in await failures_of_both(url)}

    # Otherwise a proxy of the environment would be asked to resolve the name.
    monkeypatch.setenv("NO_PROXY", "*")
    assert await hints_of_both("http://name.invalid") == {"Check the connection's host: its name can't be resolved."}
    with Sandbox() as sandbox:
        port = sandbox.url.rpartition(":")[2]
        assert await hints_of_both(f"https://127.0.0.1:{port}") == {
            "Check the connection's schema and port: the server does not speak https there."
        }
    assert await hints_of_both(f"http://127.0.0.1:{port}") == {
        "Check the connection's host and port, and that the server is up."
    }
