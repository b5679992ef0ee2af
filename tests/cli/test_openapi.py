"""What is learned from a document, and how sure that is."""

from __future__ import annotations

from typing import Any

import pytest

from datatile_provider.cli.openapi.findings import Certainty, Finding, Learned
from datatile_provider.cli.openapi.load import DocumentError
from datatile_provider.cli.openapi.read import read
from tests.cli.samples import POLL, UPLOAD, WORDS, fields, new_document, returns

SURE, LIKELY, NOT_FOUND, DIFFERS = Certainty
QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"


def finding(learned: Learned, topic: str) -> Finding:
    (found,) = (f for f in learned.findings if f.topic == topic)
    return found


def test_a_server_that_speaks_as_assumed_needs_no_option():
    learned = read(new_document())
    assert learned.extra == {}
    assert learned.complete
    assert finding(learned, "job's id").found == "job_id"
    assert finding(learned, "field of the status").where == "#/components/schemas/Job/properties/status"


def test_swagger_2():
    explained = "0 - queued, 1 - running, 2 - done, 3 - failed"
    job = fields(Id="integer", State={"type": "integer", "enum": [0, 1, 2, 3], "description": explained})
    learned = read(
        {
            "swagger": "2.0",
            "host": "dt.example.com",
            "basePath": "/base/api",
            "securityDefinitions": {"key": {"type": "apiKey", "in": "header", "name": "Token"}},
            "security": [{"key": []}],
            "definitions": {"Job": job},
            "paths": {
                "/upload/{action}/{hash}": {
                    "post": {
                        "parameters": [
                            {"in": "formData", "name": "dataset", "type": "file", "required": True},
                            {"in": "formData", "name": "callbackUrl", "type": "string"},
                        ],
                        "responses": {"200": {"description": "OK", "schema": {"type": "integer"}}},
                    }
                },
                "/job/status": {
                    "get": {
                        "parameters": [{"in": "query", "name": "jobId", "type": "integer", "required": True}],
                        "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/Job"}}},
                    }
                },
            },
        }
    )
    assert learned.complete
    assert learned.extra == {
        "api_path": "base/api",
        "callback_field": "callbackUrl",
        "job_path": "{api_path}/job/status?jobId={job_id}",
        "status_field": "State",
        "status_map": {"0": QUEUED, "1": RUNNING, "2": SUCCEEDED, "3": FAILED},
    }


@pytest.mark.parametrize(
    ("servers", "expected", "certainty"),
    [
        ([{"url": "https://a.example.com/x/{v}", "variables": {"v": {"default": "v3"}}}], "x/v3", SURE),
        ([{"url": "https://a.example.com/x"}, {"url": "https://b.example.com/x/"}], "x", SURE),
        ([{"url": "../v9"}], "docs/v9", SURE),
        ([{"url": "https://a.example.com/x"}, {"url": "https://b.example.com/y"}], None, NOT_FOUND),
        ([{"url": "https://a.example.com/{v}"}], None, DIFFERS),
        ([{"url": "https://a.example.com"}], None, DIFFERS),
    ],
)
def test_the_path_of_the_api(servers, expected, certainty):
    document = new_document()
    document["servers"] = servers
    learned = read(document, "https://datatile.example.com/docs/ui/openapi.json")
    assert finding(learned, "path of the API").certainty is certainty
    assert learned.extra.get("api_path") == expected
    assert learned.complete == (certainty is SURE)


def test_an_upload_operation_for_each_action():
    document = new_document()
    operation = document["paths"].pop(UPLOAD)
    document["paths"].update({f"/upload/{action}/{{hash}}": operation for action in ("create", "reload", "append")})
    assert read(document).complete
    del document["paths"]["/upload/append/{hash}"]
    learned = read(document)
    assert not learned.complete
    assert finding(learned, "uploads").why == "there is none for append"


