"""Servers that send the responses of a script."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.support.rawserver import TOKEN, Peer, RawServer

#: The response to an upload to the target ``x``: it is accepted as ``job-x``.
ACCEPTED = (200, "accepted")


def scripted(
    *responses: tuple[Any, ...], requests: list[str] | None = None, delay: float = 0.0
) -> Callable[[Peer], None]:
    """
    Return a handler that sends these responses in order, and repeats the last one.

    :param responses: each a status, a body, and headers.
    :param requests: is filled with the heads of the requests.
    :param delay: seconds before each response.
    """
    remaining = list(responses)

    def handle(peer: Peer) -> None:
        while True:
            head, _ = peer.request()
            if requests is not None:
                requests.append(head)
            time.sleep(delay)
            peer.respond(*(remaining.pop(0) if len(remaining) > 1 else remaining[0]))

    return handle


class ScriptedServer(RawServer):
    """
    Responds to the uploads to each target, and to the polls of each job, in the order of a script.

    A response is a status and a body, as bytes or as a JSON value; None closes the connection. The last response is
    repeated. A JSON object with a ``status`` also gets the id of the polled job. Each request has its own connection.

    :param uploads: the responses to uploads.
    :param jobs: the responses to polls.
    """

    def __init__(self, uploads: tuple[Any, ...], jobs: tuple[Any, ...]) -> None:
        super().__init__(self._respond)
        self._scripts = {"POST": uploads, "GET": jobs}
        self._left: dict[str, list[Any]] = {}
        self.uploads: list[str] = []

    @property
    def connection(self) -> dict[str, Any]:
        return {"conn_type": "datatile", "host": self.url, "password": TOKEN}

    def _respond(self, peer: Peer) -> None:
        method, path, _ = peer.request()[0].split(" ", 2)
        if method == "POST":
            self.uploads.append(path)
        left = self._left.setdefault(path, list(self._scripts[method]))
        response = left.pop(0) if len(left) > 1 else left[0]
        if response is None:
            return
        status, body = response
        name = path.rpartition("/")[2]
        if response is ACCEPTED:
            body = {"job_id": f"job-{name}"}
        elif method == "GET" and isinstance(body, dict) and "status" in body:
            # Like DATATILE, name the polled job.
            body = {"job_id": name, **body}
        peer.respond(status, body if isinstance(body, bytes) else json.dumps(body).encode(), "Connection: close")
