"""Copies of a task instance in Airflow's SQLite database, to see the page with as many as a busy team has."""

from __future__ import annotations

import json
import sqlite3
import uuid
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any


def copy_tasks(database: Path, dag_id: str, task_id: str, changes: list[dict[str, Any]]) -> None:
    """
    Add a run with one task instance for each of the changes.

    :param dag_id: the DAG of the copied task, which has ended.
    :param changes: ``days`` since the start, and fields of the task instance (``dag_id``, ``state``, ...); ``summary``
        holds fields of the summary.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.row_factory = sqlite3.Row
        (task,) = connection.execute(
            "SELECT * FROM task_instance WHERE dag_id = ? AND task_id = ? LIMIT 1", (dag_id, task_id)
        )
        (run,) = connection.execute("SELECT * FROM dag_run WHERE dag_id = ? AND run_id = ?", (dag_id, task["run_id"]))
        value = _summary(connection, task["id"])
        first = connection.execute("SELECT max(id) FROM dag_run").fetchone()[0] + 1
        for number, change in enumerate(changes, first):
            when = datetime.now(timezone.utc) - timedelta(days=change["days"])
            begun, ended = (f"{moment:%Y-%m-%d %H:%M:%S.%f}" for moment in (when, when + timedelta(seconds=20)))
            fields = {name: change[name] for name in change if name not in ("days", "summary")}
            place = {"dag_id": fields.get("dag_id", dag_id), "run_id": fields.get("run_id", f"copy_{number}")}
            dates = {"run_after": begun, "start_date": begun, "end_date": ended, "logical_date": begun}
            _insert(
                connection,
                "dag_run",
                {**dict(run), **place, **dates, "id": number, "conf": '{"copied": true}', "queued_at": begun},
            )
            instance = {"id": uuid.uuid4().hex, "start_date": begun, "end_date": ended, "updated_at": ended}
            _insert(connection, "task_instance", {**dict(task), **instance, **fields, **place})
            if change.get("summary") is not None:
                stored = {**value, **change["summary"], "job": change["summary"].get("job", f"job-{number}")}
                key = {"task_id": task_id, "map_index": -1, "key": "datatile", "dag_run_id": number, **place}
                key |= {"id": uuid.uuid4().hex, "task_instance_id": instance["id"]}
                table = "xcom" if _has(connection, "xcom") else "xcom_v2"
                _insert(connection, table, {**key, "value": json.dumps(stored), "timestamp": ended})


def _has(connection: sqlite3.Connection, table: str) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ? AND type = 'table'", (table,))
    return found.fetchone() is not None


def _where(connection: sqlite3.Connection) -> str:
    """Return the table of the XComs that tasks write, and the condition for the summary of one; Airflow 3.4 has two."""
    if not _has(connection, "xcom"):
        return "xcom_v2 WHERE key = 'datatile' AND task_instance_id = ?"
    same = "x.dag_id = t.dag_id AND x.run_id = t.run_id AND x.task_id = t.task_id AND x.map_index = t.map_index"
    ids = f"SELECT x.rowid FROM xcom x JOIN task_instance t ON {same} WHERE t.id = ?"
    return f"xcom WHERE key = 'datatile' AND rowid IN ({ids})"


def _summary(connection: sqlite3.Connection, task_instance: str) -> dict[str, Any]:
    (text,) = connection.execute(f"SELECT value FROM {_where(connection)}", (task_instance,)).fetchone()
    found: dict[str, Any] = json.loads(text)
    return found


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    names = {column[1] for column in connection.execute(f"PRAGMA table_info({table})")}
    row = {name: value for name, value in row.items() if name in names}
    places = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", tuple(row.values()))


def remove_copies(database: Path) -> None:
    """Remove the runs that :func:`copy_tasks` has added, with their tasks."""
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        copied = "run_id IN (SELECT run_id FROM dag_run WHERE conf LIKE '%copied%')"
        tasks = f"IN (SELECT id FROM task_instance WHERE {copied})"
        if _has(connection, "xcom"):
            connection.execute(f"DELETE FROM xcom WHERE {copied}")
        else:
            connection.execute(f"DELETE FROM xcom_v2 WHERE task_instance_id {tasks}")
        connection.execute(f"DELETE FROM hitl_detail WHERE ti_id {tasks}")
        for table in ("task_instance", "dag_run"):
            connection.execute(f"DELETE FROM {table} WHERE {copied}")


def set_state(database: Path, old: str, new: str) -> list[str]:
    """Give the tasks in a state another one, and return their ids."""
    now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S.%f}"
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        found = [key for (key,) in connection.execute("SELECT id FROM task_instance WHERE state = ?", (old,))]
        connection.execute("UPDATE task_instance SET state = ?, end_date = ? WHERE state = ?", (new, now, old))
    return found


def spread_over_weeks(database: Path, dag_id: str) -> None:
    """Move the tasks of a run into the past, a week for each one before the last, with the times of their summaries."""
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        tasks = connection.execute(
            "SELECT id, start_date, end_date FROM task_instance WHERE dag_id = ? ORDER BY task_id DESC",
            (dag_id,),
        ).fetchall()
        for weeks, (key, *dates) in enumerate(tasks[1:], 1):
            moved = [datetime.fromisoformat(date) - timedelta(weeks=weeks) for date in dates]
            connection.execute(
                "UPDATE task_instance SET start_date = ?, end_date = ? WHERE id = ?",
                (*(f"{moment:%Y-%m-%d %H:%M:%S.%f}" for moment in moved), key),
            )
            value = _summary(connection, key)
            for name in ("sent_at", "accepted_at", "ended_at"):
                if value[name]:
                    date = datetime.fromisoformat(value[name].replace("Z", "+00:00")) - timedelta(weeks=weeks)
                    value[name] = date.isoformat().replace("+00:00", "Z")
            table, condition = _where(connection).split(" WHERE ", 1)
            connection.execute(f"UPDATE {table} SET value = ? WHERE {condition}", (json.dumps(value), key))