def test_references():
    document = new_document()
    document["x-items"] = {"a/b~c": document["paths"][POLL]}
    document["paths"][POLL] = {"$ref": "#/x-items/a~1b~0c"}
    document["components"]["schemas"]["Job"]["properties"]["parent"] = {"$ref": "#/components/schemas/Job"}
    learned = read(document)
    assert learned.complete
    assert learned.extra == {}
    document["components"]["schemas"]["Job"] = {"$ref": "models.yaml#/Job"}
    learned = read(document)
    assert not learned.complete
    assert learned.notes == ("The document refers to 'models.yaml#/Job', which was not read.",)


ID = {"type": "string", "format": "uuid"}


@pytest.mark.parametrize(
    ("upload", "option", "certainty"),
    [
        (fields(data=fields(job=fields(id="integer"))), None, SURE),
        (fields(answer=fields(jobUuid=ID)), "answer.jobUuid", SURE),
        (
            fields(id={**ID, "description": "Hash of the folder"}, ticket={**ID, "description": "The job"}),
            "ticket",
            SURE,
        ),
        (fields(id="integer", processing=fields(job_number="integer")), "processing.job_number", SURE),
        (fields(auftragsnummer="integer"), "auftragsnummer", SURE),
        ({"allOf": [fields(ok="boolean"), {"oneOf": [fields(taskKey=ID), {"type": "null"}]}]}, "taskKey", SURE),
        ({"type": "integer"}, None, SURE),
        (fields(id=ID, databaseId=ID), None, LIKELY),
        (fields(processId=ID, taskId=ID), None, NOT_FOUND),
        (fields(message="string"), None, NOT_FOUND),
        (fields(folder_id=ID, request_id=ID), None, NOT_FOUND),
        (fields(jobs_ahead="integer", job_priority="string", message="string"), None, NOT_FOUND),
        (fields(previous_job_id=ID, ticket=ID), "ticket", SURE),
        (fields(previous_job_id=ID, job_id=ID), None, SURE),
        (fields(database=fields(id=ID), job=fields(uid=ID)), "job.uid", SURE),
        (fields(jobs={"type": "array", "items": fields(job_id=ID)}), None, DIFFERS),
        ({"type": "object", "properties": {"job.id": ID}}, None, DIFFERS),
    ],
)
def test_the_id_of_the_job(upload, option, certainty):
    learned = read(new_document(upload=upload))
    assert finding(learned, "job's id").certainty is certainty
    assert learned.extra.get("job_id_field") == option
    assert learned.complete == (certainty in (SURE, LIKELY))


def test_a_link_names_job_and_operation():
    document = new_document(upload=fields(processId=ID, taskId=ID), poll="/processes/{id}")
    document["paths"]["/tasks/{id}"] = document["paths"]["/processes/{id}"]
    assert finding(read(document), "path of a job's status").candidates == ("GET /processes/{id}", "GET /tasks/{id}")
    link = {"operationRef": "#/paths/~1processes~1{id}/get", "parameters": {"id": "$response.body#/processId"}}
    document["paths"][UPLOAD]["post"]["responses"]["202"]["links"] = {"status": link}
    learned = read(document)
    assert learned.complete
    assert learned.extra == {"job_id_field": "processId", "job_path": "{api_path}/processes/{job_id}"}


def status(words: list[Any], **more: Any) -> dict[str, Any]:
    return fields(job_id="string", status={"enum": words, **more})


NUMBERS = {"0": QUEUED, "1": RUNNING, "2": SUCCEEDED, "3": FAILED}


@pytest.mark.parametrize(
    "more",
    [
        {"description": "0 - in queue, 1 = processing; 2: done | 3 -> failed"},
        {"description": "| `0` | in queue |\n| `1` | running |\n| `2` | done |\n| `3` | failed |"},
        {"description": "Waiting = 0, Running = 1, Done = 2, Failed = 3"},
        {"description": "waiting (0), running (1), done (2), failed (3)"},
        {"x-enum-varnames": ["JobNew", "JobActive", "JobDone", "JobError"]},
        {"x-enumNames": ["Queued", "Running", "Finished", "Failed"]},
        {"x-enum-descriptions": {"0": "in queue", "1": "in progress", "2": "done", "3": "failed"}},
        {"x-ms-enum": {"values": [{"value": number, "name": word} for number, word in enumerate(WORDS)]}},
    ],
)
def test_numbers_that_the_document_explains(more):
    learned = read(new_document(job=status([0, 1, 2, 3], **more)))
    assert learned.extra["status_map"] == NUMBERS
    assert learned.complete


