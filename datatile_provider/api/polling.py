"""How to wait for a job: pure. It is told what each look at the job showed, and says what that means."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from datatile_provider.api import errors
from datatile_provider.api.contract import Job, Server
from datatile_provider.api.states import JobState

#: Seconds for which a refusal must last: a job may not be known everywhere the moment it is made, and who makes a new
#: token takes a while to put it into the connection.
GRACE = 60.0
#: Seconds between the first looks; each next gap is longer, up to the poll interval.
FIRST_POLL_GAP = 1.0
#: Seconds that a server may ask to wait before the next poll, at least: a long one must not be worth more than a wait.
MAX_RETRY_AFTER = 300.0
_PAUSE_INTERVALS = 5
_BACKOFF_FACTOR = 1.6
_JITTER = 0.1


def seconds(name: str, value: float | timedelta) -> float:
    """
    Return a length of time in seconds.

    :param name: the parameter's name, for the message.
    :param value: seconds or a ``timedelta``.
    :raises InvalidInputError: it is no length of time, or not over zero.
    """
    found = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < float("inf"):
        raise errors.InvalidInputError(f"{name} must be a number of seconds or a timedelta over zero, not {value!r}")
    return float(found)


@dataclass(slots=True)
class Wait:
    """
    One wait for one job.

    :param server: for the messages: where to look.
    :param job_id: the job.
    :param poll_interval: seconds between looks, once the quick first ones are over.
    :param timeout: seconds until the wait is given up.
    :param started: when it began, in seconds of the clock that every other time here is of.
    :param log: takes a level of :mod:`logging` and a text.
    :param status: the status last seen, and so logged, before this wait began.
    :param rejected_since: when the server began to refuse to tell, if it did so before this wait began.
    """

    server: Server
    job_id: str
    poll_interval: float
    timeout: float
    started: float
    log: Callable[[int, str], None]
    status: str = ""
    rejected_since: float | None = None
    _gap: float = FIRST_POLL_GAP
    _retry_after: float = 0.0
    _error_kind: str = ""
    _last_error: str = ""
    _error_count: int = 0
    _capped: bool = False

    def update(self, result: Job | errors.DatatileError, now: float, sent: float | None = None) -> Job | None:
        """
        Take in what one poll gave; return the job when it has succeeded, None when the wait goes on.

        :param result: the job as the server told it, or why it did not tell.
        :param now: the time.
        :param sent: when the poll was sent. One that was sent before the deadline, and hung, is no reason to time out:
            the job may have finished meanwhile.
        :raises JobFailedError: the job failed.
        :raises JobCancelledError: it was cancelled.
        :raises JobTimeoutError: it is not finished, and the deadline has passed.
        :raises DatatileError: a refusal that has lasted.
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

    @property
    def deadline(self) -> float:
        """When the wait times out, unless the poll at that time shows that the job has finished."""
        return self.started + self.timeout

    @property
    def gap(self) -> float:
        """The seconds to the next look, before jitter and what a server asks for."""
        return min(self._gap, self.poll_interval)

    def delay(self, now: float) -> float:
        """Return the seconds to wait before the next look; the last one is at the deadline."""
        gap = self.gap * random.uniform(1 - _JITTER, 1 + _JITTER)
        gap = max(gap, self._retry_after)
        self._gap, self._retry_after = min(self._gap * _BACKOFF_FACTOR, self.poll_interval), 0.0
        if self.rejected_since is not None:
            gap = min(gap, GRACE / 4)
        return max(0.0, min(gap, self.deadline - now))

    def timed_out(self) -> errors.JobTimeoutError:
        """Return the error for a deadline that has passed, with the last thing seen."""
        seen = f"its last status was {self.status!r}" if self.status else "no poll told its status"
        failed = "poll" if self._error_count == 1 else f"{self._error_count} polls"
        trouble = f"; the last {failed} failed: {self._last_error}" if self._error_count else ""
        return errors.JobTimeoutError(
            f"Job {self.job_id} was not finished within {self.timeout:,.10g} s: {seen}{trouble}",
            hint=f"It may go on in DATATILE; see the processing log: {_page(self.server, self.job_id)}",
        )

    def _on_status(self, job: Job, now: float) -> None:
        self._end_errors()
        if job.status == self.status:
            return
        self.status = job.status
        self.log(logging.INFO, f"Job {job.id} is {job.state.value} ({now - self.started:,.1f} s)")
        if job.state is JobState.UNKNOWN:
            self.log(
                logging.WARNING,
                f"The status {job.status!r} is not known here, so polling goes on. If it is a state of this server, "
                f"set status_map in the connection's extra, as {json.dumps({job.status: 'RUNNING'})}; "
                "if it is not the job's status at all, set status_field.",
            )

    def _on_error(self, error: errors.DatatileError, now: float) -> None:
        # A connection that is edited in the middle of a wait may be wrong for a moment.
        refused = isinstance(error, (errors.PermanentError, errors.InvalidInputError))
        if refused and self.rejected_since is None:
            self.rejected_since = now
        if not refused:
            self.rejected_since = None
        lasted = self.rejected_since is not None and now - self.rejected_since >= GRACE
        if lasted or not (refused or isinstance(error, errors.TransientError)):
            raise error
        kind = f"{type(error).__name__} {error.status or ''}".strip()
        if kind != self._error_kind:
            self._end_errors(still_rejected=refused)
            self.log(logging.WARNING, f"{error} Polling goes on.")
            self._error_kind = kind
        self._error_count += 1
        self._last_error = error.what
        self._retry_after = self._pause(error.retry_after or 0.0)

    def _pause(self, retry_after: float) -> float:
        longest = max(MAX_RETRY_AFTER, _PAUSE_INTERVALS * self.poll_interval)
        if retry_after > longest and not self._capped:
            self.log(
                logging.WARNING,
                f"The server asks to wait {retry_after:,.0f} s before the next poll (Retry-After); "
                f"it comes in {longest:,.0f} s.",
            )
            self._capped = True
        return min(retry_after, longest)

    def _end_errors(self, *, still_rejected: bool = False) -> None:
        if self._error_count > 1:
            self.log(logging.WARNING, f"That was {self._error_count} polls in a row: {self._error_kind}")
        self._error_kind, self._error_count = "", 0
        if not still_rejected:
            self.rejected_since = None


def job_error(server: Server, job: Job) -> errors.JobError:
    """Return the error for a job that has ended without success."""
    failed = job.state is JobState.FAILED
    return (errors.JobFailedError if failed else errors.JobCancelledError)(
        f"Job {job.id} {'failed' if failed else 'was cancelled'} (its status is {job.status!r})",
        server_message=job.message,
        hint=f"See the processing log: {_page(server, job.id)}",
    )


def _page(server: Server, job_id: str) -> str:
    return server.job_page_url(job_id) or server.processing_log_url
