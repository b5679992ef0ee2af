"""Uploads and waits through an Airflow connection, counted in a sandbox."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException, ObjectStoragePath

from datatile_provider.api import errors
from datatile_provider.api.models import Job
from datatile_provider.api.states import JobState
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.hooks.upload import Uploader
from tests.support.clients import finished
from tests.support.clock import SetClock
from tests.support.rawserver import Peer, RawServer
from tests.support.reading import one_line
from tests.support.scripted import scripted
from tests.support.waiting import until


def test_create_append_reload(sandbox, hook, survey):
    created = finished(hook, hook.upload("create", sandbox.folder, survey))
    database = created.details["database"]
    assert (created.state, created.details["total_rows"]) == (JobState.SUCCEEDED, 3)
    assert finished(hook, hook.upload("append", database, survey.as_uri())).details["total_rows"] == 6
    with survey.open("rb") as opened:
        assert finished(hook, hook.upload("reload", database, opened)).details["total_rows"] == 3
    stored = ObjectStoragePath(f"file://{survey}")
    assert finished(hook, hook.upload("append", database, stored)).details["total_rows"] == 6
    assert [(u["action"], u["filename"]) for u in sandbox.uploads()] == [
        (action, "wave 1.csv") for action in ("create", "append", "reload", "append")
    ]
    assert hook.get_job(created.id).state is JobState.SUCCEEDED


async def test_asynchronous_calls(sandbox, hook, survey):
    job = hook.upload("create", sandbox.folder, survey)
    assert (await hook.get_job_async(job.id)).id == job.id
    done = await hook.wait_for_job_async(job.id, poll_interval=0.05, timeout=10, started=time.time())
    assert done.state is JobState.SUCCEEDED


def test_callback(sandbox, hook, survey):
    callbacks = []

    def handle(peer: Peer) -> None:
        callbacks.append(json.loads(peer.request()[1])["status"])
        peer.respond(200)

    with RawServer(handle) as listener:
        finished(hook, hook.upload("create", sandbox.folder, survey, callback_url=f"{listener.url}/hook"))
        until(lambda: len(callbacks) >= 3, "the callbacks arrive")
    assert callbacks == ["queued", "running", "succeeded"]


@pytest.mark.parametrize(
    "invalid",
    [
        {"action": "delete"},
        {"target_hash": ""},
        {"target_hash": "../x"},
        {"target_hash": None},
        {"dataset": "/no/such/file"},
        {"callback_url": "nowhere"},
        {"timeout": 0},
        {"timeout": "long"},
    ],
)
def test_bad_input_is_reported_before_a_byte_is_sent(connect, survey, invalid):
    with RawServer(Peer.reset) as server:
        arguments = {"action": "append", "target_hash": "abc", "dataset": survey} | invalid
        with pytest.raises(errors.InvalidInputError):
            connect(server.url).upload(**arguments)
        assert server.connections == 0


def test_bad_connections(connect, survey):
    with RawServer(Peer.reset) as server:
        with pytest.raises(AirflowNotFoundException):
            DatatileHook("no_such_connection").upload("append", "abc", survey)
        with pytest.raises(errors.InvalidInputError, match=r"'datatile_default' .* 'timeout'"):
            connect(server.url, extra={"timeout": "soon"}).upload("append", "abc", survey)
        with pytest.raises(errors.InvalidInputError, match="max_upload_bytes"):
            connect(server.url, extra={"max_upload_bytes": 5}).upload("append", "abc", survey)
        assert server.connections == 0


def test_rejections_are_permanent(sandbox, hook, survey):
    started = time.monotonic()
    for target, kind in ((sandbox.root, errors.PermanentError), ("nosuch", errors.NotFoundError)):
        with pytest.raises(kind):
            hook.upload("create", target, survey)
    sandbox.set_permission(sandbox.folder, False)
    with pytest.raises(errors.RoleMissingError):
        hook.upload("create", sandbox.folder, survey)
    assert sandbox.uploads() == []
    assert time.monotonic() - started < 1


class TestToken:
    def test_new_token_is_used(self, sandbox, hook, connect, survey, monkeypatch):
        """A new token is put into the connection while an upload is rejected with the old one."""
        new_token = sandbox.regenerate_token()
        read = DatatileHook.get_conn

        def read_then_replace(self: DatatileHook):
            settings = read(self)
            connect(sandbox.url, password=new_token)
            return settings

        monkeypatch.setattr(DatatileHook, "get_conn", read_then_replace)
        assert hook.upload("create", sandbox.folder, survey).id
        assert len(sandbox.uploads()) == 1

    def test_second_rejection_is_permanent(self, connect, survey, monkeypatch):
        requests: list[str] = []
        tokens = iter(["first-token", "second-token", "third-token"])
        read = DatatileHook.get_conn

        def read_next(self: DatatileHook):
            connect(server.url, password=next(tokens))
            return read(self)

        monkeypatch.setattr(DatatileHook, "get_conn", read_next)
        with (
            RawServer(scripted((401, b""), requests=requests)) as server,
            pytest.raises(errors.TokenRefusedError, match="invalidates the one before"),
        ):
            connect(server.url).upload("append", "abc", survey)
        assert [head.split("token: ")[1].split("\r\n")[0] for head in requests] == ["first-token", "second-token"]

    def test_same_token_is_not_sent_again(self, sandbox, hook, survey):
        sandbox.regenerate_token()
        with pytest.raises(errors.TokenRefusedError):
            hook.upload("create", sandbox.folder, survey)

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_new_token_is_used_by_a_wait(self, sandbox, connect, hook, survey, asynchronous):
        job = hook.upload("create", sandbox.folder, survey)
        new_token = sandbox.regenerate_token()
        waiting = connect(sandbox.url)
        read = waiting.get_conn()
        connect(sandbox.url, password=new_token)
        assert read.token != new_token
        if asynchronous:
            done = await waiting.wait_for_job_async(job.id, poll_interval=0.05, timeout=10, started=time.time())
        else:
            done = waiting.wait_for_job(job.id, poll_interval=0.05, timeout=10)
        assert done.state is JobState.SUCCEEDED


def uploader_of(hook: DatatileHook, target: str, survey: Path, **options: Any) -> Uploader:
    return Uploader(hook, "append", target, survey, callback_url=None, timeout=60, resend_unknown=False, **options)


class TestRetry:
    def test_busy_destination(self, sandbox, hook, survey):
        created = finished(hook, hook.upload("create", sandbox.folder, survey))
        database = created.details["database"]
        first = hook.upload("append", database, survey)
        uploader = uploader_of(hook, database, survey)
        assert uploader.attempt() is None
        assert isinstance(uploader.error, errors.DestinationBusyError)
        assert 0 < uploader.delay <= 1
        assert uploader.failures == 1
        uploader.pause()
        while not (second := uploader.attempt()):
            uploader.pause()
        finished(hook, first)
        assert finished(hook, second).details["total_rows"] == 9
        assert len(sandbox.uploads()) == 3

    def test_retry_after(self, connect, survey):
        requests: list[str] = []
        responses = ((429, b"", "Retry-After: 2"), (200, b'{"job_id": "1"}'))
        with RawServer(scripted(*responses, requests=requests)) as server:
            started = time.monotonic()
            assert connect(server.url).upload("append", "abc", survey).id == "1"
        assert 2 <= time.monotonic() - started < 4

    def test_a_retry_after_beyond_the_deadline_gets_one_more_attempt_at_the_deadline(self, connect, survey):
        requests: list[str] = []
        with RawServer(scripted((429, b"", "Retry-After: 60"), requests=requests)) as server:
            started = time.monotonic()
            with pytest.raises(errors.RateLimitedError):
                connect(server.url).upload("append", "abc", survey, timeout=1)
        assert len(requests) == 2
        assert 1 <= time.monotonic() - started < 3

    @pytest.mark.parametrize("action", ["create", "append"])
    def test_unknown_outcome_is_not_sent_again(self, connect, survey, action):
        requests: list[str] = []
        with (
            RawServer(scripted((500, b""), (200, b'{"job_id": "1"}'), requests=requests)) as server,
            pytest.raises(errors.OutcomeUnknownError),
        ):
            connect(server.url).upload(action, "abc", survey)
        assert len(requests) == 1

    @pytest.mark.parametrize(("action", "options"), [("reload", {}), ("append", {"on_unknown": "resend"})])
    def test_unknown_outcome_is_sent_again(self, connect, survey, action, options):
        requests: list[str] = []
        with RawServer(scripted((500, b""), (200, b'{"job_id": "1"}'), requests=requests)) as server:
            assert connect(server.url).upload(action, "abc", survey, **options).id == "1"
        assert len(requests) == 2

    def test_what_is_called_before_an_attempt_may_end_the_upload(self, connect, survey):
        class StopError(Exception):
            pass

        def stop() -> None:
            raise StopError

        with RawServer(Peer.reset) as server:
            with pytest.raises(StopError):
                uploader_of(connect(server.url), "abc", survey).attempt(stop)
            assert server.connections == 0

    def test_file_that_changes_between_attempts(self, connect, survey):
        requests: list[str] = []
        with RawServer(scripted((409, b""), (200, b'{"job_id": "1"}'), requests=requests)) as server:
            uploader = uploader_of(connect(server.url), "abc", survey)
            assert uploader.attempt() is None
            survey.write_text("respondent\n1\n")
            called = []
            with pytest.raises(errors.DatasetChangedError, match=r"wave\s1\.csv"):
                uploader.attempt(lambda: called.append(1))
            assert not called
            assert server.connections == 1

    def test_file_of_an_earlier_process(self, connect, survey):
        with RawServer(Peer.reset) as server:
            with pytest.raises(errors.DatasetChangedError):
                uploader_of(connect(server.url), "abc", survey, failures=1, version="29 bytes of yesterday")
            assert server.connections == 0

    def test_open_file_is_sent_again_from_its_start(self, connect, survey):
        bodies = []

        def handle(peer: Peer) -> None:
            bodies.append(peer.request()[1].split(b"\r\n\r\n")[1].partition(b"\r\n--")[0])
            peer.respond(200, b'{"job_id": "1"}') if len(bodies) > 1 else peer.respond(423)

        with RawServer(handle) as server, survey.open("rb") as opened:
            connect(server.url).upload("append", "abc", opened)
        assert bodies == [survey.read_bytes()] * 2


class TestWaiting:
    def test_failed_job_with_the_server_message(self, sandbox, hook, tmp_path):
        invalid = tmp_path / "survey.sav"
        invalid.write_bytes(b"no SPSS file")
        job = hook.upload("create", sandbox.folder, invalid)
        with pytest.raises(errors.JobFailedError, match="cannot be read") as caught:
            finished(hook, job)
        assert job.id in one_line(caught.value)

    def test_errors_do_not_end_the_wait(self, connect):
        requests: list[str] = []
        responses = (
            (502, b"<h1>Bad gateway</h1>"),
            (200, b""),
            (404, b"{}"),
            (200, b"[]"),
            (200, b'{"status": "done"}'),
        )
        with RawServer(scripted(*responses, requests=requests)) as server:
            assert connect(server.url).wait_for_job("7", poll_interval=0.01, timeout=5).state is JobState.SUCCEEDED
        assert len(requests) == len(responses)

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_deadline(self, connect, asynchronous):
        with RawServer(scripted((200, b'{"status": "importing"}'))) as server:
            hook, started, limits = connect(server.url), time.time(), {"poll_interval": 0.1, "timeout": 0.5}
            waiting = (
                hook.wait_for_job_async("7", started=started, **limits)
                if asynchronous
                else asyncio.to_thread(hook.wait_for_job, "7", **limits)
            )
            with pytest.raises(errors.JobTimeoutError, match="The last status was 'importing'"):
                await waiting
        assert 0.5 <= time.time() - started < 2

    @pytest.mark.parametrize("bad", [{"job_id": ""}, {"poll_interval": 0}, {"timeout": -1}])
    def test_bad_input(self, connect, bad):
        with RawServer(Peer.reset) as server:
            with pytest.raises(errors.InvalidInputError):
                connect(server.url).wait_for_job(**({"job_id": "7"} | bad))
            assert server.connections == 0


def test_hook_from_several_threads(sandbox, hook, survey):
    """Concurrent uploads of one hook do not mix."""
    databases = [sandbox.add_database(f"d{n}", 0, ["respondent", "vote"]) for n in range(4)]
    jobs: dict[str, Job] = {}
    threads = [
        threading.Thread(target=lambda d=database: jobs.update({d: hook.upload("append", d, survey)}))
        for database in databases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {upload["hash"]: upload["job_id"] for upload in sandbox.uploads()} == {d: j.id for d, j in jobs.items()}
    assert len(jobs) == 4


async def test_jobs_whose_polls_hang_do_not_hold_up_the_others(connect, monkeypatch):
    """120 jobs whose polls hang, and five that finish long before their deadline."""
    monkeypatch.setattr("datatile_provider.api.poll_queue.SLOW", 0.1)
    started = time.monotonic()
    hung = []

    def handle(peer: Peer) -> None:
        while True:
            job_id = peer.request()[0].split()[1].rpartition("/")[2]
            if job_id.startswith("hangs"):
                hung.append(job_id)
                peer.drain()
                return
            word = "done" if time.monotonic() - started > 1 else "running"
            peer.respond(200, json.dumps({"id": job_id, "status": word}).encode())

    with RawServer(handle) as server:
        # A hanging poll takes 1 s; with eight at a time, polling all jobs once would take 15 s.
        hook = connect(server.url, extra={"timeout": 1})
        jobs = [f"hangs-{number}" for number in range(120)] + [f"quick-{number}" for number in range(5)]
        found = await asyncio.gather(
            *(hook.wait_for_job_async(job_id, poll_interval=0.5, timeout=6, started=time.time()) for job_id in jobs),
            return_exceptions=True,
        )
        assert [isinstance(job, Job) and job.state for job in found[120:]] == [JobState.SUCCEEDED] * 5
        assert {type(error) for error in found[:120]} == {errors.JobTimeoutError}
        assert all("The last" in one_line(error) and "No response" in one_line(error) for error in found[:120])
        # Each job was polled at its deadline.
        assert len(set(hung)) == 120
        assert time.monotonic() - started < 20


async def test_a_bundle_is_loaded_outside_the_event_loop(connect, monkeypatch, tmp_path):
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("any")
    threads: list[int] = []
    load = threads.append
    monkeypatch.setattr("datatile_provider.api.tls.tls_context", lambda bundle: load(threading.get_ident()))
    await connect("http://127.0.0.1:9", extra={"verify": str(bundle)}).get_conn_async()
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_a_poll_that_hangs_at_the_deadline_is_replaced_by_the_last_one(connect):
    """The poll timeout is 3 s: waiting for the first poll as well would take 6 s."""
    polled: list[float] = []

    def handle(peer: Peer) -> None:
        peer.request()
        polled.append(time.monotonic() - started)
        peer.drain()

    started = time.monotonic()
    with RawServer(handle) as server:
        with pytest.raises(errors.JobTimeoutError, match="The last 2 polls failed"):
            await connect(server.url, extra={"timeout": 3}).wait_for_job_async(
                "7", poll_interval=1, timeout=1.5, started=time.time()
            )
        assert time.monotonic() - started < 5.5
    assert len(polled) == 2
    assert polled[1] >= 1.5


class TestSetClock:
    """The system clock is set during a wait."""

    @pytest.fixture
    def jump(self, monkeypatch):
        clock = SetClock()
        monkeypatch.setattr("datatile_provider.hooks.datatile.time", clock)
        return lambda seconds: setattr(clock, "offset", seconds)

    async def wait(self, hook: DatatileHook, asynchronous: bool, timeout: float) -> Job:
        if asynchronous:
            return await hook.wait_for_job_async("7", poll_interval=0.2, timeout=timeout, started=time.time())
        return await asyncio.to_thread(hook.wait_for_job, "7", poll_interval=0.2, timeout=timeout)

    @pytest.mark.parametrize("asynchronous", [False, True])
    @pytest.mark.parametrize("response", [(200, b'{"status": "running"}'), (404, b"{}")])
    async def test_forward(self, connect, jump, asynchronous, response):
        polls = []

        def handle(peer: Peer) -> None:
            while True:
                peer.request()
                polls.append(1)
                if len(polls) == 2:
                    jump(7200)
                peer.respond(*((200, b'{"status": "done"}') if len(polls) > 3 else response))

        with RawServer(handle) as server:
            assert (await self.wait(connect(server.url), asynchronous, 3600)).state is JobState.SUCCEEDED

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_back(self, connect, jump, asynchronous):
        polls = []

        def handle(peer: Peer) -> None:
            while True:
                peer.request()
                polls.append(1)
                jump(-7200 * (len(polls) > 1))
                peer.respond(200, b'{"status": "running"}' if len(polls) < 20 else b'{"status": "done"}')

        started = time.monotonic()
        with RawServer(handle) as server, pytest.raises(errors.JobTimeoutError):
            await self.wait(connect(server.url), asynchronous, 1)
        assert 1 <= time.monotonic() - started < 20

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_back_while_the_server_rejects_polls(self, connect, jump, monkeypatch, asynchronous):
        monkeypatch.setattr("datatile_provider.api.polling.GRACE", 0.5)
        polls = []

        def handle(peer: Peer) -> None:
            while True:
                peer.request()
                polls.append(1)
                jump(-7200 * (len(polls) > 1))
                peer.respond(*((404, b"{}") if len(polls) < 20 else (200, b'{"status": "done"}')))

        with RawServer(handle) as server, pytest.raises(errors.NotFoundError):
            await self.wait(connect(server.url), asynchronous, 3600)
        assert len(polls) < 10

    @pytest.mark.parametrize(("offset", "duration"), [(7200, 0.5), (-7200, 0.0)])
    async def test_set_since_the_wait_began_in_another_process(self, connect, offset, duration):
        started = time.monotonic()
        with RawServer(scripted((200, b'{"status": "running"}'))) as server:
            with pytest.raises(errors.JobTimeoutError, match="The last status was 'running'"):
                await connect(server.url).wait_for_job_async(
                    "7", poll_interval=0.2, timeout=0.5, started=time.time() + offset
                )
            assert duration <= time.monotonic() - started < duration + 0.5


@pytest.mark.parametrize("invalid", [{"extra": {"timeout": "so"}}, {"password": ""}, {"host": "http://127.0.0.1:9"}])
async def test_a_connection_that_is_invalid_for_a_moment_does_not_end_a_wait(
    sandbox, connect, hook, survey, invalid, monkeypatch
):
    """As when a trigger restarts while a user edits the connection."""
    monkeypatch.setattr("datatile_provider.hooks.connection._PAUSE", 0.05)
    monkeypatch.setattr("datatile_provider.hooks.connection.GRACE", 0.5)
    job = hook.upload("create", sandbox.folder, survey)
    server = hook.get_conn().server.address
    wait = {"poll_interval": 0.05, "timeout": 10, "server": server}
    connect(sandbox, **invalid)
    waiting = asyncio.create_task(hook.wait_for_job_async(job.id, started=time.time(), **wait))
    await asyncio.sleep(0.2)
    connect(sandbox)
    assert (await waiting).state is JobState.SUCCEEDED

    connect(sandbox, **invalid)
    with pytest.raises((errors.InvalidInputError, errors.PermanentError)):
        await asyncio.to_thread(hook.wait_for_job, job.id, **wait)
