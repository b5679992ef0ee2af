"""An upload task that ran against a sandbox behind a fault proxy."""

from __future__ import annotations

import dataclasses

from airflow.providers.common.compat.sdk import AirflowFailException

from tests.support.faults import LoggedRequest
from tests.support.task import Outcome, Task


@dataclasses.dataclass
class Run:
    """
    One task that has ended.

    :param accepted: how many uploads the server accepted.
    :param log: the requests that the proxy received.
    """

    task: Task
    outcome: Outcome
    accepted: int
    log: list[LoggedRequest]
    target: str

    @property
    def result(self) -> str:
        if self.outcome.state == "success":
            return f"succeeds; {self.accepted} accepted"
        last = self.outcome.errors[-1]
        known = "unknown" if "OUTCOME UNKNOWN" in str(last) else "rejected"
        kind = known if isinstance(last, AirflowFailException) else type(last).__name__
        return f"fails: {kind}; {self.accepted} accepted"

    def uploads(self) -> list[LoggedRequest]:
        return [request for request in self.log if request.method == "POST"]
