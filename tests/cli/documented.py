"""The servers that the documents in ``documents`` describe: each speaks as the truth beside its document says."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.rawserver import TOKEN

DOCUMENTS = Path(__file__).parent / "documents"
#: The number of each document.
NUMBERS = sorted(path.name.partition(".")[0] for path in DOCUMENTS.glob("*.truth.json"))


@dataclass(frozen=True)
class Truth:
    """
    How a server speaks.

    :param values: the file with its truth; ``$ID`` and ``$STATUS`` in its responses are filled in, as JSON numbers when
        ``:int`` follows.
    """

    document: Path
    values: dict[str, Any]

    @classmethod
    def of(cls, number: str) -> Truth:
        (document,) = (path for path in DOCUMENTS.glob(f"{number}.*") if ".truth." not in path.name)
        return cls(document, json.loads((DOCUMENTS / f"{number}.truth.json").read_text("utf-8")))

    @property
    def words(self) -> dict[str, list[str]]:
        words: dict[str, list[str]] = self.values["words"]
        return words

    def upload_response(self, job_id: str) -> tuple[str, bytes]:
        """Return the content type and the body."""
        template = self.values["upload_response"]
        if isinstance(template, dict) and set(template) == {"text/plain"}:
            return "text/plain", job_id.encode()
        return "application/json", _filled(template, job_id, "")

    def job_response(self, job_id: str, word: str) -> bytes:
        return _filled(self.values["job_response"], job_id, word)


def _filled(template: Any, job_id: str, word: str) -> bytes:
    text = json.dumps(template)
    for name, value in (("ID", job_id), ("STATUS", word)):
        text = text.replace(f'"${name}:int"', value).replace(f'"${name}"', json.dumps(value))
    return text.encode()


@contextmanager
def serving(truth: Truth, last_words: list[str]) -> Iterator[str]:
    """
    Serve what a document describes, and yield the server's address.

    Each upload gets a job, which shows all words for an unfinished job and then one of the last words.
    """
    values, jobs = truth.values, dict[str, Iterator[str]]()
    unfinished = [*truth.words["QUEUED"], *truth.words["RUNNING"]]
    job_path = re.escape(f"/{values['job_path']}").replace(r"\{job_id\}", r"([0-9]+)")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            target = re.fullmatch(rf"/{re.escape(values['base_path'])}/upload/(create|reload|append)/\w+", self.path)
            field = values["callback_field"]
            fits = b'name="dataset"; filename=' in body and (field is None or f'name="{field}"'.encode() in body)
            if not (target and fits and self.headers["token"] == TOKEN):
                self.send_error(400)
                return
            job_id = str(4711 + len(jobs))
            last = last_words[len(jobs) % len(last_words)]
            jobs[job_id] = itertools.chain(unfinished, itertools.repeat(last))
            self._respond(values["upload_status"], *truth.upload_response(job_id))

        def do_GET(self) -> None:
            job = re.fullmatch(job_path, self.path)
            if not (job and job[1] in jobs and self.headers["token"] == TOKEN):
                self.send_error(404)
                return
            self._respond(200, "application/json", truth.job_response(job[1], next(jobs[job[1]])))

        def _respond(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
