"""Finds where a request carries the token, and what else it must carry."""

from __future__ import annotations

from dataclasses import dataclass

from datatile_provider.cli.openapi.document import Operation
from datatile_provider.cli.openapi.findings import Certainty, Finding
from datatile_provider.cli.openapi.schemas import fields
from datatile_provider.cli.openapi.vocabulary import has_any, tokens

_TOPIC = "header of the token"
_DOCUMENTED = "header token"


@dataclass(frozen=True, slots=True)
class _Way:
    """Everything that a request carries to be accepted, such as ``header token``, with the places in the document."""

    carries: dict[str, str]
    stated: bool = True


def find_token(operations: list[Operation]) -> Finding:
    """
    Return whether the token is in the header that the vendor documents.

    :param operations: all operations that are called.
    """
    ways = [_ways(operation) for operation in operations]
    documented = [[w for w in options if _DOCUMENTED in w.carries] for options in ways]
    if all(documented):
        alone = [[w for w in options if len(w.carries) == 1] for options in documented]
        where = documented[0][0].carries[_DOCUMENTED]
        if all(alone):
            stated = all(w.stated for options in alone for w in options)
            why = "" if stated else "no operation says that it needs it"
            return Finding(_TOPIC, Certainty.SURE if stated else Certainty.LIKELY, "token", where=where, why=why)
        both = next(w for options, a in zip(documented, alone, strict=True) if not a for w in options)
        return Finding(_TOPIC, Certainty.DIFFERS, " and ".join(both.carries), where=where, why="both are required")
    others = {name: at for options in ways for way in options for name, at in way.carries.items()}
    others.pop(_DOCUMENTED, None)
    why = "the vendor documents token"
    if others:
        where = next(iter(others.values()))
        return Finding(_TOPIC, Certainty.DIFFERS, ", ".join(others), where=where, why=why)
    return Finding(_TOPIC, Certainty.NOT_FOUND, where=operations[0].node.pointer, why=why, needed=False)


def _ways(operation: Operation) -> list[_Way]:
    document = operation.node.document
    root = document.root
    schemes = root["securityDefinitions"] if document.is_swagger else root["components"]["securitySchemes"]
    required = operation.node["security"] if operation.node["security"] else root["security"]
    ways = [[name for name, _ in option.members()] for option in required.elements()]
    in_parameters = {
        _carrier(p.text("in"), p.text("name")): p.pointer
        for p in operation.parameters()
        if p.text("in") in ("header", "cookie", "query")
        and has_any(tokens(p.text("name")), ("token", "apikey", "auth"))
    }
    found = [
        _Way({_scheme(schemes[n].text("type"), schemes[n].value): schemes[n].pointer for n in names if schemes[n]})
        for names in ways
        if names
    ]
    if found:
        return [_Way({**way.carries, **in_parameters}) for way in found]
    if in_parameters:
        return [_Way(in_parameters)]
    # Some documents define a scheme, and forget to require it.
    return [_Way({_scheme(node.text("type"), node.value): node.pointer}, stated=False) for _, node in schemes.members()]


def _scheme(kind: str, value: object) -> str:
    of = value if isinstance(value, dict) else {}
    if kind == "apiKey":
        return _carrier(str(of.get("in")), str(of.get("name")))
    return f"{kind} {of.get('scheme', '')}".strip()


def _carrier(place: str, name: str) -> str:
    # The names of headers have no case.
    return f"{place} {name.lower() if place == 'header' and name.lower() == 'token' else name}"


def find_other_input(operations: list[Operation], known: set[str]) -> list[Finding]:
    """
    Return what an upload requires and this provider does not send.

    :param operations: the upload operations.
    :param known: the form fields that it sends.
    """
    found: dict[str, str] = {}
    for operation in operations:
        for field in (f for schema in operation.form()[1] for f in fields(schema)):
            swagger = field.node.value.get("required") is True if isinstance(field.node.value, dict) else False
            if len(field.path) == 1 and (field.required or swagger) and field.path[0] not in known:
                found[f"form field {field.path[0]}"] = field.node.pointer
        for parameter in operation.parameters():
            place, name = parameter.text("in"), parameter.text("name")
            required = isinstance(parameter.value, dict) and parameter.value.get("required") is True
            is_token = has_any(tokens(name), ("token", "apikey", "auth"))
            if required and place in ("query", "header", "cookie") and not is_token and name.lower() != "content-type":
                found[f"{place} {name}"] = parameter.pointer
    if not found:
        return []
    why = "uploads require it, and this provider does not send it"
    where = next(iter(found.values()))
    return [Finding("other required input", Certainty.DIFFERS, ", ".join(found), where=where, why=why)]
