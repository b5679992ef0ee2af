"""The processing queue: moves each job through its states, and posts each state to the job's callback URL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp

from datatile_provider.sandbox import reader
from datatile_provider.sandbox.options import Options
from datatile_provider.sandbox.store import Job, RejectedError, Store

log = logging.getLogger(__name__)

# Limits for reading a file; beyond them its job fails. The memory is on top of what the libraries need.
READ_SECONDS = 60.0
READ_BYTES = 1536 * 2**20


class Queue:
    """
    Processes jobs until it is stopped. It resumes the jobs that were unfinished at an earlier stop.

    :param directory: the folder of the received files, each named by its job's id.
    """

    def __init__(self, options: Options, store: Store, directory: Path) -> None:
        self._options = options
        self._store = store
        self._directory = directory
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._callbacks: dict[str, asyncio.Task[None]] = {}
        self._readers = asyncio.Semaphore(os.cpu_count() or 1)
        # A receiver may close an idle connection just as it is used again, and no callback is repeated.
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5))

    def start(self) -> None:
        unfinished = {job.job_id: job for job in self._store.jobs.values() if not job.finished}
        for path in self._directory.iterdir():
            if path.name not in unfinished:
                path.unlink()
        for job in unfinished.values():
            self._start_job(job)

    async def stop(self) -> None:
        """Stop at once. Unfinished jobs keep their state."""
        tasks = [*self._tasks.values(), *self._callbacks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    def path(self, job_id: str) -> Path:
        return self._directory / job_id

    def add(self, job: Job) -> None:
        self._notify(job)
        self._start_job(job)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job, as a user does in the Drive; reject the request if there is none, or if it is finished."""
        job = self._store.find_job(job_id)
        if job.finished:
            raise RejectedError(409, f"Job {job.job_id} is already finished")
        task = self._tasks[job.job_id]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if not job.finished:
            self._store.move(job, "CANCELLED", "Cancelled by a user")
            self._clean_up(job)
        return job

    def _start_job(self, job: Job) -> None:
        task = asyncio.create_task(self._process(job))
        self._tasks[job.job_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.job_id, None))

    async def _process(self, job: Job) -> None:
        pause = self._options.processing_seconds / 2
        if job.state == "QUEUED":
            await asyncio.sleep(pause)
            self._store.move(job, "RUNNING")
            self._notify(job)
        contents, _ = await asyncio.gather(self.read(self.path(job.job_id), job.filename), asyncio.sleep(pause))
        if "reason" in contents:
            self._store.move(job, "FAILED", f"{job.filename} cannot be read: {contents['reason']}")
        else:
            self._store.finish(job, contents["rows"], contents["contents"])
        self._clean_up(job)

    async def read(self, path: Path, filename: str, *what: str) -> dict[str, Any]:
        """
        Return what a file holds, or the reason why it can't be read.

        :param filename: the file's name as it was sent.
        :param what: ``codebook``, or nothing for a survey.
        """
        async with self._readers:
            # The reader also limits its own CPU time, because it may outlive this process.
            limits = [str(math.ceil(READ_SECONDS)), str(READ_BYTES)]
            too_long = {"reason": f"reading it took longer than {READ_SECONDS:g} s"}
            # Not asyncio.create_subprocess_exec: cancelled while it starts, it would leave open pipes.
            process = subprocess.Popen(  # noqa: S603 - runs this package's own script without a shell
                [sys.executable, reader.__file__, path, filename, *limits, *what],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            try:
                output, errors = await asyncio.to_thread(process.communicate, timeout=READ_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.communicate)
                return too_long
            finally:
                process.kill()
        if process.returncode:
            if -process.returncode == getattr(signal, "SIGXCPU", None):
                return too_long
            log.warning(
                "%s: the reader exited with %s: %s", path.name, process.returncode, errors.decode(errors="replace")
            )
            return {"reason": "the reader stopped unexpectedly"}
        contents: dict[str, Any] = json.loads(output)
        return contents

    def _clean_up(self, job: Job) -> None:
        self.path(job.job_id).unlink(missing_ok=True)
        self._notify(job)

    def _notify(self, job: Job) -> None:
        message = job.transitions[-1].message
        log.info("Job %s %s %r: %s %s", job.job_id, job.action, job.filename, job.state, message)
        if job.callback:
            previous = self._callbacks.get(job.job_id)
            body = response(self._options, job)
            task = asyncio.create_task(self._call_back(previous, job.job_id, job.callback, job.state, body))
            self._callbacks[job.job_id] = task

    async def _call_back(
        self, previous: asyncio.Task[None] | None, job_id: str, url: str, state: str, body: dict[str, Any]
    ) -> None:
        if previous:
            await previous
        try:
            # A redirect could lead to another machine.
            async with self._session.post(url, json=body, allow_redirects=False) as response:
                self._store.add_callback(job_id, url, state, response.status, None)
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
            self._store.add_callback(job_id, url, state, None, str(error) or type(error).__name__)


def response(options: Options, job: Job) -> dict[str, Any]:
    """Return the API's response for a job, with the fields and statuses of the options."""
    last = job.transitions[-1]
    return {
        "action": job.action,
        "hash": job.hash,
        "filename": job.filename,
        "total_rows": job.total_rows,
        "message": last.message,
        "created_at": job.transitions[0].time,
        "updated_at": last.time,
    } | _nested(
        {
            options.job_id_field: _id(options, job),
            options.status_field: _status(options, job),
            options.rows_field: job.rows,
            options.database_field: job.database,
        }
    )


def receipt(options: Options, job: Job) -> Any:
    """Return the API's response to an upload: the job's id and status, or the id alone."""
    if options.bare_id:
        return _id(options, job)
    return _nested({options.job_id_field: _id(options, job), options.status_field: _status(options, job)})


def _id(options: Options, job: Job) -> str | int:
    # A kept job may have an id of the other kind.
    return int(job.job_id) if options.numeric_ids and job.job_id.isdecimal() else job.job_id


def _status(options: Options, job: Job) -> str | int:
    return options.word(job.state) if job.fixed_status is None else job.fixed_status


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    """Return an object with these fields; dots in their names separate nested fields."""
    body: dict[str, Any] = {}
    for field, value in fields.items():
        *outer, name = field.split(".")
        inner = body
        for step in outer:
            inner = inner.setdefault(step, {})
        inner[name] = value
    return body
