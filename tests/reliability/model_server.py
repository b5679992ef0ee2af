"""
A model of a DATATILE server, over real sockets: it knows the true state of each job, and reports it in some dialect.

A status next to a job's own id, or in the configured status field, is always true. Any other status may belong to an
envelope, to another job, or to a gateway that knows nothing about the job.
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

from tests.support.rawserver import TOKEN, Peer, RawServer

#: How a response holds a job: the path of its id, the path of its status (None if there is none), and the JSON.
SHAPES: dict[str, tuple[str, str | None, Callable[[str, str], Any]]] = {
    "flat": ("job_id", "status", lambda job_id, word: {"job_id": job_id, "status": word}),
    "id": ("id", "status", lambda job_id, word: {"id": job_id, "status": word}),
    "jsend": (
        "data.id",
        "data.status",
        lambda job_id, word: {"status": "success", "data": {"id": job_id, "status": word}},
    ),
    "payload": (
        "payload.id",
        "payload.status",
        lambda job_id, word: {"status": "success", "payload": {"id": job_id, "status": word}},
    ),
    "state": (
        "id",
        "state",
        lambda job_id, word: {"status": "success", "message": f"job {word}", "id": job_id, "state": word},
    ),
    "state without id": (
        "id",
        "state",
        lambda job_id, word: {"status": "success", "message": f"job {word}", "state": word},
    ),
    "bare": ("id", "status", lambda job_id, word: {"status": word}),
    "listed": (
        "id",
        None,
        lambda job_id, word: {
            "status": "success",
            "jobs": [{"id": "other-1", "status": "SUCCEEDED"}, {"id": job_id, "status": word}],
        },
    ),
    "jsonapi": (
        "data.id",
        "data.attributes.status",
        lambda job_id, word: {"data": {"type": "jobs", "id": job_id, "attributes": {"status": word}}},
    ),
    "rows": (
        "id",
        "status",
        lambda job_id, word: {
            "id": job_id,
            "status": word,
            **({"errors": [{"row": 3}]} if word == "succeeded" else {}),
        },
    ),
}
#: The shape of the response to an upload, which always holds the job's id: a job without an id cannot be polled.
SHAPE_OF_UPLOAD = {"state without id": "state", "bare": "id", "listed": "id", "rows": "id"}


class CompactRepr:
    """Base of dataclasses whose ``repr`` omits fields with their default value."""

    def __repr__(self) -> str:
        own: Any = fields(self)  # type: ignore[arg-type]  # a class that is no dataclass itself
        found = ((f.name, getattr(self, f.name)) for f in own if getattr(self, f.name) != f.default)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in found)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Let Hypothesis print the same."""
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class Dialect(CompactRepr):
    """
    The dialect of one server.

    :param shape: the shape of a response with a job: a key of :data:`SHAPES`.
    :param configured: the connection's extra holds the paths of id and status.
    :param job_path: the path of a job; one that is not the default is always configured.
    :param busy: it rejects an upload while an earlier one to the same target is processed.
    """

    shape: str = "flat"
    configured: bool = False
    job_path: str = "api/v2/jobs/{job_id}"
    busy: bool = False

    @property
    def extra(self) -> dict[str, str]:
        """The connection's extra for this dialect."""
        found = {} if self.job_path == Dialect.job_path else {"job_path": self.job_path}
        if self.configured:
            id_field, status_field, _ = SHAPES[self.shape]
            found["job_id_field"] = id_field
            if status_field:
                found["status_field"] = status_field
        return found

    def upload_response(self, job_id: str, word: str) -> dict[str, Any]:
        body: dict[str, Any] = SHAPES[SHAPE_OF_UPLOAD.get(self.shape, self.shape)][2](job_id, word)
        return body

    def job_response(self, job_id: str, word: str) -> Any:
        return SHAPES[self.shape][2](job_id, word)

    def has_status_in(self, value: Any) -> bool:
        """Return whether a value, which is not about a job, holds something in the configured status field."""
        return self.configured and _dig(value, SHAPES[self.shape][1] or "") is not None


