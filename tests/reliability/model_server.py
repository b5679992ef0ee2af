"""
A DATATILE server over real sockets that knows the truth, and says it in a style of its own.

It never lies about a job under that job's own id, nor at the field that the connection names for a status. All else
that it says may be an envelope, be about another job, or come from a gateway that knows nothing.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import unquote

from tests.support.rawserver import Peer, RawServer

TOKEN = "token-of-the-model"

#: How an answer holds a job: the path of its id, the path of its status (None when no path leads there), and the JSON.
SHAPES: dict[str, tuple[str, str | None, Callable[[str, str], Any]]] = {
    "flat": ("job_id", "status", lambda j, w: {"job_id": j, "status": w}),
    "id": ("id", "status", lambda j, w: {"id": j, "status": w}),
    "jsend": ("data.id", "data.status", lambda j, w: {"status": "success", "data": {"id": j, "status": w}}),
    "payload": ("payload.id", "payload.status", lambda j, w: {"status": "success", "payload": {"id": j, "status": w}}),
    "state": ("id", "state", lambda j, w: {"status": "success", "message": f"job {w}", "id": j, "state": w}),
    "nameless state": ("id", "state", lambda j, w: {"status": "success", "message": f"job {w}", "state": w}),
    "bare": ("id", "status", lambda j, w: {"status": w}),
    "listed": (
        "id",
        None,
        lambda j, w: {"status": "success", "jobs": [{"id": "other-1", "status": "SUCCEEDED"}, {"id": j, "status": w}]},
    ),
    "jsonapi": (
        "data.id",
        "data.attributes.status",
        lambda j, w: {"data": {"type": "jobs", "id": j, "attributes": {"status": w}}},
    ),
    "rows": (
        "id",
        "status",
        lambda j, w: {"id": j, "status": w, **({"errors": [{"row": 3}]} if w == "succeeded" else {})},
    ),
}
#: An upload's answer always names the job, as a job without an id cannot be polled.
NAMING = {"nameless state": "state", "bare": "id", "listed": "id", "rows": "id"}


class Brief:
    """Shows itself as the Python that makes it, without what is as usual."""

    def __repr__(self) -> str:
        found = ((f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in found)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show itself so to Hypothesis, too."""
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class Dialect(Brief):
    """
    How one server speaks, always.

    :param shape: how its answers hold a job.
    :param configured: the connection says where id and status stand.
    :param job_path: where jobs are asked for; another than the usual one is always configured.
    :param busy: it takes no upload while an earlier one to the same target is processed.
    """

    shape: str = "flat"
    configured: bool = False
    job_path: str = "api/v2/jobs/{job_id}"
    busy: bool = False

    @property
    def extra(self) -> dict[str, str]:
        """What a user who knows the server writes into the connection's extra."""
        found = {} if self.job_path == Dialect.job_path else {"job_path": self.job_path}
        if self.configured:
            id_field, status_field, _ = SHAPES[self.shape]
            found["job_id_field"] = id_field
            if status_field:
                found["status_field"] = status_field
        return found

    def upload_answer(self, job_id: str, word: str) -> dict[str, Any]:
        return SHAPES[NAMING.get(self.shape, self.shape)][2](job_id, word)

    def job_answer(self, job_id: str, word: str) -> Any:
        return SHAPES[self.shape][2](job_id, word)

    def would_lie(self, value: Any) -> bool:
        """Return whether a value that is about no job has something where the user told to look for the status."""
        return self.configured and _dig(value, SHAPES[self.shape][1] or "") is not None