@pytest.mark.parametrize(
    "words",
    [
        ["wartet", "läuft", "fertig", "Fehler"],
        ["en attente", "en cours", "terminé", "échec"],
        ["en cola", "procesando", "completado", "fallido"],
        ["в очереди", "выполняется", "готово", "ошибка"],
        ["w kolejce", "w toku", "zakończone", "błąd"],
        ["ve frontě", "probíhá", "dokončeno", "chyba"],
        ["IMPORT_QUEUED", "IMPORT_RUNNING", "IMPORT_DONE", "IMPORT_FAILED"],
    ],
)
def test_words_of_other_languages_and_constants(words):
    learned = read(new_document(job=status(words)))
    assert learned.extra["status_map"] == dict(zip(words, NUMBERS.values(), strict=True))
    assert learned.complete


def test_usual_words_need_no_map():
    learned = read(new_document(job=status([*WORDS, "stopped"])))
    assert learned.complete
    assert learned.extra == {}


def test_a_text_about_something_else_explains_no_status():
    document = new_document(job=status([0, 1, 2, 3]))
    text = "Exit codes of the program: 0 - success, 1 - error, 2 - cancelled, 3 - queued"
    document["paths"][POLL]["get"]["description"] = text
    learned = read(document)
    assert {f.certainty for f in learned.findings if f.topic.startswith("status ")} == {LIKELY}
    document["paths"][POLL]["get"]["description"] = f"The status is one of: {text}"
    learned = read(document)
    assert {f.certainty for f in learned.findings if f.topic.startswith("status ")} == {SURE}


def test_a_default_that_its_description_does_not_confirm_is_likely():
    learned = read(new_document(rejections={"409": "A database with this name exists", "423": "Locked"}))
    assert finding(learned, "HTTP status 409").certainty is LIKELY
    assert finding(learned, "HTTP status 423").certainty is SURE


def test_a_value_that_the_connection_would_reject_is_none():
    learned = read(new_document(form={"callback url": "string"}))
    assert finding(learned, "field of the callback").certainty is DIFFERS
    assert learned.extra == {}
    assert learned.complete


def test_the_jobs_of_another_api_behind_the_same_gateway():
    document = new_document()
    document["paths"] = {f"/collector{path}": item for path, item in document["paths"].items()}
    document["paths"]["/export/jobs/{job_id}"] = document["paths"][f"/collector{POLL}"]
    learned = read(document)
    assert learned.extra == {"api_path": "api/v2/collector"}
    assert finding(learned, "path of a job's status").certainty is LIKELY


def test_alternatives_with_titles_explain_words():
    alternatives = [{"const": i, "title": title} for i, title in enumerate(["Waiting", "Active", "Done", "Failed"])]
    learned = read(new_document(job=fields(job_id="string", status={"oneOf": alternatives})))
    assert learned.extra["status_map"] == NUMBERS


@pytest.mark.parametrize(
    ("word", "description"),
    [
        ("archived", ""),
        ("7", "7 - see the manual"),
        ("closed", "closed: finished with errors"),
        ("half", "half: partially finished"),
        ("created", "created: the database is finished"),
        ("done", "done: waiting"),
        ("idle", "idle: not finished"),
        ("held", "held: will fail if nobody releases it"),
        ("UPLOAD_COMPLETE", ""),
        ("file received, validation finished", ""),
        ("4", "4: the file is processed"),
        ("kept", "kept: accepted and done"),
    ],
)
def test_a_word_without_a_clear_explanation_is_never_sure(word, description):
    learned = read(new_document(job=status([*WORDS, word] if word not in WORDS else WORDS, description=description)))
    found = finding(learned, f"status {word!r}")
    assert found.certainty is NOT_FOUND
    assert word not in learned.extra.get("status_map", {})
    assert not learned.complete


