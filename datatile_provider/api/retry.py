"""When an upload is sent again: pure. It takes an attempt's error, and returns the backoff or raises."""

from __future__ import annotations

import random
from dataclasses import dataclass

from datatile_provider.api import errors
from datatile_provider.api.models import Action

_FIRST_BACKOFF = 1.0
_MAX_BACKOFF = 60.0


@dataclass(slots=True)
class Retry:
    """
    The retries of one upload.

    :param action: its action: only a reload may be sent again when its outcome is unknown.
    :param deadline: the time of the last attempt, in seconds of the clock that ``now`` is of.
    :param resend_unknown: send a create or append again too when its outcome is unknown. The server may then have the
        data twice.
    :param failures: the number of attempts that have failed.
    """

    action: Action
    deadline: float
    resend_unknown: bool = False
    failures: int = 0

    def after(self, error: errors.DatatileError, now: float) -> float:
        """
        Return the seconds to wait before the next attempt.

        :raises DatatileError: the error itself, when there is no next attempt.
        """
        unknown = isinstance(error, errors.OutcomeUnknownError) and (self.action.repeatable or self.resend_unknown)
        if not isinstance(error, errors.TransientError) and not unknown:
            raise error
        backoff = min(_MAX_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(self.failures, 10))
        # Jitter of half the backoff, so that the tasks of one mapped DAG do not retry at the same moment.
        delay = max(backoff * random.uniform(0.5, 1.0), error.retry_after or 0.0)
        left = self.deadline - now
        if left <= 0:
            attempts = f"{self.failures + 1} attempts" if self.failures else "1 attempt"
            raise error.extended(f"{attempts} within accept_timeout")
        self.failures += 1
        # However long the server asks to wait, the last attempt is at the deadline.
        return min(delay, left)