def _dig(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


@dataclass(frozen=True)
class Reply:
    """
    How the server, or a gateway in front of it, handles one request.

    :param status: the status of the response; None closes the connection instead.
    :param held: the server accepts the body.
    :param body: what the response's body holds.
    :param location: where a redirect leads: to the ``job``, to another ``page``, to the ``same`` path of another
        server, or to a page ``elsewhere``.
    :param interim: statuses of the interim responses before it.
    :param reads: how much of the request is read before the response: ``all``, ``some`` or ``none``.
    :param drains: the rest of the request is read after an early response.
    :param cut: the connection is closed in the middle of the response.
    :param hangs: no response is sent.
    """

    status: int | None = 200
    held: bool = True
    body: str = "job"
    location: str = ""
    retry_after: str = ""
    interim: tuple[int, ...] = ()
    reads: str = "all"
    drains: bool = True
    cut: bool = False
    hangs: bool = False
    delay: float = 0.0


def _gateway(status: int, **kwargs: Any) -> dict[str, Reply]:
    """Return a response that does not tell whether the body was accepted: both cases."""
    note = "".join(f", {k} {v}" for k, v in kwargs.items())
    return {
        f"{status}{note}, held": Reply(status, body="page", **kwargs),
        f"{status}{note}, not held": Reply(status, held=False, body="page", **kwargs),
    }


#: Rejections that DATATILE documents, and others that are unambiguous. The body is never accepted.
REJECTIONS = {
    "409 busy": Reply(409, held=False, body="rejection"),
    "423 locked": Reply(423, held=False, body="rejection"),
    "429": Reply(429, held=False, body="rejection"),
    "429, at once": Reply(429, held=False, body="rejection", retry_after="0"),
    "429, for an hour": Reply(429, held=False, body="rejection", retry_after="3600"),
    "429, after 103": Reply(429, held=False, body="rejection", retry_after="0", interim=(103,)),
    **{str(status): Reply(status, held=False, body="rejection") for status in (400, 401, 403, 404, 413, 422)},
    "413, early": Reply(413, held=False, body="rejection", reads="some", drains=False),
    "307, elsewhere": Reply(307, held=False, body="nothing", location="elsewhere"),
    "308, same path": Reply(308, held=False, body="nothing", location="same"),
    "307, same path": Reply(307, held=False, body="nothing", location="same"),
    "302, same path": Reply(302, held=False, body="nothing", location="same"),
    "reset at once": Reply(None, held=False, reads="none"),
    "reset in the body": Reply(None, held=False, reads="some"),
    "503 in the body": Reply(503, held=False, body="page", reads="some", drains=False),
    "200 in the body, then gone": Reply(200, held=False, body="a lost job", reads="some", drains=False),
}
#: Responses after which the outcome is unknown, and acceptances of unusual form.
AMBIGUOUS = {
    **_gateway(408),
    **_gateway(425),
    **_gateway(500),
    **_gateway(502),
    **_gateway(503),
    **_gateway(503, retry_after="0"),
    **_gateway(504),
    **_gateway(303, location="page"),
    **_gateway(302, location="page"),
    "303 to the job": Reply(303, body="nothing", location="job"),
    "302 to the job": Reply(302, body="nothing", location="job"),
    "202 and the job's location": Reply(202, body="nothing", location="job"),
    "201 and nothing": Reply(201, body="nothing"),
    "200 and a page": Reply(200, body="page"),
    "early": Reply(200, reads="some"),
    "early 202": Reply(202, reads="some"),
    "early, after 103": Reply(200, reads="some", interim=(103,)),
    "early, held, then gone": Reply(200, reads="some", drains=False),
    "late": Reply(200, delay=0.05),
    "102": Reply(200, interim=(102,)),
    "103": Reply(200, interim=(103,)),
    "102 and 103": Reply(200, interim=(102, 103)),
    "102, then 502": Reply(502, body="page", interim=(102,)),
    "102, then gone": Reply(None, interim=(102,)),
    "gone, held": Reply(None),
    "gone, not held": Reply(None, held=False),
    "gone in the response": Reply(200, cut=True),
    "gone in the status line": Reply(None, held=True, body="half a status line"),
    "no response, held": Reply(hangs=True),
    "no response, not held": Reply(hangs=True, held=False),
    "error, held": Reply(200, body="error"),
    "error, not held": Reply(200, held=False, body="error"),
    "fail, held": Reply(200, body="fail"),
    "fail, not held": Reply(200, held=False, body="fail"),
    "errors and an unknown id field": Reply(200, body="unknown id field"),
    "errors beside the id": Reply(200, body="rows"),
    "failed beside the id": Reply(200, body="failed"),
    "failed beside the id, of the request": Reply(200, body="request failed"),
}
UPLOADS = {"": Reply(), **REJECTIONS, **AMBIGUOUS}
#: Outcomes after which an upload is retried without a user, as documented.
TRANSIENT = ("409 busy", "423 locked", "429", "429, at once", "reset at once", "reset in the body", "503 in the body")
#: Here the client can tell that the last byte was not sent only if the file is larger than all buffers.
LARGE = (
    *("reset at once", "reset in the body", "503 in the body", "200 in the body, then gone", "413, early"),
    *("early", "early 202", "early, after 103", "early, held, then gone"),
)
#: Acceptances of unusual form that the client must recognize.
ACCEPTING = ("late", "102", "103", "102 and 103", "303 to the job", "302 to the job", "202 and the job's location")

POLLS = {
    "": Reply(),
    **{str(status): Reply(status, body="page") for status in (409, 500, 502, 503, 504)},
    "429": Reply(429, body="rejection", retry_after="0"),
    "425": Reply(425, body="page"),
    "429, for an hour": Reply(429, body="rejection", retry_after="3600"),
    "401": Reply(401, body="rejection"),
    "404": Reply(404, body="rejection"),
    "302": Reply(302, body="nothing", location="page"),
    "reset": Reply(None, reads="none"),
    "gone in the response": Reply(200, cut=True),
    "no response": Reply(hangs=True),
    "103": Reply(200, interim=(103,)),
    "page": Reply(200, body="page"),
    "nothing": Reply(200, body="nothing"),
    "error": Reply(200, body="error"),
    "fail": Reply(200, body="fail"),
    "failed": Reply(200, body="poll failed"),
    "bare failed": Reply(200, body="bare failed"),
    "an error": Reply(200, body="an error"),
    "other succeeded": Reply(200, body="other succeeded"),
    "other failed": Reply(200, body="other failed"),
    "late": Reply(200, body="late"),
}


@dataclass(eq=False)
class Copy:
    """
    An upload that a server has accepted.

    :param content: identifies the file.
    :param end: the state in which its job ends, after ``polls_left`` more polls.
    :param reported_failed: the server has reported that its job failed.
    :param reported: an error has named it to the user.
    :param acknowledged: the user has seen that error, and cleared the task.
    :param resend_wanted: the user cleared the successful task that sent it.
    """

    server: str
    job_id: str
    target: str
    action: str
    content: str
    end: str = "succeeded"
    polls_left: int = 0
    reported_failed: bool = False
    reported: bool = False
    acknowledged: bool = False
    resend_wanted: bool = False

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.server, self.target, self.action, self.content

    @property
    def state(self) -> str:
        return "processing" if self.polls_left else self.end


@dataclass
class Script:
    """
    How the next requests are handled, at either server; all later ones succeed.

    :param ends: for each upload that will be accepted, the state in which its job ends, and after how many polls.
    :param on_held: called with each accepted upload.
    """

    uploads: deque[str] = field(default_factory=deque)
    polls: deque[str] = field(default_factory=deque)
    ends: deque[tuple[str, int]] = field(default_factory=deque)
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

    :param name: its name in the log.
    :param others: the states of other users' jobs, which have the first ids.
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
        self._busy_count = 0
        self.internal_error: Exception | None = None

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
        """Wait until everything that was sent is read; return whether every client has closed its connection."""
        # A closed connection may still be in the listen backlog. A later connection is accepted after it.
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), 3.0) as ping:
            ping.sendall(b"PING / HTTP/1.1\r\n\r\n")
            ping.recv(1)
        return self._raw.wait_until_left(3.0)

    def hold(self, target: str, action: str, content: str, end: str, polls: int) -> Copy:
        job_id = f"job-{len(self.jobs) + 1}"
        copy = self.jobs[job_id] = Copy(self.name, job_id, target, action, content, end, polls)
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
                self.internal_error = e
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
        remaining = int(found[1]) if found else 0
        start = peer.read(min(remaining, 1 << 12))
        remaining -= len(start)
        content = re.search(rb"content-\d+", start)
        copy = Copy(self.name, "lost-1", target, action, "")
        if reply.reads == "some":
            if reply.status is None:
                peer.reset()
                return
            if reply.held and not reply.drains and content:
                # The server accepts the part that it has received.
                copy = self._accept(target, action, content[0].decode(), reply)
            elif reply.held:
                # The server accepts the body after it has drained it, but responds with the job's id now.
                copy.job_id = f"job-{len(self.jobs) + 1}"
            self._respond(peer, reply, copy, self._upload_value(reply, copy))
            time.sleep(0.02)
            if not reply.drains:
                return
        while remaining:
            end = peer.read(min(remaining, 1 << 16))
            remaining -= len(end)
            start = (start + end)[-200:]
        if reply.held and content and start.endswith(b"--\r\n"):
            copy = self._accept(target, action, content[0].decode(), reply)
        if reply.reads == "all":
            self._respond(peer, reply, copy, self._upload_value(reply, copy))

    def _accept(self, target: str, action: str, content: str, reply: Reply) -> Copy:
        end, polls = self.script.ends.popleft() if self.script.ends else ("succeeded", 1)
        if reply.body == "failed":
            end, polls = "failed", 0
        copy = self.hold(target, action, content, end, polls)
        self.script.log.append(f"{self.name}: holds {content} as {copy.job_id}")
        self.copies.append(copy)
        self.script.on_held(copy)
        return copy

    def _is_busy(self, target: str) -> bool:
        # Limited: backoffs are so short here that a reload of unknown outcome would otherwise never be accepted.
        if not self.dialect.busy or self._busy_count >= 20:
            return False
        found = [c for c in self.copies if c.target == target and c.polls_left]
        self._busy_count += bool(found)
        for copy in found:
            copy.polls_left -= 1
        return bool(found)

    def _upload_value(self, reply: Reply, copy: Copy) -> Any:
        dialect, job_id = self.dialect, copy.job_id
        if reply.body == "failed":
            # Without configuration the client need not find the status in the attributes of JSON:API.
            copy.reported_failed = dialect.configured or dialect.shape != "jsonapi"
            return dialect.upload_response(job_id, "failed")
        if reply.body == "rows":
            return {**dialect.upload_response(job_id, "queued"), "errors": [{"row": 3, "message": "odd"}]}
        if reply.body == "unknown id field":
            return {"upload_ref": job_id, "errors": [{"row": 3, "message": "odd"}]}
        if reply.body == "request failed":
            found = {**dialect.upload_response(job_id, "queued"), "status": "failed"}
            # The configured status field always holds the true status.
            if not dialect.configured or SHAPES[dialect.shape][1] != "status":
                return found
        return dialect.upload_response(job_id, "queued")

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
            self._respond(peer, Reply(404, body="rejection"), None, None)
            return
        if reply.body != "late":
            copy.polls_left = max(0, copy.polls_left - (reply.body == "job" and not reply.cut and not reply.hangs))
        state = "processing" if reply.body == "late" else copy.state
        # A response that is cut or never sent reports nothing.
        complete = reply.body == "job" and not reply.cut and not reply.hangs
        copy.reported_failed |= state == "failed" and complete
        self.script.polled += 1
        self._respond(peer, reply, copy, self.dialect.job_response(copy.job_id, state))

    def _respond(self, peer: Peer, reply: Reply, copy: Copy | None, value: Any) -> None:
        job_id = copy.job_id if copy else ""
        if reply.hangs:
            peer.drain()
            return
        time.sleep(reply.delay)
        for status in reply.interim:
            link = "Link: </style.css>; rel=preload\r\n" if status == 103 else ""
            peer.send(f"HTTP/1.1 {status} Wait\r\n{link}\r\n".encode())
        if reply.status is None:
            if reply.body == "half a status line":
                peer.send(b"HTTP/1.1 4")
            peer.reset()
            return
        message = {
            "error": {"status": "error", "message": "the backend is down"},
            "fail": {"status": "fail", "data": None, "message": "the backend is down"},
            "poll failed": {"status": "failed", "data": None, "message": "the backend is down"},
            "bare failed": {"status": "failed"},
            "an error": {"error": "the backend is down"},
            "other succeeded": {"id": "other-1", "status": "SUCCEEDED"},
            "other failed": {"id": "other-1", "status": "FAILED"},
            "rejection": {"error": "no"},
        }.get(reply.body, value)
        status = reply.status
        if message is not value and status == 200 and self.dialect.has_status_in(message):
            reply, status = Reply(500, body="page"), 500
        body = {"page": b"<html><h1>Hello</h1></html>", "nothing": b""}.get(reply.body, json.dumps(message).encode())
        locations = {
            "job": f"/{self.dialect.job_path.format(job_id=job_id)}",
            "page": "/thanks",
            "elsewhere": "https://elsewhere.example.com/",
            "same": "http://127.0.0.1:1/api/v2/upload",
        }
        headers = ["Connection: close"]
        headers += [f"Location: {locations[reply.location]}"] if reply.location else []
        headers += [f"Retry-After: {reply.retry_after}"] if reply.retry_after else []
        if reply.cut:
            peer.send(f"HTTP/1.1 {status} Status\r\nContent-Length: {len(body) + 9}\r\n\r\n".encode() + body[:5])
            peer.reset()
            return
        peer.respond(status, body, *headers)
