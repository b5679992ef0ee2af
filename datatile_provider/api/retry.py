"""When an upload is sent again: pure. Told how a try failed, it says how long to wait or that this is the end."""

from __future__ import annotations

import random
from dataclasses import dataclass

from datatile_provider.api import errors
from datatile_provider.api.contract import Action

_FIRST = 1.0
_LONGEST = 60.0


@dataclass(slots=True)
class Retry:
    """
    The tries of one upload.

    :param action: what it does: only a reload may be sent again when its outcome is unknown.
    :param deadline: the time of the last attempt, in seconds of the clock that ``now`` is of.
    :param resend_unknown: send a create or append again too when its outcome is unknown. It may then be held twice.
    """

    action: Action
    deadline: float
    resend_unknown: bool = False
    failures: int = 0

    def after(self, error: errors.DatatileError, now: float) -> float:
        """
        Return the seconds to wait before the next try.

        :raises DatatileError: the error itself, when there is to be no other try.
        """
        unknown = isinstance(error, errors.OutcomeUnknownError) and (self.action.repeatable or self.resend_unknown)
        if not isinstance(error, errors.TransientError) and not unknown:
            raise error
        backoff = min(_LONGEST, _FIRST * 2.0 ** min(self.failures, 10))
        # Half of it at random, so that the tasks of one mapped DAG do not come back all at once.
        delay = max(backoff * random.uniform(0.5, 1.0), error.retry_after or 0.0)
        left = self.deadline - now
        if left <= 0:
            error.what += f"; that was try {self.failures + 1}, and the time to go on trying is over"
            raise error
        self.failures += 1
        # However long the server asks to wait, there is one more attempt at the deadline.
        return min(delay, left)
