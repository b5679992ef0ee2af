"""Finds the operation that reports a job's status."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from datatile_provider.api.models import ServerConfig
from datatile_provider.api.states import JobState, state_of
from datatile_provider.cli.openapi.answers import Answer
from datatile_provider.cli.openapi.document import Node, Operation
from datatile_provider.cli.openapi.findings import Certainty, Finding
from datatile_provider.cli.openapi.names import IDS, JOB, JOBS, OTHERS, STATUS_NAMES, WORK
from datatile_provider.cli.openapi.uploads import UploadOperation, filled
from datatile_provider.cli.openapi.vocabulary import has_any, tokens

_MAX_CANDIDATES = 60
_NO_JOB = 3
_MARGIN = 4
_SURE = 10
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
    :param fixed: other query parameters that it requires, each with the only value that it can have.
    """

    operation: Operation
    parameter: str
    place: str
    needs: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Its path below the server, with ``{job_id}``."""
        path = filled(self.operation, self.operation.path)
        if self.place == "path":
            path, query = path.replace(f"{{{self.parameter}}}", "{job_id}"), self.fixed
        else:
            query = (*self.fixed, f"{self.parameter}={{job_id}}")
        return f"{path}?{'&'.join(query)}" if query else path


def polls_of(uploads: list[UploadOperation]) -> list[Poll]:
    """Return the operations that may report a job's status."""
    document = uploads[0].operation.node.document
    found = [poll for operation in document.operations() if operation.method == "get" for poll in _polls(operation)]
    about_jobs = [
        p for p in found if has_any(tokens(f"{p.operation.path} {p.parameter} {p.operation.about}"), (*JOBS, *WORK))
    ]
    roots = _roots(uploads)
    return sorted(about_jobs or found, key=lambda poll: not _is_below(poll, roots))[:_MAX_CANDIDATES]


def _polls(operation: Operation) -> Iterator[Poll]:
    in_path = re.findall(r"\{([^{}/]+)\}", filled(operation, operation.path))
    query = [p for p in operation.parameters() if p.text("in") == "query"]
    needed = {p.text("name"): _only_value(p) for p in query if p.value.get("required") is True}
    fixed = tuple(f"{name}={value}" for name, value in needed.items() if value)
    required = [name for name, value in needed.items() if not value]
    for name in in_path[-1:]:
        yield Poll(operation, name, "path", (*in_path[:-1], *required), fixed)
    for name in required or [p.text("name") for p in query]:
        if not in_path and (has_any(tokens(name), JOBS) or set(tokens(name)) & set(IDS)):
            yield Poll(operation, name, "query", tuple(r for r in required if r != name), fixed)


def _only_value(parameter: Node) -> str:
    """Return the only value that a parameter can have, as it is written in a URL, or ``""``."""
    schema = parameter["schema"] or parameter
    values = [schema["const"].value] if schema["const"] else schema["enum"].value
    only = values[0] if isinstance(values, list) and len(values) == 1 else None
    return quote(str(only), safe="") if isinstance(only, (str, int)) and not isinstance(only, bool) else ""


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


@dataclass(frozen=True, slots=True)
class Choice:
    """
    Which operation reports a job's status.

    :param polls: the best candidates; only one alone is the right one.
    :param sure: whether the document says so.
    :param why: what shows it, or why it may be another.
    """

    polls: list[Poll]
    sure: bool = False
    why: str = ""

    @property
    def poll(self) -> Poll | None:
        """The operation, if there is one candidate only."""
        return self.polls[0] if len(self.polls) == 1 else None


def choose_poll(uploads: list[UploadOperation], polls: list[Poll]) -> Choice:
    """Return the operation that reports a job's status, or the best candidates."""
    links = list(links_of(uploads))
    linked = {
        poll.path: poll
        for poll in polls
        for target, name, _ in links
        if _is_target(poll.operation, target) and poll.parameter == name
    }
    if linked:
        return Choice(list(linked.values()), sure=True, why="the upload's response links to it")
    names = {"".join(tokens(f.name)) for upload in uploads for f in Answer.of(upload.operation).ids}
    scored = [(_score(poll, names), poll) for poll in polls]
    roots = _roots(uploads)
    near = [(score, poll) for score, poll in scored if _is_below(poll, roots)]
    top, top_near = max([0, *(s for s, _ in scored)]), max([0, *(s for s, _ in near)])
    if top_near >= max(_SURE, top - _MARGIN) and len(near) < len(scored):
        elsewhere = [poll.operation.name for score, poll in scored if score >= top_near and not _is_below(poll, roots)]
        choice = _best(near, top_near)
        return Choice(choice.polls, why=f"another API has {elsewhere[0]}") if choice.sure and elsewhere else choice
    return _best(scored, top)