def test_a_document_without_the_words_says_so():
    learned = read(new_document(job=fields(job_id="string", status="string")))
    assert [f.topic for f in learned.findings if f.missing] == ["words of the status"]


def test_the_status_of_the_job_is_not_that_of_the_request():
    request = {"enum": ["success", "error"]}
    learned = read(new_document(job=fields(status=request, data=fields(job_id="string", state={"enum": WORDS}))))
    assert learned.complete
    assert finding(learned, "field of the status").found == "data.state"


def test_the_status_of_the_database_is_not_that_of_the_job():
    of_database = {"enum": ["created", "active", "failed", "done"]}
    learned = read(new_document(job=fields(job_id="string", status={"enum": [0, 1]}, database_status=of_database)))
    assert finding(learned, "field of the status").found == "status"


def test_two_statuses_that_are_as_likely_are_candidates():
    learned = read(new_document(job=fields(job_id="string", status={"enum": WORDS}, state={"enum": WORDS})))
    assert finding(learned, "field of the status").certainty is NOT_FOUND
    assert finding(learned, "field of the status").candidates == ("status", "state")


@pytest.mark.parametrize(
    ("path", "parameters", "option", "certainty"),
    [
        ("/processing/{ticket}/status", [], "{api_path}/processing/{job_id}/status", SURE),
        ("/jobs", [{"in": "query", "name": "id", "required": True}], "{api_path}/jobs?id={job_id}", SURE),
        ("/jobs/{id}/", [], "{api_path}/jobs/{job_id}/", SURE),
        ("/folders/{folder}/jobs/{id}", [], None, DIFFERS),
        ("/things/{id}", [], "{api_path}/things/{job_id}", LIKELY),
    ],
)
def test_the_path_of_a_job(path, parameters, option, certainty):
    document = new_document(poll=path)
    document["paths"][path]["parameters"] = parameters
    learned = read(document)
    assert finding(learned, "path of a job's status").certainty is certainty
    assert learned.extra.get("job_path") == option


@pytest.mark.parametrize(
    ("form", "option", "certainty"),
    [
        ({"callback": "string"}, None, SURE),
        ({"webhookUrl": "string", "callback_secret": "string"}, "webhookUrl", SURE),
        ({"push": {"type": "string", "description": "URL of a webhook"}}, "push", SURE),
        ({"target": {"type": "string", "format": "uri"}}, "target", LIKELY),
        ({"callback_ok": "string", "callback_failed": "string"}, None, NOT_FOUND),
        ({"comment": "string"}, None, NOT_FOUND),
    ],
)
def test_the_field_of_the_callback(form, option, certainty):
    learned = read(new_document(form=form))
    assert finding(learned, "field of the callback").certainty is certainty
    assert learned.extra.get("callback_field") == option
    assert learned.complete


def test_the_callbacks_of_an_operation_name_the_field():
    document = new_document(form={"first": {"format": "uri"}, "second": {"format": "uri"}})
    document["paths"][UPLOAD]["post"]["callbacks"] = {"finished": {"{$request.body#/second}": {"post": {}}}}
    assert read(document).extra == {"callback_field": "second"}


@pytest.mark.parametrize(
    ("schemes", "security", "certainty"),
    [
        ({"t": {"type": "apiKey", "in": "header", "name": "TOKEN"}}, [{"t": []}], SURE),
        ({"t": {"type": "apiKey", "in": "header", "name": "token"}}, None, LIKELY),
        ({"t": {"type": "apiKey", "in": "header", "name": "X-Token"}}, [{"t": []}], DIFFERS),
        ({"t": {"type": "apiKey", "in": "query", "name": "token"}}, [{"t": []}], DIFFERS),
        ({"b": {"type": "http", "scheme": "bearer"}}, [{"b": []}], DIFFERS),
        (
            {"t": {"type": "apiKey", "in": "header", "name": "token"}, "b": {"type": "http", "scheme": "basic"}},
            [{"t": [], "b": []}],
            DIFFERS,
        ),
        (
            {"t": {"type": "apiKey", "in": "header", "name": "token"}, "b": {"type": "http", "scheme": "basic"}},
            [{"b": []}, {"t": []}],
            SURE,
        ),
        ({}, None, NOT_FOUND),
    ],
)
def test_the_header_of_the_token(schemes, security, certainty):
    document = new_document()
    document["components"]["securitySchemes"] = schemes
    document["security"] = security
    assert finding(read(document), "header of the token").certainty is certainty


