"""The web pages: the Drive and the processing log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from datatile_provider.sandbox.store import Database, Folder, Job, Store, mails

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 72rem; margin: 0 auto;
padding: 0 1.5rem 3rem }
nav { display: flex; gap: 1.5rem; padding: 1rem 0; border-bottom: 1px solid #e5e7eb } nav b { color: #0f766e }
a { color: #0f766e } h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .35rem .8rem .35rem 0;
border-bottom: 1px solid #e5e7eb; vertical-align: top; overflow-wrap: break-word }
th { color: #6b7280; font-weight: 500; white-space: nowrap } tr:target { background: #fef9c3 }
td:has(> b) { width: 18rem } time { white-space: nowrap }
code { font-size: .9em } .state { font-weight: 600 } .SUCCEEDED { color: #15803d } .FAILED { color: #b91c1c }
.RUNNING { color: #1d4ed8 } .CANCELLED, .QUEUED, .note { color: #6b7280 }
"""


def drive(store: Store) -> str:
    """Return the page of all folders and their databases."""
    return _page("Drive", "".join(_folder(store, folder) for folder in store.folders.values()), refresh=True)


def processing_log(store: Store) -> str:
    """Return the page of all jobs, newest first."""
    rows = [
        (
            f'<tr id="job-{job.job_id}">',
            _time(job.transitions[0].time),
            _job_link(job),
            escape(job.action),
            escape(job.filename),
            _target(store, job),
            _state(job.state),
            escape(job.transitions[-1].message),
        )
        for job in reversed(store.jobs.values())
    ]
    head = ("Accepted", "Job", "Action", "File", "Target", "State", "Message")
    return _page("Processing log", _table(head, rows, "No jobs yet."), refresh=True)


def job(store: Store, job: Job) -> str:
    """Return the page of a job, with its states, emails and callbacks."""
    properties: dict[str, Any] = {
        "Action": job.action,
        "File": job.filename,
        "Size": f"{job.size:,} bytes",
        "Rows in the file": job.rows,
        "Rows in the database afterwards": job.total_rows,
        "Callback": job.callback,
    }
    rows = [("<tr>", f"<b>{name}</b>", escape(str(value))) for name, value in properties.items() if value is not None]
    rows.append(("<tr>", "<b>Target</b>", _target(store, job)))
    if job.action == "create" and job.database in store.databases:
        rows.append(("<tr>", "<b>New database</b>", _named(store.databases[job.database])))
    states = [("<tr>", _time(step.time), _state(step.state), escape(step.message)) for step in job.transitions]
    emails = [
        ("<tr>", _time(mail["time"]), escape(mail["to"]), escape(mail["subject"]), escape(mail["body"]))
        for mail in mails(job)
    ]
    callbacks = [
        ("<tr>", _time(sent.time), _state(sent.state), escape(str(sent.error or f"HTTP {sent.status}")))
        for sent in store.callbacks
        if sent.job_id == job.job_id
    ]
    body = (
        _table((), rows)
        + f"<h2>States</h2>{_table(('Time', 'State', 'Message'), states)}"
        + f"<h2>Emails</h2>{_table(('Time', 'To', 'Subject', 'Text'), emails)}"
        + (f"<h2>Callbacks</h2>{_table(('Time', 'State', 'Result'), callbacks)}" if callbacks else "")
    )
    return _page(f"Job {job.job_id}", body, refresh=not job.finished)


def error(title: str, text: str) -> str:
    """Return an error page."""
    return _page(title, f"<p>{escape(text)}</p>", refresh=False)


def _folder(store: Store, folder: Folder) -> str:
    rows = [
        (
            "<tr>",
            escape(database.name),
            f"<code>{escape(database.hash)}</code>",
            f"{database.rows:,}",
            f'<span title="{escape(", ".join(database.variables))}">{len(database.variables)}</span>',
            _time(database.updated_at),
            "yes" if database.can_edit else "no",
        )
        for database in store.databases.values()
        if database.folder == folder.hash
    ]
    title = f"<h2>{_named(folder)}</h2>"
    if folder.hash == store.root:
        return f'{title}<p class="note">Databases cannot be created in the root folder.</p>'
    note = "" if folder.can_edit else '<p class="note">You do not have edit permission on this folder.</p>'
    head = ("Database", "Hash", "Rows", "Variables", "Updated", "Edit permission")
    return title + note + _table(head, rows, "No databases yet.")


def _target(store: Store, job: Job) -> str:
    return _named(store.find_target(job.hash))


def _named(target: Folder | Database) -> str:
    return f"{escape(target.name)} <code>{escape(target.hash)}</code>"


def _job_link(job: Job) -> str:
    return f'<a href="/processing-log/{job.job_id}"><code>{job.job_id[:8]}</code></a>'


def _state(state: str) -> str:
    return f'<span class="state {state}">{state.lower()}</span>'


def _time(time: str) -> str:
    return f'<time datetime="{time}">{time[:19].replace("T", " ")} UTC</time>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], empty: str = "") -> str:
    """Return a table. Each row is an opening tag and the HTML of its cells."""
    body = "".join(f"{tag}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for tag, *cells in rows)
    if not body:
        return f'<p class="note">{empty}</p>'
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{body}</table>"


def _page(title: str, body: str, *, refresh: bool) -> str:
    reload = '<meta http-equiv="refresh" content="2">' if refresh else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"{reload}<title>{escape(title)} - DATATILE sandbox</title><style>{STYLE}</style>"
        '<nav><b>DATATILE sandbox</b><a href="/">Drive</a><a href="/processing-log">Processing log</a></nav>'
        f"<h1>{escape(title)}</h1>{body}</html>"
    )
