"""What was found in a document, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Certainty(str, Enum):
    """How sure a finding is."""

    SURE = "sure"
    """The document says so, and the provider was tried on an example of it."""
    LIKELY = "likely"
    """The document suggests it."""
    NOT_FOUND = "not found"
    """The document does not say it, or names several candidates."""
    DIFFERS = "differs, no option"
    """The document says something that no option of the connection can express."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    A thing that the provider assumes about the server, and what the document says about it.

    :param topic: the thing.
    :param certainty: how sure it is.
    :param found: what the document says, for a person.
    :param option: the option of the connection, if there is one.
    :param value: the option's value; None if the default is right.
    :param where: the JSON pointer of the place in the document.
    :param why: what makes it likely, or what is missing.
    :param candidates: what it may be instead.
    :param needed: whether uploads and waits need it.
    """

    topic: str
    certainty: Certainty
    found: str = ""
    option: str = ""
    value: Any = None
    where: str = ""
    why: str = ""
    candidates: tuple[str, ...] = ()
    needed: bool = True

    @property
    def missing(self) -> bool:
        """Whether it is needed, and not known."""
        return self.needed and self.certainty in (Certainty.NOT_FOUND, Certainty.DIFFERS)


@dataclass(frozen=True, slots=True)
class Learned:
    """
    What was learned from a document.

    :param findings: one for each thing that the provider assumes.
    :param notes: what a person should know besides, as sentences.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def extra(self) -> dict[str, Any]:
        """The options of the connection that differ from the defaults."""
        return extra_of(self.findings)

    @property
    def complete(self) -> bool:
        """Whether all is known that uploads and waits need."""
        return not any(finding.missing for finding in self.findings)


def extra_of(findings: Iterable[Finding]) -> dict[str, Any]:
    """Return the options that findings set. Those with an object as value are merged."""
    extra: dict[str, Any] = {}
    for finding in findings:
        if finding.value is not None and finding.certainty in (Certainty.SURE, Certainty.LIKELY):
            merged = isinstance(finding.value, dict)
            extra[finding.option] = {**extra.get(finding.option, {}), **finding.value} if merged else finding.value
    return extra