@pytest.mark.parametrize(
    ("rejections", "option"),
    [
        ({"409": "An upload is in progress", "413": "Too large", "429": "Too many uploads", "401": "Token"}, None),
        ({"400": "The previous upload is still processing"}, {"400": "busy"}),
        ({"403": "The token is invalid", "418": "Zu viele Anfragen"}, {"403": "token", "418": "too_fast"}),
        ({"403": "The token's user lacks a role", "404": "No such folder"}, None),
        ({"400": "The file is too large, or another upload is running"}, None),
        ({"422": "The file cannot be read", "500": "Error"}, None),
        ({"503": "Another upload is in progress"}, None),
        ({"400": "The file contains too many columns"}, None),
        ({"400": "Unexpected token in the codebook", "422": "The account is locked"}, None),
    ],
)
def test_the_codes_of_a_rejection(rejections, option):
    learned = read(new_document(rejections=rejections))
    assert learned.extra.get("status_codes") == option
    assert learned.complete


@pytest.mark.parametrize(
    ("more", "rows", "database"),
    [
        ({"rows": "integer", "database": "string"}, None, None),
        ({"importedRows": "integer", "rows_failed": "integer", "dbHash": "string"}, "importedRows", "dbHash"),
        ({"stats": fields(interviews="integer"), "base": fields(db_id="string")}, "stats.interviews", "base.db_id"),
        ({"error": fields(row="integer"), "database_name": "string"}, None, None),
        ({"rows_a": "integer", "rows_b": "integer"}, None, None),
    ],
)  # fmt: skip
def test_the_results_of_a_job(more, rows, database):
    learned = read(new_document(job=fields(job_id="string", status={"enum": WORDS}, **more)))
    assert learned.extra.get("rows_field") == rows
    assert learned.extra.get("database_field") == database


def test_another_name_of_the_part_has_no_option():
    document = new_document()
    form = document["paths"][UPLOAD]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    form["properties"] = {"file": {"type": "string", "format": "binary"}}
    learned = read(document)
    assert finding(learned, "part of the file").certainty is DIFFERS
    assert not learned.complete


def test_other_required_input_is_named():
    document = new_document(form={"comment": "string"})
    operation = document["paths"][UPLOAD]["post"]
    operation["requestBody"]["content"]["multipart/form-data"]["schema"]["required"] = ["dataset", "comment"]
    operation["parameters"] = [{"in": "query", "name": "language", "required": True}]
    learned = read(document)
    assert finding(learned, "other required input").found == "form field comment, query language"
    assert not learned.complete


def test_examples_stand_in_for_a_schema():
    document = new_document()
    example = {"auftrag": {"nummer": 4711, "seit": "2026-01-05T06:00:00Z"}}
    content = {"application/json": {"examples": {"one": {"value": example}}}}
    document["paths"][UPLOAD]["post"]["responses"] = {"200": {"content": content}}
    assert read(document).extra == {"job_id_field": "auftrag.nummer"}


def test_a_location_is_read_without_an_option():
    document = new_document()
    document["paths"][UPLOAD]["post"]["responses"] = {"202": {"headers": {"Location": {}}}}
    learned = read(document)
    assert finding(learned, "job's id").certainty is LIKELY
    assert learned.extra == {}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], "This is not an OpenAPI document"),
        ({"openapi": "1.2"}, "This is not an OpenAPI document"),
        ({"openapi": "3.0.0", "paths": {}}, "This is not the document of DATATILE's Data Collector API"),
        (
            {"openapi": "3.0.0", "paths": {"/upload": {"post": {"responses": returns({})}}}},
            "Data Collector API: it has no",
        ),
    ],
)
def test_another_document_is_an_error(document, text):
    with pytest.raises(DocumentError, match=text):
        read(document)
