"""A server that answers as a test scripts it."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "never-to-be-shown"
#: The answer to an upload to the target ``x``: it is accepted as ``job-x``.
ACCEPTED = (200, "accepted")


class ScriptedServer(ThreadingHTTPServer):
    """
    Answers the uploads to each target, and the questions for each job, in the order of a script.

    An answer is a status and a body, bytes or what is sent as JSON; None breaks off. The last one is repeated. A JSON
    object with a status gets the id of the job that was polled.

    :param uploads: the answers to uploads.
    :param jobs: the answers to questions for a job.
    """

    def __init__(self, uploads: tuple[Any, ...], jobs: tuple[Any, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._scripts = {"POST": uploads, "GET": jobs}
        self._left: dict[str, list[Any]] = {}
        self.connections = 0
        self.uploads: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def connection(self) -> dict[str, Any]:
        return {"conn_type": "datatile", "host": self.url, "password": TOKEN}

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def next_answer(self, method: str, path: str) -> Any:
        left = self._left.setdefault(path, list(self._scripts[method]))
        return left.pop(0) if len(left) > 1 else left[0]


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.uploads.append(self.path)
        self.do_GET()

    def do_GET(self) -> None:
        response = self.server.next_answer(self.command, self.path)
        if response is None:
            self.close_connection = True
            return
        status, body = response
        if response is ACCEPTED:
            body = {"job_id": f"job-{self.path.rpartition('/')[2]}"}
        elif self.command == "GET" and isinstance(body, dict) and "status" in body:
            # As DATATILE, it names the job that it was asked for.
            body = {"job_id": self.path.rpartition("/")[2], **body}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is printed here is the provider's."""
