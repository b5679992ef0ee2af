"""A server with scripted responses."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "never-to-be-shown"
#: The response to an upload to the target ``x``: it is accepted as ``job-x``.
ACCEPTED = (200, "accepted")


class ScriptedServer(ThreadingHTTPServer):
    """
    Responds to the uploads to each target, and to the polls of each job, in the order of a script.

    A response is a status and a body, as bytes or as a JSON value; None closes the connection. The last response is
    repeated. A JSON object with a ``status`` also gets the id of the polled job.

    :param uploads: the responses to uploads.
    :param jobs: the responses to polls.
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

    def next_response(self, method: str, path: str) -> Any:
        left = self._left.setdefault(path, list(self._scripts[method]))
        return left.pop(0) if len(left) > 1 else left[0]


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.uploads.append(self.path)
        self.do_GET()

    def do_GET(self) -> None:
        response = self.server.next_response(self.command, self.path)
        if response is None:
            self.close_connection = True
            return
        status, body = response
        if response is ACCEPTED:
            body = {"job_id": f"job-{self.path.rpartition('/')[2]}"}
        elif self.command == "GET" and isinstance(body, dict) and "status" in body:
            # Like DATATILE, name the polled job.
            body = {"job_id": self.path.rpartition("/")[2], **body}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the tests read what the provider prints."""
