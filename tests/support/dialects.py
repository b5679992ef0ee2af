"""Random dialects of the API, as options of the sandbox."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from datatile_provider.sandbox import Options

_STATES = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")
_WRAPPERS = ("", "data.", "result.job.", "antwort.", "Response.body.", "x-reply.")
_NAMES = {
    "job_id_field": ("job_id", "id", "nummer", "taskId", "Vorgang", "ref"),
    "status_field": ("status", "state", "lage", "phase.name", "code"),
    "rows_field": ("rows", "imported", "stats.count", "zeilen"),
    "database_field": ("database", "db", "target.db_hash", "tabelle"),
}
_WORDS = ("Eingereiht", "in der Schlange", "läuft", "fertig!", "kaputt", "OK", "loaded", "success", "error", "weg", "7")
# Without those that are trusted in another meaning, and without those that a gateway sends too.
_CODES = (400, 402, 405, 406, 410, 411, 412, 415, 416, 418, 420, 422, 451, 460, 498)
_REASONS = ("busy", "too_large", "too_fast", "token", "role", "not_found", "rejected")


def _words() -> st.SearchStrategy[dict[str, Any]]:
    texts = st.permutations(_WORDS).map(lambda words: dict(zip(_STATES, words, strict=False)))
    numbers = st.lists(st.integers(-3, 99), min_size=5, max_size=5, unique=True).map(
        lambda found: dict(zip(_STATES, found, strict=True))
    )
    # {"done": true}
    flags = st.just({"QUEUED": False, "RUNNING": False, "SUCCEEDED": True, "FAILED": "bad", "CANCELLED": "gone"})
    return st.one_of(st.just({}), texts, numbers, flags)


def _codes() -> st.SearchStrategy[dict[str, int]]:
    few = st.lists(st.sampled_from(_REASONS), unique=True).flatmap(
        lambda reasons: st.permutations(_CODES).map(lambda codes: dict(zip(reasons, codes, strict=False)))
    )
    swapped = st.just({"token": 403, "role": 401})
    # With 400 or 422 for another reason, "rejected" needs a code of its own.
    return (few | swapped).map(
        lambda codes: codes if {400, 422}.isdisjoint(codes.values()) else {"rejected": 424, **codes}
    )


@st.composite
def dialects(draw: st.DrawFn) -> dict[str, Any]:
    """
    Return options of a sandbox, those that say how it speaks.

    Each is a dialect that the connection's options can express: no two reasons of a rejection have the same code.
    """
    fields = {
        option: draw(st.sampled_from(_WRAPPERS)) + draw(st.sampled_from(names)) for option, names in _NAMES.items()
    }
    job_path = st.sampled_from(
        (
            "{api_path}/jobs/{job_id}",
            "{api_path}/vorgang/{job_id}/zustand",
            "status?id={job_id}",
            "{api_path}/job.php?kind=upload&nr={job_id}",
            "jobs/{job_id}.json?full=1",
            "{job_id}",
        )
    )
    dialect: dict[str, Any] = {
        **fields,
        "api_path": draw(st.sampled_from(("api/v2", "rest", "a/b/c-3"))),
        "job_path": draw(job_path),
        "bare_id": draw(st.sampled_from((None, None, "json", "text"))),
        "numeric_ids": draw(st.booleans()),
        "state_words": draw(_words()),
        "codebook_export_path": draw(
            st.sampled_from(
                ("{api_path}/projects/{hash}/api/codebook/export-v2/", "kodebuch/{hash}", "db/{hash}/out.xlsx")
            )
        ),
        "codebook_import_path": draw(
            st.sampled_from(("{api_path}/projects/{hash}/api/codebook/import-v2/", "kodebuch/{hash}", "db/{hash}/in/"))
        ),
        "codebook_field": draw(st.sampled_from(("file", "codebook", "datei"))),
        "callback_field": draw(st.sampled_from(("callback", "notify_url", "rückruf"))),
        "status_codes": draw(_codes()),
    }
    chosen = {name: value for name, value in dialect.items() if draw(st.integers(0, 3))}
    try:
        Options(**chosen)
    except ValueError:
        # One field is inside another.
        return {name: value for name, value in chosen.items() if name not in _NAMES}
    return chosen
