"""How to wait for a job: pure. It takes the result of each poll, and decides what it means for the wait."""

from __future__ import annotations

import contextlib
import json
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from datatile_provider.api import errors
from datatile_provider.api.models import Job, ServerConfig
from datatile_provider.api.states import JobState

#: Seconds for which a permanent error must last before it ends a wait: a new job may not be known on every server yet,
#: and a new token must first be put into the connection.
GRACE = 60.0
#: Seconds between the first two polls; each next gap is longer, up to the poll interval.
FIRST_GAP = 1.0
#: The longest Retry-After that a poll follows, in seconds, unless some poll intervals are longer.
MAX_RETRY_AFTER = 300.0
_PAUSE_INTERVALS = 5
_BACKOFF_FACTOR = 1.6
_JITTER = 0.1
#: The share of the poll interval, and the seconds, that a poll must be late for the log to say it.
_LATE, _LATE_SECONDS = 0.2, 1.0


@dataclass(slots=True)
class Poll:
    """
    One poll of a wait.

    :param sent: when it was sent.
    :param result: the job, as the server reported it, or the error; None when the poll was cancelled for another one.
    :param succeeded: the job, when it has succeeded.
    """

    sent: float
    result: Job | errors.DatatileError | None = None
    succeeded: Job | None = None


