"""The web pages: the Drive, the processing log, jobs and errors, from the templates in ``templates/``."""

from __future__ import annotations

from typing import Any

import pendulum
from jinja2 import Environment, PackageLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=PackageLoader("datatile_provider.sandbox"),
    # File names, variables and messages come from uploads.
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["parse"] = pendulum.parse


def render(template: str, **context: Any) -> str:
    """
    Return a page as HTML.

    :param template: the name of a file in ``templates/``.
    :param context: the values that the template shows. Text is escaped.
    """
    return _TEMPLATES.get_template(template).render(context)
