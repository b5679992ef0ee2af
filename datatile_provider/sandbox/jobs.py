"""The processing queue: takes each job through its states, and tells the callback URL about it."""

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

from . import reader
from .options import Options
from .store import Job, Rejection, Store

log = logging.getLogger(__name__)

CALLBACK_TIMEOUT = aiohttp.ClientTimeout(total=5)

# A file that takes longer to read, or more memory than this and what the libraries need, fails its job.
READ_SECONDS = 60.0
READ_BYTES = 1536 * 2**20


class Queue:
    """
    Works on jobs until it is stopped, and takes up those that an earlier stop left unfinished.

    :param directory: where received files are, each named by its job's id.
    """

    def __init__(self, options: Options, store: Store, directory: Path) -> None:
        self._options = options
        self._store = store
        self._directory = directory
        self._work: dict[str, asyncio.Task[None]] = {}
        self._callbacks: dict[str, asyncio.Task[None]] = {}
        self._readers = asyncio.Semaphore(os.cpu_count() or 1)
        self._session = aiohttp.ClientSession(timeout=CALLBACK_TIMEOUT)

    def start(self) -> None:
        """Begin, with the jobs left unfinished."""
        unfinished = {job.job_id: job for job in self._store.jobs.values() if not job.finished}
        for path in self._directory.iterdir():
            if path.name not in unfinished:
                path.unlink()
        for job in unfinished.values():
            self._begin(job)

    async def stop(self) -> None:
        """End at once; unfinished jobs stay as they are."""
        tasks = [*self._work.values(), *self._callbacks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    def path(self, job_id: str) -> Path:
        """Where the file of a job is."""
        return self._directory / job_id

    def add(self, job: Job) -> None:
        """Take in a new job."""
        self._tell(job)
        self._begin(job)

    async def cancel(self, job_id: str) -> Job:
        """
        Cancel a job, as a person does in the Drive.

        :raises Rejection: there is no such job, or it is finished.
        """
        job = self._store.find_job(job_id)
        if job.finished:
            raise Rejection(409, f"Job {job.job_id} is finished")
        task = self._work[job.job_id]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if not job.finished:
            self._store.move(job, "CANCELLED", "Cancelled by a user")
            self._finished(job)
        return job

    def _begin(self, job: Job) -> None:
        task = asyncio.create_task(self._process(job))
        self._work[job.job_id] = task
        task.add_done_callback(lambda _: self._work.pop(job.job_id, None))

    async def _process(self, job: Job) -> None:
        pause = self._options.processing_seconds / 2
        if job.state == "QUEUED":
            await asyncio.sleep(pause)
            self._store.move(job, "RUNNING")
            self._tell(job)
        contents, _ = await asyncio.gather(self._read(job), asyncio.sleep(pause))
        if "reason" in contents:
            self._store.move(job, "FAILED", f"{job.filename} cannot be read: {contents['reason']}")
        else:
            self._store.finish(job, contents["rows"], contents["variables"])
        self._finished(job)

    async def _read(self, job: Job) -> dict[str, Any]:
        async with self._readers:
            # The reader limits its own processor time too: it may outlive this process.
            limits = [str(math.ceil(READ_SECONDS)), str(READ_BYTES)]
            too_long = {"reason": f"reading it took longer than {READ_SECONDS:g} s"}
            # Not asyncio's own subprocess: one cancelled while it starts is left with open pipes.
            process = subprocess.Popen(  # noqa: S603 - our own script; the name of the file is data to it
                [sys.executable, reader.__file__, self.path(job.job_id), job.filename, *limits],
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
                "Job %s: the reader ended with %s: %s", job.job_id, process.returncode, errors.decode(errors="replace")
            )
            return {"reason": "the reader stopped unexpectedly"}
        contents: dict[str, Any] = json.loads(output)
        return contents

    def _finished(self, job: Job) -> None:
        self.path(job.job_id).unlink(missing_ok=True)
        self._tell(job)

    def _tell(self, job: Job) -> None:
        message = job.transitions[-1].message
        log.info("Job %s %s %r: %s %s", job.job_id, job.action, job.filename, job.state, message)
        if job.callback:
            earlier = self._callbacks.get(job.job_id)
            body = response(self._options, job)
            task = asyncio.create_task(self._call_back(earlier, job.job_id, job.callback, job.state, body))
            self._callbacks[job.job_id] = task

    async def _call_back(
        self, earlier: asyncio.Task[None] | None, job_id: str, url: str, state: str, body: dict[str, Any]
    ) -> None:
        if earlier:
            await earlier
        try:
            # A redirect could lead away from this machine.
            async with self._session.post(url, json=body, allow_redirects=False) as response:
                self._store.called_back(job_id, url, state, response.status, None)
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
            self._store.called_back(job_id, url, state, None, str(error) or type(error).__name__)


def response(options: Options, job: Job) -> dict[str, Any]:
    """A job as the API tells it, in the words and fields that the options ask for."""
    last = job.transitions[-1]
    return {
        "action": job.action,
        "hash": job.hash,
        "database": job.database,
        "filename": job.filename,
        "rows": job.rows,
        "total_rows": job.total_rows,
        "message": last.message,
        "created_at": job.transitions[0].time,
        "updated_at": last.time,
    } | receipt(options, job)


def receipt(options: Options, job: Job) -> dict[str, Any]:
    """A job's id and status, as an upload is answered."""
    body: dict[str, Any] = {}
    word = job.word if job.word is not None else options.state_words.get(job.state, job.state.lower())
    for field, value in ((options.job_id_field, job.job_id), (options.status_field, word)):
        *outer, name = field.split(".")
        inner = body
        for step in outer:
            inner = inner.setdefault(step, {})
        inner[name] = value
    return body
