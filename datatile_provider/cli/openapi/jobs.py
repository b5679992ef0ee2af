"""Finds the operation that reports a job's status."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from datatile_provider.api.models import ServerConfig
from datatile_provider.api.states import JobState, state_of
from datatile_provider.cli.openapi.answers import Answer
from datatile_provider.cli.openapi.document import Operation
from datatile_provider.cli.openapi.findings import Certainty, Finding
from datatile_provider.cli.openapi.names import IDS, JOBS, OTHERS, STATUS_NAMES, WORK
from datatile_provider.cli.openapi.uploads import UploadOperation, filled
from datatile_provider.cli.openapi.vocabulary import has_any, tokens

_MAX_CANDIDATES = 60
#: The score of what a link in the document names.
LINK = 100
_DEFAULT = ServerConfig("")


@dataclass(frozen=True, slots=True)
class Poll:
    """
    An operation that may report a job's status.

    :param operation: the operation.
    :param parameter: the parameter that is the job's id.
    :param place: ``path`` or ``query``.
    :param needs: other parameters that it requires.
    """

    operation: Operation
    parameter: str
    place: str
    needs: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Its path below the server, with ``{job_id}``."""
        path = filled(self.operation, self.operation.path)
        if self.place == "path":
            return path.replace(f"{{{self.parameter}}}", "{job_id}")
        return f"{path}?{self.parameter}={{job_id}}"


def polls_of(uploads: list[UploadOperation]) -> list[Poll]:
    """Return the operations that may report a job's status."""
    document = uploads[0].operation.node.document
    found = [poll for operation in document.operations() if operation.method == "get" for poll in _polls(operation)]
    about_jobs = [
        p for p in found if has_any(tokens(f"{p.operation.path} {p.parameter} {p.operation.about}"), (*JOBS, *WORK))
    ]
    return (about_jobs or found)[:_MAX_CANDIDATES]


def _polls(operation: Operation) -> Iterator[Poll]:
    in_path = re.findall(r"\{([^{}/]+)\}", filled(operation, operation.path))
    query = [p for p in operation.parameters() if p.text("in") == "query"]
    required = [p.text("name") for p in query if p.value.get("required") is True]
    for name in in_path[-1:]:
        yield Poll(operation, name, "path", (*in_path[:-1], *required))
    for name in required or [p.text("name") for p in query]:
        if not in_path and (has_any(tokens(name), JOBS) or set(tokens(name)) & set(IDS)):
            yield Poll(operation, name, "query", tuple(r for r in required if r != name))


def links_of(uploads: list[UploadOperation]) -> Iterator[tuple[str, str, str]]:
    """Yield operation, parameter and field of each link in the response of an upload (OpenAPI 3)."""
    for upload in uploads:
        for _, link in upload.operation.success()[1]["links"].members():
            target = link.text("operationId") or link.text("operationRef")
            for name, _ in link["parameters"].members():
                source = re.fullmatch(r"\{?\$response\.(?:body#|header)[/.](.+?)\}?", link["parameters"].text(name))
                if source and target:
                    yield target, name.rpartition(".")[2], source[1].replace("/", ".")


def _is_target(operation: Operation, target: str) -> bool:
    path = operation.path.replace("~", "~0").replace("/", "~1")
    return operation.node.text("operationId") == target or target.endswith(f"#/paths/{path}/{operation.method}")


def choose_poll(uploads: list[UploadOperation], polls: list[Poll]) -> tuple[list[Poll], str]:
    """Return the best candidates, of which one alone is the right one, and why."""
    links = list(links_of(uploads))
    linked = [p for p in polls for target, name, _ in links if _is_target(p.operation, target) and p.parameter == name]
    if linked:
        return list(dict.fromkeys(linked)), "the upload's response links to it"
    names = {"".join(tokens(f.name)) for upload in uploads for f in Answer.of(upload.operation).ids}
    scored = sorted(((_score(poll, names), i) for i, poll in enumerate(polls)), reverse=True)
    best = [polls[i] for score, i in scored if score == scored[0][0] and score > 3]
    return best, ""


def _score(poll: Poll, names: set[str]) -> int:
    path = tokens(poll.operation.path.replace(f"{{{poll.parameter}}}", ""))
    parameter = tokens(poll.parameter)
    description = next(
        (p.text("description") for p in poll.operation.parameters() if p.text("name") == poll.parameter), ""
    )
    score = 4 * has_any(path, JOBS) + 4 * has_any(parameter, JOBS) + 2 * has_any(path, WORK)
    score += has_any(parameter, WORK) + 3 * ("".join(parameter) in names and parameter != ["id"])
    score += 2 * has_any(tokens(description), JOBS) + 2 * has_any(tokens(poll.operation.about), JOBS)
    score += has_any(tokens(poll.operation.about), ("status", "state", "progress", "poll"))
    found = Answer.of(poll.operation).fields
    score += 4 * any(set(tokens(f.name)) & STATUS_NAMES for f in found)
    score += 2 * any(state_of(_DEFAULT, str(v)) is not JobState.UNKNOWN for f in found for v in f.values)
    # /jobs/{id}/log is about a job too.
    tail = tokens(poll.operation.path.rpartition("}")[2])
    return score - 4 * bool(set(tail) - {"status", "state", "progress", "json"}) - 4 * has_any(parameter, OTHERS)


def find_job_path(polls: list[Poll], why: str, api_path: str) -> Finding:
    """
    Return where a job's status is polled.

    :param polls: the best candidates.
    :param api_path: where the API is on the server, for a path below it.
    """
    topic, option = "path of a job's status", "job_path"
    names = tuple(poll.operation.name for poll in polls)
    if not polls:
        return Finding(topic, Certainty.NOT_FOUND, option=option, why="no GET takes the id of a job")
    poll, where = polls[0], polls[0].operation.node.pointer
    if len(polls) > 1:
        why = "several operations may report it"
        return Finding(topic, Certainty.NOT_FOUND, option=option, where=where, why=why, candidates=names)
    if poll.needs:
        why = f"it needs {', '.join(poll.needs)} too"
        return Finding(topic, Certainty.DIFFERS, names[0], option, where=where, why=why)
    bases = {base for _, base, _ in poll.operation.prefixes()}
    paths = {"/".join(part for part in f"{base}/{poll.path}".split("/") if part) for base in bases}
    path = paths.pop()
    if paths:
        why = "its servers have several paths"
        return Finding(topic, Certainty.NOT_FOUND, names[0], option, where=where, why=why, candidates=(path, *paths))
    if poll.operation.path.endswith("/"):
        path += "/"
    if api_path and path.startswith(f"{api_path}/"):
        path = f"{{api_path}}{path[len(api_path) :]}"
    sure = bool(why) or _score(poll, set()) >= 8
    why = why or ("" if sure else "nothing else in the document may report a job")
    value = None if path == _DEFAULT.job_path else path
    return Finding(topic, Certainty.SURE if sure else Certainty.LIKELY, names[0], option, value, where, why)
