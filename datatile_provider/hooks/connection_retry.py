"""How long a wait that starts retries to read its connection: pure, except for the monotonic clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from datatile_provider.api import errors
from datatile_provider.api.polling import GRACE

#: Seconds for which reading a connection is retried that was never read before.
FIRST_READ = 20.0
_PAUSE = 5.0


@dataclass(slots=True)
class ConnectionRetry:
    """
    Decides how long a wait that starts retries to read its connection.

    :param deadline: the wait's, in seconds since the epoch.
    :param last_attempt: the time of the last attempt, in seconds of the monotonic clock; set at the first failure.
    :param kind: the kind of the last error.
    """

    log: Any
    server: str | None
    job_id: str
    deadline: float
    last_attempt: float | None = None
    kind: type[errors.DatatileError] | None = None

    def pause(self, error: errors.DatatileError, now: float) -> float:
        """
        Return the seconds until the connection is read again.

        :param now: the time, in seconds since the epoch.
        """
        final = not isinstance(error, errors.TransientError)
        if final and not self.server:
            raise error
        if self.last_attempt is None or self.kind is not type(error):
            self.log.warning("%s", error.report("trying again"))
            # One that was never read may not exist. One that is edited now may be wrong for a moment.
            patience = GRACE if final else self.deadline - now if self.server else FIRST_READ
            self.last_attempt, self.kind = time.monotonic() + patience, type(error)
        left = self.last_attempt - time.monotonic()
        if left > 0:
            return min(_PAUSE, left)
        if final or not self.server:
            raise error
        raise errors.JobTimeoutError(
            f"The job could not be polled before the deadline.\n{error.what}",
            subject=f"job {self.job_id}",
            hint=error.hint,
        )
