"""For random dialects of a server: what is called sure is right, and the learned extra reads the server's responses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datatile_provider.api.models import Action, Upload
from datatile_provider.api.parsing import read_job, read_upload
from datatile_provider.api.responses import Response
from datatile_provider.api.settings import Settings
from datatile_provider.cli.openapi.findings import Certainty
from datatile_provider.cli.openapi.read import read
from tests.cli.samples import POLL, UPLOAD, fields, new_document

STATES = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")
WORDS = st.sampled_from(
    [
        ["queued", "running", "done", "failed", "cancelled"],
        ["IN_QUEUE", "PROCESSING", "IMPORT_FINISHED", "IMPORT_FAILED", "ABORTED"],
        ["wartet", "in Bearbeitung", "abgeschlossen", "fehlgeschlagen", "abgebrochen"],
        ["en attente", "en cours", "terminé", "erreur", "annulé"],
        ["ожидает", "обрабатывается", "завершено", "ошибка", "отменено"],
    ]
)
NUMBERS = st.sampled_from([[0, 1, 2, 3, 4], [10, 20, 30, 40, 50], [1, 2, 3, -1, -2]])
ID_NAMES = st.sampled_from(
    ["job_id", "jobId", "id", "taskUuid", "processing_id", "auftragsnummer", "ticket", "JobNumber"]
)
STATUS_NAMES = st.sampled_from(["status", "state", "jobStatus", "zustand", "Status", "processing_state"])
WRAPPERS = st.lists(
    st.sampled_from(["data", "result", "job", "payload", "antwort", "response"]), max_size=2, unique=True
)
PATHS = st.sampled_from(
    [POLL, "/tasks/{id}", "/jobs/{uuid}/status", "/processing-jobs/{number}", "/auftraege/{nummer}", "/Job/{Id}/"]
)
#: Fields that are neither the job's id nor its status, with a value of the server.
OTHERS: dict[str, tuple[dict[str, Any], Any]] = {
    "message": ({"type": "string"}, "accepted"),
    "folderId": ({"type": "string", "format": "uuid"}, "0b0c3c64-7d0c-4a53-8f0a-2b9a4a2f8f11"),
    "request_id": ({"type": "string"}, "17"),
    "createdAt": ({"type": "string", "format": "date-time"}, "2026-01-05T06:00:00Z"),
    "progress": ({"type": "integer"}, None),
    "jobs_ahead": ({"type": "integer"}, 3),
    "owner": (fields(id="integer", status={"enum": ["active", "blocked"]}), {"id": 7, "status": "active"}),
    "error": ({"type": "string", "nullable": True}, None),
}


@dataclass
class Dialect:
    """How a server speaks."""

    words: list[Any]
    explained: str
    id_name: str
    id_around: list[str]
    status_name: str
    status_around: list[str]
    poll: str
    beside_id: list[str]
    beside_status: list[str]

    def document(self) -> dict[str, Any]:
        """Return its document."""
        names = ["in queue", "running", "finished", "failed", "cancelled"]
        status: dict[str, Any] = {"enum": self.words}
        if self.explained == "text":
            status["description"] = ", ".join(f"{w} - {n}" for w, n in zip(self.words, names, strict=True))
        elif self.explained:
            status[self.explained] = names
        job = {self.status_name: status, **{name: OTHERS[name][0] for name in self.beside_status}}
        answer = {self.id_name: {"type": "string"}, **{name: OTHERS[name][0] for name in self.beside_id}}
        document = new_document(
            upload=_wrapped(fields(**answer), self.id_around, fields_of=True),
            job=_wrapped(fields(**job), self.status_around, fields_of=True),
            poll=self.poll,
        )
        assert set(document["paths"]) == {UPLOAD, self.poll}
        return document

    def upload(self) -> bytes:
        """Return its response to an upload."""
        answer = {**{name: OTHERS[name][1] for name in self.beside_id}, self.id_name: "4711"}
        return json.dumps(_wrapped(answer, self.id_around)).encode()

    def job(self, word: Any) -> bytes:
        """Return its response to a poll."""
        job = {**{name: OTHERS[name][1] for name in self.beside_status}, self.status_name: word}
        return json.dumps(_wrapped(job, self.status_around)).encode()


def _wrapped(value: Any, names: list[str], *, fields_of: bool = False) -> Any:
    for name in reversed(names):
        value = fields(**{name: value}) if fields_of else {name: value}
    return value


OTHER_NAMES = st.lists(st.sampled_from(sorted(OTHERS)), max_size=4, unique=True)
EXPLAINED = st.sampled_from(["text", "x-enum-varnames", "x-enumNames", "x-enum-descriptions", ""])
DIALECTS = st.builds(
    Dialect,
    words=WORDS | NUMBERS,
    explained=EXPLAINED,
    id_name=ID_NAMES,
    id_around=WRAPPERS,
    status_name=STATUS_NAMES,
    status_around=WRAPPERS,
    poll=PATHS,
    beside_id=OTHER_NAMES,
    beside_status=OTHER_NAMES,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(DIALECTS)
def test_what_is_sure_is_right(dialect):
    learned = read(dialect.document())
    truth = {
        "job's id": ".".join([*dialect.id_around, dialect.id_name]),
        "field of the status": ".".join([*dialect.status_around, dialect.status_name]),
        "path of a job's status": f"GET {dialect.poll}",
        "header of the token": "token",
        "path of the API": "api/v2",
        **{f"status {str(word)!r}": state for word, state in zip(dialect.words, STATES, strict=True)},
    }
    for found in learned.findings:
        if found.certainty is Certainty.SURE:
            assert found.found == truth.get(found.topic, found.found)
    explained = bool(dialect.explained) or isinstance(dialect.words[0], str)
    assert {f.topic for f in learned.findings if f.missing and f.topic.startswith("status ")} == (
        set() if explained else {f"status {str(word)!r}" for word in dialect.words}
    )
    # Nothing else in the responses may be taken for the id or for the status.
    assert learned.complete or not explained or dialect.beside_id or dialect.beside_status
    if not learned.complete:
        return
    server = Settings.of("t", host="h.example.com", token="t" * 8, extra=json.dumps(learned.extra)).server
    accepted = read_upload(server, Upload(Action.APPEND, "0f3a", "w.sav", 1), Response(202, dialect.upload()))
    assert accepted.id == "4711"
    for word, state in zip(dialect.words, STATES, strict=True):
        assert read_job(server, "4711", Response(200, dialect.job(word))).state == state
    assert server.job_url("4711") == f"https://h.example.com/api/v2{re.sub('{.*}', '4711', dialect.poll)}"