@dataclass(slots=True)
class Wait:
    """
    One wait for one job.

    :param server: the server, for the links in messages.
    :param job_id: the job.
    :param poll_interval: seconds between polls, after a few quick first ones.
    :param timeout: seconds until the wait times out.
    :param started: when it started, in seconds of the clock that every other time here is of.
    :param log: takes a level of :mod:`logging` and a text.
    :param status: the status that was seen, and logged, in an earlier process.
    :param rejected_since: when the server began to reject the polls, if that was in an earlier process.
    """

    server: ServerConfig
    job_id: str
    poll_interval: float
    timeout: float
    started: float
    log: Callable[[int, str], None]
    status: str = ""
    rejected_since: float | None = None
    _gap: float = FIRST_GAP
    _retry_after: float = 0.0
    _error_kind: str = ""
    _last_error: str = ""
    _error_count: int = 0
    _capped: bool = False
    _late: bool = False

    @contextlib.contextmanager
    def poll(self, clock: Callable[[], float]) -> Iterator[Poll]:
        """
        Take the result of one poll, or the error that is raised meanwhile, and process it as :meth:`update` does.

        :param clock: returns the time.
        """
        poll = Poll(clock())
        try:
            yield poll
        except errors.DatatileError as e:
            poll.result = e
        if poll.result:
            poll.succeeded = self.update(poll.result, clock(), poll.sent)

    def update(self, result: Job | errors.DatatileError, now: float, sent: float | None = None) -> Job | None:
        """
        Process the result of one poll; return the job when it has succeeded, None when the wait goes on.

        :param result: the job as the server reported it, or the error of the poll.
        :param now: the time.
        :param sent: when the poll was sent. A poll that was sent before the deadline, and hung, does not end the wait:
            the job may have finished since.
        :raises JobFailedError: the job failed.
        :raises JobCancelledError: it was cancelled.
        :raises JobTimeoutError: the deadline has passed and it is not finished.
        :raises DatatileError: a permanent error that has lasted.
        """
        if isinstance(result, Job):
            self._on_status(result, now)
            if result.state is JobState.SUCCEEDED:
                return result
            if result.state.finished:
                raise job_error(self.server, result)
        else:
            self._on_error(result, now)
        if (now if sent is None else sent) >= self.deadline:
            raise self.timed_out()
        return None

    def on_queue(self, queued: float, reason: str) -> None:
        """
        Log once that the polls come late, and once that they are on time again.

        :param queued: seconds for which the poll was in the queue for a connection.
        :param reason: why polls queue; empty if that should soon be over.
        """
        limit = max(_LATE_SECONDS, _LATE * self.poll_interval)
        if not self._late and reason and queued >= limit:
            self.log(logging.WARNING, f"Polls come late, this one by {queued:,.0f} s:\n{reason}")
            self._late = True
        elif self._late and queued < limit / 2:
            self.log(logging.WARNING, "Polls are on time again")
            self._late = False

    @property
    def deadline(self) -> float:
        """When the wait times out, unless the poll at that time shows that the job has finished."""
        return self.started + self.timeout

    @property
    def gap(self) -> float:
        """The seconds to the next poll, without jitter and ``Retry-After``."""
        return min(self._gap, self.poll_interval)

    def delay(self, now: float) -> float:
        """Return the seconds to wait before the next poll; the last one is at the deadline."""
        gap = self.gap * random.uniform(1 - _JITTER, 1 + _JITTER)
        gap = max(gap, self._retry_after)
        self._gap, self._retry_after = min(self._gap * _BACKOFF_FACTOR, self.poll_interval), 0.0
        if self.rejected_since is not None:
            gap = min(gap, GRACE / 4)
        return max(0.0, min(gap, self.deadline - now))

    def timed_out(self) -> errors.JobTimeoutError:
        """Return the error for a wait whose deadline has passed."""
        seen = f"The last status was {self.status!r}" if self.status else "No poll returned its status"
        failed = "poll" if self._error_count == 1 else f"{self._error_count} polls"
        last_error = f".\nThe last {failed} failed: {self._last_error}" if self._error_count else ""
        return errors.JobTimeoutError(
            f"The job was not finished within {self.timeout:,.10g} s. {seen}{last_error}",
            subject=f"job {self.job_id}",
            log_url=self.server.page_url(self.job_id),
        )

    def _on_status(self, job: Job, now: float) -> None:
        self._end_errors()
        if job.status == self.status:
            return
        self.status = job.status
        rows = f", {job.rows:,} rows" if job.state is JobState.SUCCEEDED and job.rows is not None else ""
        self.log(logging.INFO, f"Job {job.id} is {job.state.value} ({now - self.started:,.1f} s{rows})")
        if job.state is JobState.UNKNOWN:
            option = json.dumps({job.status: "RUNNING"})
            self.log(
                logging.WARNING,
                f"The status {job.status!r} is unknown: polling goes on\n"
                f"If it is a state of this server, set status_map in the connection's extra,\nas {option}.\n"
                "If it is not the job's status, set status_field.",
            )

    def _on_error(self, error: errors.DatatileError, now: float) -> None:
        # A connection that is edited during a wait may be wrong for a moment.
        rejected = isinstance(error, (errors.PermanentError, errors.InvalidInputError))
        if not rejected:
            self.rejected_since = None
            if not isinstance(error, errors.TransientError):
                raise error
        elif self.rejected_since is None:
            self.rejected_since = now
        elif now - self.rejected_since >= GRACE:
            raise error.extended(f"Polling went on for {GRACE:,.0f} s")
        if error.title != self._error_kind:
            self._end_errors(still_rejected=rejected)
            then = f"polling goes on for {GRACE:,.0f} s" if rejected else "polling goes on"
            self.log(logging.WARNING, error.report(then))
            self._error_kind = error.title
        self._error_count += 1
        self._last_error = f"{error.title}: {error.what}"
        self._retry_after = self._pause(error.retry_after or 0.0)

    def _pause(self, retry_after: float) -> float:
        longest = max(MAX_RETRY_AFTER, _PAUSE_INTERVALS * self.poll_interval)
        if retry_after > longest and not self._capped:
            self.log(
                logging.WARNING,
                f"The server asks to wait {retry_after:,.0f} s (Retry-After). The next poll is in {longest:,.0f} s",
            )
            self._capped = True
        return min(retry_after, longest)

    def _end_errors(self, *, still_rejected: bool = False) -> None:
        if self._error_count > 1:
            self.log(logging.WARNING, f"{self._error_count} polls in a row failed with {self._error_kind}")
        self._error_kind, self._error_count = "", 0
        if not still_rejected:
            self.rejected_since = None


def job_error(server: ServerConfig, job: Job) -> errors.JobError:
    """Return the error for a job that ended without success."""
    failed = job.state is JobState.FAILED
    return (errors.JobFailedError if failed else errors.JobCancelledError)(
        f"The server reports the status {job.status!r}",
        subject=f"job {job.id}",
        server_message=job.message,
        log_url=server.page_url(job.id),
    )
