"""Finds which field of an upload's response is the job's id."""

from __future__ import annotations

from typing import Any

from datatile_provider.cli.openapi.answers import Answer, read_id, server_with
from datatile_provider.cli.openapi.findings import Certainty, Finding
from datatile_provider.cli.openapi.jobs import LINK, Poll, links_of
from datatile_provider.cli.openapi.names import IDS, JOBS, OTHERS, WORK
from datatile_provider.cli.openapi.schemas import Field
from datatile_provider.cli.openapi.uploads import UploadOperation
from datatile_provider.cli.openapi.vocabulary import has_any, tokens


def find_job_id(uploads: list[UploadOperation], poll: Poll | None, extra: dict[str, Any]) -> Finding:
    """
    Return which field of an upload's response is the job's id.

    :param poll: the operation that reports the job's status, if it is known.
    :param extra: what was learned so far.
    """
    found = [_job_id(upload, poll, extra, list(links_of([upload]))) for upload in uploads]
    if len({(f.found, f.certainty, f.value) for f in found}) == 1:
        return found[0]
    if bad := [f for f in found if f.certainty in (Certainty.NOT_FOUND, Certainty.DIFFERS)]:
        return bad[0]
    values = {f.found for f in found}
    if len(values) == 1:
        return next((f for f in found if f.value), found[0])
    why = "it differs between the uploads"
    return Finding("job's id", Certainty.NOT_FOUND, option="job_id_field", why=why, candidates=tuple(sorted(values)))


def _job_id(
    upload: UploadOperation, poll: Poll | None, extra: dict[str, Any], links: list[tuple[str, str, str]]
) -> Finding:
    topic, option = "job's id", "job_id_field"
    answer = Answer.of(upload.operation)
    where = answer.node.pointer
    scores = {f.dotted: _id_score(f, poll, links) for f in answer.ids}
    best = [f for f in answer.ids if scores[f.dotted] == max(scores.values()) and scores[f.dotted] > 0]
    if len(best) == 1:
        return _explicit_or_default(best[0], answer, extra, scores[best[0].dotted])
    if best:
        why = "several fields may be it"
        return Finding(topic, Certainty.NOT_FOUND, "", option, None, where, why, tuple(f.dotted for f in best))
    if answer.is_bare:
        server = server_with(extra)
        read, right = read_id(server, answer, None) if server else ("", "?")
        if read == right:
            return Finding(topic, Certainty.SURE, "the whole response", option, where=where)
        return Finding(
            topic, Certainty.DIFFERS, "the whole response", option, where=where, why=f"{right!r} is not read"
        )
    if any(name.lower() == "location" for name, _ in answer.node["headers"].members()):
        known = poll is not None and answer.status in (200, 201, 202, 301, 302, 303)
        certainty = Certainty.LIKELY if known else Certainty.NOT_FOUND
        why = "if it is the URL of the job's status" if known else "the path of a job's status is not known"
        return Finding(topic, certainty, "header Location", option, where=where, why=why)
    listed = tuple(f.dotted for f in answer.fields if f.listed and f.scalar and has_any(tokens(f.name), IDS))
    if listed:
        return Finding(topic, Certainty.DIFFERS, ", ".join(listed[:5]), option, where=where, why="it is in a list")
    names = tuple(f.dotted for f in answer.fields if f.path and f.scalar)[:20]
    why = "no field of the upload's response is named like it"
    return Finding(topic, Certainty.NOT_FOUND, "", option, where=where, why=why, candidates=names)


def _id_score(field: Field, poll: Poll | None, links: list[tuple[str, str, str]]) -> int:
    if any(field.dotted == source for _, _, source in links):
        return LINK
    words = tokens(field.name)
    is_id = bool(set(words) & set(IDS)) or any(word.endswith(("nummer", "nr")) for word in words)
    about = tokens(field.about)
    score = 3 * has_any(words, JOBS) + 2 * has_any(words, WORK) + is_id
    if poll and "".join(words) == "".join(tokens(poll.parameter)):
        score += 1 if words == ["id"] else 4
    if has_any(about, JOBS):
        score += 2 + (1 if not has_any(about, OTHERS) else 0)
    elif has_any(about, OTHERS):
        score -= 3
    if poll and field.name == "id" and field.node.pointer in {f.node.pointer for f in Answer.of(poll.operation).fields}:
        # The upload returns the same job as the poll.
        score += 3
    inside = [word for name in field.path[:-1] for word in tokens(name)]
    score += 3 * (is_id and has_any(inside, JOBS)) - 4 * has_any(inside, OTHERS) - 4 * has_any(words, OTHERS)
    return score


def _explicit_or_default(chosen: Field, answer: Answer, extra: dict[str, Any], score: int) -> Finding:
    """Return the finding for a field: without the option where the provider reads it by itself."""
    topic, option = "job's id", "job_id_field"
    where = chosen.node.pointer
    sure = score >= 3 or len(answer.ids) == 1
    certainty, why = (Certainty.SURE, "") if sure else (Certainty.LIKELY, "its name does not say that it is a job's")
    for value in (None, chosen.dotted):
        server = server_with({**extra, option: value} if value else extra)
        reads = [read_id(server, answer, chosen, sparse=sparse) for sparse in (False, True)] if server else [("", "?")]
        if all(read == right for read, right in reads):
            return Finding(topic, certainty, chosen.dotted, option, value, where, why)
    why = "the provider does not read it there"
    return Finding(topic, Certainty.DIFFERS, chosen.dotted, option, None, where, why)
