"""Which bytes are a document, and how quickly the others are rejected."""

from __future__ import annotations

import json
import time

import pytest

from datatile_provider.cli.openapi.load import MAX_BYTES, MAX_YAML_BYTES, DocumentError, load
from datatile_provider.cli.openapi.read import read
from tests.cli.samples import new_document

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
NESTED = "openapi: 3.0.0\npaths: " + "{a: " * 200 + "}" * 200


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "The document is empty"),
        (b" \n", "The document is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "The document is not text"),
        (b"PK\x03\x04\x14\0\0\0\0", "The document is not text"),
        (b"openapi: '3'\0", "The document is not text"),
        (b"<!DOCTYPE html><title>API</title>", "The document is a web page or XML"),
        (b'{"openapi": "3.0.0", "paths": {', "The document is not valid JSON"),
        (b"openapi: 3.0.0\npaths: [\n", "The document is not valid YAML"),
        (b"a: *missing", "undefined alias"),
        (b"a: !!python/object/apply:os.system ['true']", "The document is not valid YAML"),
        (b"? [a]\n: b", "The document is not valid YAML"),
        (b"a: &a [*a]", "nested more than 100 levels"),
        (b"[" * 100_000, "nested more than 100 levels"),
        (b"- " * 100_000, "nested more than 100 levels"),
        (b"x: " + b"[" * 100_000, "nested more than 100 levels"),
        (NESTED.encode(), "nested more than 100 levels"),
        (BOMB.encode(), "The document has more than 5,000,000 values"),
        (b"a" * (MAX_YAML_BYTES + 1), "The document is YAML, and larger than 4,000,000 bytes"),
        (b"{" + b" " * MAX_BYTES, "The document is larger than 50,000,000 bytes"),
    ],
)
def test_what_is_no_document_is_an_error_at_once(body, text):
    start = time.monotonic()
    with pytest.raises(DocumentError) as error:
        load(body)
    assert text in " ".join(str(error.value).split())
    assert time.monotonic() - start < 10


def test_yaml_is_read_as_version_1_2():
    body = b"answers: {200: a, no: b}\nwhen: 2026-01-05\noctal: 010\nlist: [on, off, yes, true, null, -1, 1.5]"
    assert load(body) == {
        "answers": {"200": "a", "no": "b"},
        "when": "2026-01-05",
        "octal": "010",
        "list": ["on", "off", "yes", True, None, -1, 1.5],
    }


def test_an_alias_is_the_value_that_it_stands_for():
    assert load(b"a: &a {x: 1}\nb: [*a, *a]") == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1}]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_in_any_unicode_encoding(encoding):
    assert read(load(json.dumps(new_document()).encode(encoding))).complete


def test_references_cannot_make_a_document_slow():
    """Each schema holds the next one ten times, twenty levels deep."""
    document = new_document()
    schemas = document["components"]["schemas"]
    for level in range(20):
        inner = {"$ref": f"#/components/schemas/S{level + 1}"}
        schemas[f"S{level}"] = {"allOf": [inner] * 10, "properties": {f"p{i}": inner for i in range(10)}}
    schemas["S20"] = {"type": "string"}
    schemas["Job"]["properties"]["more"] = {"$ref": "#/components/schemas/S0"}
    schemas["Loop"] = {"$ref": "#/components/schemas/Loop"}
    schemas["Job"]["properties"]["loop"] = {"$ref": "#/components/schemas/Loop"}
    start = time.monotonic()
    read(document)
    assert time.monotonic() - start < 20
