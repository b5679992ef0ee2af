"""The web pages: the Drive, the processing log, a job, and errors. Their templates escape all values."""

from __future__ import annotations

from typing import Any

import pendulum
from jinja2 import Environment, PackageLoader, StrictUndefined

from datatile_provider.sandbox.store import Job, Store, mails


def _utc(at: str) -> str:
    time = pendulum.parse(at)
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


_TEMPLATES = Environment(
    loader=PackageLoader("datatile_provider.sandbox"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.filters["utc"] = _utc


def drive(store: Store) -> str:
    """Return the page of all folders and their databases."""
    return _page("drive.html", "Drive", refresh=True, store=store)


def processing_log(store: Store) -> str:
    """Return the page of all jobs, newest first."""
    return _page("processing_log.html", "Processing log", refresh=True, store=store)


def job(store: Store, job: Job) -> str:
    """Return the page of a job, with its states, emails and callbacks."""
    title = f"Job {job.job_id}"
    return _page("job.html", title, refresh=not job.finished, store=store, job=job, mails=mails(job))


def error(title: str, text: str) -> str:
    """Return an error page."""
    return _page("layout.html", title, refresh=False, text=text)


def _page(template: str, title: str, *, refresh: bool, **values: Any) -> str:
    return _TEMPLATES.get_template(template).render(title=title, refresh=refresh, **values)