def _best(scored: list[tuple[int, Poll]], top: int) -> Choice:
    # The words of a name weigh little against an operation that reports a status too.
    best = [
        poll
        for score, poll in scored
        if score > _NO_JOB and (score == top or (score >= top - _MARGIN and _reports_status(poll)))
    ]
    if len(best) > 1 and len({poll.path.partition("{job_id}")[0] for poll in best}) == 1:
        shortest = min(best, key=lambda poll: len(poll.path))
        others = ", ".join(poll.operation.name for poll in best if poll is not shortest)
        return Choice([shortest], why=f"there is {others} too")
    sure = top >= _SURE
    return Choice(best, sure=sure, why="" if sure else "little says that it reports a job")


def _roots(uploads: list[UploadOperation]) -> set[str]:
    """Return where the API is. Others behind the same gateway have jobs too."""
    return {f"{base}/{upload.prefix}" for upload in uploads for _, base, _ in upload.operation.prefixes()}


def _is_below(poll: Poll, roots: set[str]) -> bool:
    paths = [f"{base}/{poll.path}".split("/") for _, base, _ in poll.operation.prefixes()]
    starts = [[part for part in root.split("/") if part] for root in roots]
    return any([part for part in path if part][: len(start)] == start for path in paths for start in starts)


def _reports_status(poll: Poll) -> bool:
    found = Answer.of(poll.operation).fields
    named = any(set(tokens(f.name)) & STATUS_NAMES for f in found)
    return named or any(state_of(_DEFAULT, str(v)) is not JobState.UNKNOWN for f in found for v in f.values)


def _score(poll: Poll, names: set[str]) -> int:
    path = tokens(poll.operation.path.replace(f"{{{poll.parameter}}}", ""))
    parameter = tokens(poll.parameter)
    description = next(
        (p.text("description") for p in poll.operation.parameters() if p.text("name") == poll.parameter), ""
    )
    score = 4 * has_any(path, JOBS) + 4 * has_any(parameter, JOBS) + 2 * has_any(path, WORK)
    score += has_any(path, JOB) + has_any(parameter, JOB)
    score += has_any(parameter, WORK) + 3 * ("".join(parameter) in names and parameter != ["id"])
    score += 2 * has_any(tokens(description), JOBS) + 2 * has_any(tokens(poll.operation.about), JOBS)
    score += has_any(tokens(poll.operation.about), ("status", "state", "progress", "poll"))
    found = Answer.of(poll.operation).fields
    score += 4 * any(set(tokens(f.name)) & STATUS_NAMES for f in found)
    score += 2 * any(state_of(_DEFAULT, str(v)) is not JobState.UNKNOWN for f in found for v in f.values)
    # /jobs/{id}/log is about a job too.
    tail = tokens(poll.operation.path.rpartition("}")[2]) if poll.place == "path" else []
    return score - 4 * bool(set(tail) - {"status", "state", "progress", "json"}) - 4 * has_any(parameter, OTHERS)


def find_job_path(choice: Choice, api_path: str) -> Finding:
    """
    Return where a job's status is polled.

    :param api_path: where the API is on the server, for a path below it.
    """
    topic, option = "path of a job's status", "job_path"
    names = tuple(poll.operation.name for poll in choice.polls)
    if not choice.polls:
        return Finding(topic, Certainty.NOT_FOUND, option=option, why="no GET takes the id of a job")
    poll, where = choice.polls[0], choice.polls[0].operation.node.pointer
    if not choice.poll:
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
    value = None if path == _DEFAULT.job_path else path
    certainty = Certainty.SURE if choice.sure else Certainty.LIKELY
    return Finding(topic, certainty, names[0], option, value, where, choice.why)
