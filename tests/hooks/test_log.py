"""What the log holds, and that it never holds the token."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from datatile_provider.api import errors, polling
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.hooks.upload import Progress
from tests.support.clients import finished
from tests.support.rawserver import TOKEN, RawServer
from tests.support.reading import one_line
from tests.support.scripted import scripted


class TestLog:
    @pytest.fixture
    def lines(self, monkeypatch, caplog) -> Callable[[], list[str]]:
        """All log messages, before Airflow masks or formats any of them."""
        # Airflow 3 does not write to the standard library's logging.
        monkeypatch.setattr(DatatileHook, "log", logging.getLogger("hook"))
        caplog.set_level(logging.DEBUG)
        return lambda: caplog.messages

    def test_log_of_an_upload(self, sandbox, hook, survey, lines):
        finished(hook, hook.upload("create", sandbox.folder, survey))
        text = "\n".join(lines())
        for part in ("create of 'wave 1.csv' (28 bytes)", sandbox.folder, sandbox.url, str(survey), "Accepted as job"):
            assert part in text
        assert text.count(" is SUCCEEDED (") == 1

    def test_log_of_a_wait(self, connect, lines):
        """Each status once, however often it is polled."""
        words = ("queued", "queued", "running", "running", "running", "succeeded")
        responses = [(200, json.dumps({"job_id": "7", "status": word}).encode()) for word in words]
        requests: list[str] = []
        with RawServer(scripted(*responses, requests=requests)) as server:
            connect(server.url).wait_for_job("7", poll_interval=0.01, timeout=10)
        assert len(requests) == len(words)
        found = re.findall(r"^Job 7 is ([A-Z]+) \(", "\n".join(lines()), re.MULTILINE)
        assert found == ["QUEUED", "RUNNING", "SUCCEEDED"]

    async def test_token_is_never_logged(self, connect, survey, lines, monkeypatch):
        """With a server that repeats the token in every response."""
        monkeypatch.setattr(polling, "GRACE", 0.3)
        echo = json.dumps({"message": f"you sent {TOKEN}", "status": "failed", "job_id": "7"}).encode()
        responses = [(status, echo, f"Location: http://x/{TOKEN}") for status in (503, 429, 302)]
        raised = []
        with RawServer(scripted(*responses, (401, echo))) as server:
            hook = connect(server.url)
            for call in (
                lambda: hook.upload("append", "abc", survey),
                lambda: hook.upload("append", "abc", survey),
                lambda: hook.wait_for_job("7"),
            ):
                with pytest.raises(errors.DatatileError) as caught:
                    call()
                raised.append(caught.value)
        with RawServer(scripted((200, echo))) as server:
            hook = connect(server.url)
            with pytest.raises(errors.OutcomeUnknownError) as unknown:
                hook.upload("append", "abc", survey)
            raised.append(unknown.value)
            job = hook.get_job("7")
            with pytest.raises(errors.JobFailedError) as caught:
                hook.wait_for_job("7")
            raised.append(caught.value)
            works, message = hook.test_connection()
            assert not works
            raised.append(message)
            with pytest.raises(errors.JobFailedError) as caught:
                await hook.wait_for_job_async("7", poll_interval=1, timeout=5, started=time.time())
            raised.append(caught.value)
        assert "Uploading" in "\n".join(lines())
        texts = [
            *lines(),
            repr(hook),
            str(vars(hook)),
            repr(hook.get_conn()),
            repr(job),
            json.dumps(job.as_dict()),
        ]
        for text in [*texts, *map(str, raised), *map(repr, raised)]:
            assert TOKEN not in text
        assert any("you sent ***" in one_line(e) for e in raised)

    async def test_raw_responses(self, connect, survey, lines):
        """At level debug, as the server sent them, from each client."""
        queued, done = b'{"job_id": "7"}', b'{"status": "done", "x": "' + b"y" * 3000 + b'"}'
        with RawServer(scripted((202, queued, "Location: /jobs/7"), (200, done))) as server:
            hook = connect(server.url)
            hook.upload("append", "abc", survey)
            hook.get_job("7")
            await hook.get_job_async("7")
        api = f"{server.url}/api/v2"
        upload, *polls = [line for line in lines() if ": status 20" in line]
        assert upload == f"POST {api}/upload/append/abc: status 202 Location: /jobs/7 {queued.decode()!r}"
        assert polls == [f"GET {api}/jobs/7: status 200 {done[:2048].decode()!r}"] * 2

    def test_progress(self, connect, tmp_path, lines, monkeypatch):
        """A slow upload logs its progress."""
        ticks = iter(range(0, 10_000, 2))
        clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
        monkeypatch.setattr("datatile_provider.hooks.upload.time", clock)
        path = tmp_path / "large.csv"
        path.write_bytes(bytes(20 << 20))
        with RawServer(scripted((200, b'{"job_id": 1}'))) as server:
            connect(server.url).upload("append", "abc", path)
        progress = [line for line in lines() if line.startswith("Sent ")]
        assert 5 <= len(progress) <= 10
        assert all("of 20,971," in line for line in progress)


@pytest.mark.parametrize(
    ("seconds", "lines"),
    # Ten shares of 10 %, of which rounding makes one a little smaller, or a hundred times 30 s.
    [(1, 0), (10, 3), (100, 9), (3_000, 100)],
)
def test_how_often_progress_is_logged(seconds, lines):
    """At each 10 % or 30 s, and not more often than every 3 s."""
    progress = Progress(0.0)
    assert sum(progress.is_due(step / 1_000, step * seconds / 1_000) for step in range(1_001)) == lines