def _dig(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


@dataclass(frozen=True)
class Reply:
    """
    What becomes of one request, at the server and at the gateway in front of it.

    :param status: the status of the answer; None breaks the connection off instead.
    :param held: the server takes the body.
    :param says: what the answer's body is about.
    :param location: where a redirection leads: to the ``job``, to another ``page``, to the ``same`` path of another
        server, or to a page ``elsewhere``.
    :param interim: statuses that are sent before.
    :param reads: how much is read before the answer: ``all``, ``some`` or ``none``.
    :param drains: what is left of the body is read after an early answer.
    :param cut: the answer breaks off in its middle.
    :param hangs: no answer comes.
    """

    status: int | None = 200
    held: bool = True
    says: str = "job"
    location: str = ""
    retry_after: str = ""
    interim: tuple[int, ...] = ()
    reads: str = "all"
    drains: bool = True
    cut: bool = False
    hangs: bool = False
    delay: float = 0.0


def _gateway(status: int, **more: Any) -> dict[str, Reply]:
    """Return an answer that leaves open what became of the body."""
    note = "".join(f", {k} {v}" for k, v in more.items())
    return {
        f"{status}{note}, held": Reply(status, says="page", **more),
        f"{status}{note}, not held": Reply(status, held=False, says="page", **more),
    }


#: Rejections that DATATILE documents, and refusals. They are always true.
TRUTHFUL = {
    "409 busy": Reply(409, held=False, says="refusal"),
    "423 locked": Reply(423, held=False, says="refusal"),
    "429": Reply(429, held=False, says="refusal"),
    "429, at once": Reply(429, held=False, says="refusal", retry_after="0"),
    "429, for an hour": Reply(429, held=False, says="refusal", retry_after="3600"),
    "429, after 103": Reply(429, held=False, says="refusal", retry_after="0", interim=(103,)),
    **{str(status): Reply(status, held=False, says="refusal") for status in (400, 401, 403, 404, 413, 422)},
    "413, early": Reply(413, held=False, says="refusal", reads="some", drains=False),
    "307, elsewhere": Reply(307, held=False, says="nothing", location="elsewhere"),
    "308, same path": Reply(308, held=False, says="nothing", location="same"),
    "307, same path": Reply(307, held=False, says="nothing", location="same"),
    "302, same path": Reply(302, held=False, says="nothing", location="same"),
    "reset at once": Reply(None, held=False, reads="none"),
    "reset in the body": Reply(None, held=False, reads="some"),
    "503 in the body": Reply(503, held=False, says="page", reads="some", drains=False),
    "200 in the body, then gone": Reply(200, held=False, says="a lost job", reads="some", drains=False),
}
#: Answers after which nobody can know without asking, and acceptances in strange clothes.
STRANGE = {
    **_gateway(408),
    **_gateway(425),
    **_gateway(500),
    **_gateway(502),
    **_gateway(503),
    **_gateway(503, retry_after="0"),
    **_gateway(504),
    **_gateway(303, location="page"),
    **_gateway(302, location="page"),
    "303 to the job": Reply(303, says="nothing", location="job"),
    "302 to the job": Reply(302, says="nothing", location="job"),
    "202 and where the job is": Reply(202, says="nothing", location="job"),
    "201 and nothing": Reply(201, says="nothing"),
    "200 and a page": Reply(200, says="page"),
    "early": Reply(200, reads="some"),
    "early 202": Reply(202, reads="some"),
    "early, after 103": Reply(200, reads="some", interim=(103,)),
    "early, held, then gone": Reply(200, reads="some", drains=False),
    "late": Reply(200, delay=0.05),
    "102": Reply(200, interim=(102,)),
    "103": Reply(200, interim=(103,)),
    "102 and 103": Reply(200, interim=(102, 103)),
    "102, then 502": Reply(502, says="page", interim=(102,)),
    "102, then gone": Reply(None, interim=(102,)),
    "gone, held": Reply(None),
    "gone, not held": Reply(None, held=False),
    "gone within": Reply(200, cut=True),
    "gone within a refusal's head": Reply(None, held=True, says="half a head"),
    "silence, held": Reply(hangs=True),
    "silence, not held": Reply(hangs=True, held=False),
    "error, held": Reply(200, says="error"),
    "error, not held": Reply(200, held=False, says="error"),
    "fail, held": Reply(200, says="fail"),
    "fail, not held": Reply(200, held=False, says="fail"),
    "errors and a strange id": Reply(200, says="strange id"),
    "errors beside the id": Reply(200, says="rows"),
    "failed beside the id": Reply(200, says="failed"),
    "failed beside the id, the request alone": Reply(200, says="request failed"),
}
UPLOADS = {"": Reply(), **TRUTHFUL, **STRANGE}
#: What an upload is tried again after, by the docs, and without a person.
PASSING = ("409 busy", "423 locked", "429", "429, at once", "reset at once", "reset in the body", "503 in the body")
#: Of these the client can see that the last byte has not left only when the file is larger than all buffers.
LARGE = ("reset at once", "reset in the body", "503 in the body", "200 in the body, then gone", "413, early")
LARGE += ("early", "early 202", "early, after 103", "early, held, then gone")
#: Acceptances that must be understood, whatever they look like.
ACCEPTING = ("late", "102", "103", "102 and 103", "303 to the job", "302 to the job", "202 and where the job is")

POLLS = {
    "": Reply(),
    **{str(status): Reply(status, says="page") for status in (409, 500, 502, 503, 504)},
    "429": Reply(429, says="refusal", retry_after="0"),
    "425": Reply(425, says="page"),
    "429, for an hour": Reply(429, says="refusal", retry_after="3600"),
    "401": Reply(401, says="refusal"),
    "404": Reply(404, says="refusal"),
    "302": Reply(302, says="nothing", location="page"),
    "reset": Reply(None, reads="none"),
    "gone within": Reply(200, cut=True),
    "silence": Reply(hangs=True),
    "103": Reply(200, interim=(103,)),
    "page": Reply(200, says="page"),
    "nothing": Reply(200, says="nothing"),
    "error": Reply(200, says="error"),
    "fail": Reply(200, says="fail"),
    "failed": Reply(200, says="poll failed"),
    "bare failed": Reply(200, says="bare failed"),
    "an error": Reply(200, says="an error"),
    "other succeeded": Reply(200, says="other succeeded"),
    "other failed": Reply(200, says="other failed"),
    "late": Reply(200, says="late"),
}


@dataclass(eq=False)
class Copy:
    """
    A body that a server holds.

    :param content: what tells the body's file from others.
    :param fate: how its job ends, once it has been asked for so often.
    :param said_failed: the server has said, truly, that its job failed.
    :param named: an error has told a person of it.
    :param settled: a person has been told, and cleared the task.
    :param wanted_again: a person cleared the green task that brought it.
    """

    server: str
    job_id: str
    target: str
    action: str
    content: str
    fate: str = "succeeded"
    polls_left: int = 0
    said_failed: bool = False
    named: bool = False
    settled: bool = False
    wanted_again: bool = False

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.server, self.target, self.action, self.content

    @property
    def state(self) -> str:
        return "processing" if self.polls_left else self.fate


@dataclass
class Script:
    """
    What becomes of the next requests, at whichever server; all later ones go well.

    :param fates: for each body that will be held, how its job ends, and how many polls later.
    :param on_held: called with each body that is held.
    """

    uploads: deque[str] = field(default_factory=deque)
    polls: deque[str] = field(default_factory=deque)
    fates: deque[tuple[str, int]] = field(default_factory=deque)
    on_held: Callable[[Copy], None] = lambda copy: None
    polled: int = 0
    log: list[str] = field(default_factory=list)

    def next_upload(self) -> str:
        return self.uploads.popleft() if self.uploads else ""

    def next_poll(self) -> str:
        return self.polls.popleft() if self.polls else ""


class ModelServer:
    """
    One server; ``with`` starts and ends it.

    :param name: tells it from the other one.
    :param others: the states of jobs of other people, which have the first ids.
    """

    def __init__(self, name: str, dialect: Dialect, script: Script, others: Iterable[str] = ()) -> None:
        self.name, self.dialect, self.script = name, dialect, script
        self._lock = threading.Lock()
        self.jobs: dict[str, Copy] = {}
        for state in others:
            self.hold("theirs", "append", f"of others {len(self.jobs)}", state, 0)
        self.copies: list[Copy] = []
        self._raw = RawServer(self._serve)
        self.address = self._raw.address
        self._turned_away = 0
        self.crash: Exception | None = None

    def __enter__(self) -> ModelServer:
        self._raw.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._raw.__exit__(*error)

    def connection(self, timeout: float) -> str:
        extra = {"timeout": timeout, **self.dialect.extra}
        host = f"http://{self.address}"
        return json.dumps({"conn_type": "datatile", "host": host, "password": TOKEN, "extra": json.dumps(extra)})

    def settle(self) -> bool:
        """Return once all that was sent before has been read, and whether nobody is connected any more."""
        # Who is gone may still stand in the queue of those to be let in. What comes after him is let in after him.
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), 3.0) as ping:
            ping.sendall(b"PING / HTTP/1.1\r\n\r\n")
            ping.recv(1)
        return self._raw.wait_until_left(3.0)

    def hold(self, target: str, action: str, content: str, fate: str, polls: int) -> Copy:
        job_id = f"job-{len(self.jobs) + 1}"
        copy = self.jobs[job_id] = Copy(self.name, job_id, target, action, content, fate, polls)
        return copy

    def _serve(self, peer: Peer) -> None:
        head = peer.head()
        method, path, _ = head.split(" ", 2)
        if method == "PING":
            peer.send(b"!")
            return
        with self._lock:
            try:
                if method == "POST":
                    self._upload(peer, head, path)
                else:
                    self._poll(peer, path)
            except (KeyError, TypeError, AttributeError, ValueError, AssertionError) as e:
                self.crash = e
                raise

    def _upload(self, peer: Peer, head: str, path: str) -> None:
        action, target = path.split("/")[-2:]
        name = self.script.next_upload()
        if self._is_busy(target) and not name:
            name = "409 busy"
        self.script.log.append(f"{self.name}: POST {action} {target}: {name or 'accepted'}")
        reply = UPLOADS[name]
        if reply.reads == "none":
            peer.reset()
            return
        found = re.search(r"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
        left = int(found[1]) if found else 0
        start = peer.read(min(left, 1 << 12))
        left -= len(start)
        content = re.search(rb"content-\d+", start)
        copy = Copy(self.name, "lost-1", target, action, "")
        if reply.reads == "some":
            if reply.status is None:
                peer.reset()
                return
            if reply.held and not reply.drains and content:
                # It keeps what it has.
                copy = self._take(target, action, content[0].decode(), reply)
            elif reply.held:
                # Whoever drains holds the body in the end, and names the job at once.
                copy.job_id = f"job-{len(self.jobs) + 1}"
            self._answer(peer, reply, copy, self._of_upload(reply, copy))
            time.sleep(0.02)
            if not reply.drains:
                return
        while left:
            end = peer.read(min(left, 1 << 16))
            left -= len(end)
            start = (start + end)[-200:]
        if reply.held and content and start.endswith(b"--\r\n"):
            copy = self._take(target, action, content[0].decode(), reply)
        if reply.reads == "all":
            self._answer(peer, reply, copy, self._of_upload(reply, copy))

    def _take(self, target: str, action: str, content: str, reply: Reply) -> Copy:
        fate, polls = self.script.fates.popleft() if self.script.fates else ("succeeded", 1)
        if reply.says == "failed":
            fate, polls = "failed", 0
        copy = self.hold(target, action, content, fate, polls)
        self.script.log.append(f"{self.name}: holds {content} as {copy.job_id}")
        self.copies.append(copy)
        self.script.on_held(copy)
        return copy

    def _is_busy(self, target: str) -> bool:
        # Not forever: waits for a turn are so short here that a reload of unknown outcome would never come to its end.
        if not self.dialect.busy or self._turned_away >= 20:
            return False
        found = [c for c in self.copies if c.target == target and c.polls_left]
        self._turned_away += bool(found)
        for copy in found:
            copy.polls_left -= 1
        return bool(found)

    def _of_upload(self, reply: Reply, copy: Copy) -> Any:
        dialect, job_id = self.dialect, copy.job_id
        if reply.says == "failed":
            # Without the connection's help nobody need find the status in JSON:API's attributes.
            copy.said_failed = dialect.configured or dialect.shape != "jsonapi"
            return dialect.upload_answer(job_id, "failed")
        if reply.says == "rows":
            return {**dialect.upload_answer(job_id, "queued"), "errors": [{"row": 3, "message": "odd"}]}
        if reply.says == "strange id":
            return {"upload_ref": job_id, "errors": [{"row": 3, "message": "odd"}]}
        if reply.says == "request failed":
            found = {**dialect.upload_answer(job_id, "queued"), "status": "failed"}
            # Where the user told to look for the status, the truth stands.
            if not dialect.configured or SHAPES[dialect.shape][1] != "status":
                return found
        return dialect.upload_answer(job_id, "queued")

    def _poll(self, peer: Peer, path: str) -> None:
        name = self.script.next_poll()
        reply = POLLS[name]
        pattern = re.escape(f"/{self.dialect.job_path}").replace(re.escape("{job_id}"), "([^/]+)")
        found = re.fullmatch(pattern, path)
        copy = self.jobs.get(unquote(found[1])) if found else None
        self.script.log.append(f"{self.name}: GET {path}: {name or (copy.state if copy else 404)}")
        if reply.reads == "none":
            peer.reset()
            return
        if not copy:
            self._answer(peer, Reply(404, says="refusal"), None, None)
            return
        if reply.says != "late":
            copy.polls_left = max(0, copy.polls_left - (reply.says == "job" and not reply.cut and not reply.hangs))
        state = "processing" if reply.says == "late" else copy.state
        # What is cut off or never sent says nothing.
        whole = reply.says == "job" and not reply.cut and not reply.hangs
        copy.said_failed |= state == "failed" and whole
        self.script.polled += 1
        self._answer(peer, reply, copy, self.dialect.job_answer(copy.job_id, state))

    def _answer(self, peer: Peer, reply: Reply, copy: Copy | None, value: Any) -> None:
        job_id = copy.job_id if copy else ""
        if reply.hangs:
            peer.drain()
            return
        time.sleep(reply.delay)
        for status in reply.interim:
            link = "Link: </style.css>; rel=preload\r\n" if status == 103 else ""
            peer.send(f"HTTP/1.1 {status} Wait\r\n{link}\r\n".encode())
        if reply.status is None:
            if reply.says == "half a head":
                peer.send(b"HTTP/1.1 4")
            peer.reset()
            return
        message = {
            "error": {"status": "error", "message": "the backend is away"},
            "fail": {"status": "fail", "data": None, "message": "the backend is away"},
            "poll failed": {"status": "failed", "data": None, "message": "the backend is away"},
            "bare failed": {"status": "failed"},
            "an error": {"error": "the backend is away"},
            "other succeeded": {"id": "other-1", "status": "SUCCEEDED"},
            "other failed": {"id": "other-1", "status": "FAILED"},
            "refusal": {"error": "no"},
        }.get(reply.says, value)
        if message is not value and reply.status == 200 and self.dialect.would_lie(message):
            reply = Reply(500, says="page")
        body = {"page": b"<html><h1>Hello</h1></html>", "nothing": b""}.get(reply.says, json.dumps(message).encode())
        places = {
            "job": f"/{self.dialect.job_path.format(job_id=job_id)}",
            "page": "/thanks",
            "elsewhere": "https://elsewhere.example.com/",
            "same": "http://127.0.0.1:1/api/v2/upload",
        }
        headers = ["Connection: close"]
        headers += [f"Location: {places[reply.location]}"] if reply.location else []
        headers += [f"Retry-After: {reply.retry_after}"] if reply.retry_after else []
        if reply.cut:
            peer.send(f"HTTP/1.1 {reply.status} Status\r\nContent-Length: {len(body) + 9}\r\n\r\n".encode() + body[:5])
            peer.reset()
            return
        peer.respond(reply.status, body, *headers)
