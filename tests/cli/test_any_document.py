"""No document, whatever it holds, ends in another error than the package's own."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datatile_provider.cli.openapi.load import DocumentError, load
from datatile_provider.cli.openapi.read import read
from tests.cli.samples import new_document

_KEYS = """
    $ref paths get post parameters in name schema properties type enum const items allOf oneOf anyOf description
    responses 200 202 4XX 409 default content application/json multipart/form-data requestBody servers url variables
    security token headers Location links callbacks required x-enum-varnames x-ms-enum values value format title
    openapi swagger basePath host schemes example status job_id
"""
_TEXTS = """
    # #/ #/paths #/components/schemas/Job #/components/schemas/Job/properties other.yaml# string object array integer
    formData path query header file 2.0 3.0.3 3.1.0 binary queued done /upload/{a}/{b} /api/v2 http://[ https://x/{y}
    {$request.body#/a} $response.body#/id token \ud800 \u001b[31m 0
"""
KEYS = st.sampled_from(_KEYS.split())
TEXTS = st.sampled_from(_TEXTS.split())
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | KEYS | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=5),
    max_leaves=25,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, found in inner for place in places(found, (*path, name)))]


def mutated(draw: st.DrawFn) -> Any:
    document = new_document()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(document)))
        if not place:
            continue
        owner: Any = document
        for name in place[:-1]:
            owner = owner[name]
        change = draw(st.sampled_from(["replace", "remove", "add", "copy"]))
        if change == "remove" and isinstance(owner, dict):
            del owner[place[-1]]
        elif change == "add" and isinstance(owner, dict):
            owner[draw(KEYS)] = draw(VALUES)
        elif change == "copy":
            source: Any = document
            for name in draw(st.sampled_from(places(document))):
                source = source[name]
            owner[place[-1]] = copy.deepcopy(source)
        else:
            owner[place[-1]] = draw(VALUES)
    return document


def check(value: Any) -> None:
    try:
        learned = read(value)
    except DocumentError as error:
        assert str(error).startswith("INVALID INPUT\n")  # noqa: PT017 - any document may also be read
        return
    assert isinstance(learned.complete, bool)
    json.dumps(learned.extra)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_any_json_value(value):
    check(value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.composite(mutated)())
def test_any_change_of_a_good_document(value):
    check(value)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes(body):
    try:
        value = load(body)
    except DocumentError:
        return
    check(value)


def test_the_document_that_is_changed_is_good():
    assert read(new_document()).complete
    with pytest.raises(DocumentError):
        read({})
