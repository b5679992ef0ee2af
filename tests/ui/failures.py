"""The servers of the DAG of failures: each rejects requests, or fails, in one way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from datatile_provider.ledger.entry import Entry, Owner, Phase
from datatile_provider.ledger.ledger import Ledger
from datatile_provider.ledger.store import FolderStore
from datatile_provider.sandbox import Sandbox
from tests.support.airflow import free_port
from tests.support.faults import Fault, FaultProxy
from tests.support.rawserver import Peer, RawServer
from tests.support.sandbox import connection_to, upload
from tests.support.waiting import until

FAILURES = "datatile_failures"
UPLOADS = (
    *("token_refused", "role_missing", "not_found", "invalid_input", "server_unreachable", "file_too_large"),
    *("destination_busy", "outcome_unknown", "repeated_upload", "job_failed", "job_timed_out"),
)
SENSORS = ("token_refused", "role_missing", "not_found", "server_unreachable", "job_failed", "job_timed_out")
#: For each task of the DAG, the code of its error: the anchor in ``docs/troubleshooting.md``.
CODES = {
    **{f"{reason}_upload": reason.replace("_", "-") for reason in UPLOADS},
    **{f"{reason}_{mode}": reason.replace("_", "-") for reason in SENSORS for mode in ("sensor", "sensor_in_worker")},
    # A sensor polls a server that is down until its timeout.
    "server_unreachable_sensor": "job-timed-out",
    "server_unreachable_sensor_in_worker": "job-timed-out",
}
#: The failures in which the server gives a reason.
WITH_SERVER_MESSAGE = ("token_refused", "role_missing", "not_found", "file_too_large", "destination_busy", "job_failed")
# A target and a job that no server here knows.
TARGET, JOB = "48245753705f6061", "7c9e6679f7d44bd1a1e0c5b2f0d38e11"
WRONG_TOKEN = "0f3a9c2b7d4e5f61"


@contextmanager
def failing_servers(data: Path) -> Iterator[dict[str, str]]:
    """
    Start the servers, and yield the connections and the variable of the DAG as environment variables.

    :param data: the folder with ``wave2.zsav``, and ``wave3.zsav``, which is truncated.
    """
    with ExitStack() as servers:
        # Airflow may fail a task that is resumed while its worker is still ending: a job takes longer than that.
        quick = servers.enter_context(Sandbox(processing_seconds=5))
        slow = servers.enter_context(Sandbox(processing_seconds=3600))
        small = servers.enter_context(Sandbox(max_upload_bytes=5000))
        forbidding = servers.enter_context(RawServer(forbid))
        losing = servers.enter_context(FaultProxy(quick.url, Fault("reset_before_response", on="upload")))
        unreachable = f"http://127.0.0.1:{free_port()}"
        busy = slow.add_database("Tracker")
        running = upload(slow, "append", busy, data / "wave2.zsav")
        failed = upload(quick, "append", quick.add_database("Tracker"), data / "wave3.zsav")
        until(lambda: [job["state"] for job in quick.jobs()] == ["FAILED"], f"job {failed} has failed", timeout=30)
        failures = {
            "token_refused": (quick.url, WRONG_TOKEN, TARGET, failed),
            "role_missing": (forbidding.url, WRONG_TOKEN, TARGET, JOB),
            "not_found": (quick.url, quick.token, TARGET, JOB),
            "invalid_input": (quick.url, quick.token, TARGET, ""),
            "server_unreachable": (unreachable, WRONG_TOKEN, TARGET, JOB),
            "file_too_large": (small.url, small.token, small.add_database("Tracker"), ""),
            "destination_busy": (slow.url, slow.token, busy, ""),
            "outcome_unknown": (losing.url, quick.token, quick.add_database("Tracker"), ""),
            "repeated_upload": (quick.url, quick.token, quick.add_database("Tracker"), ""),
            "job_failed": (quick.url, quick.token, quick.add_database("Tracker"), failed),
            "job_timed_out": (slow.url, slow.token, slow.add_database("Tracker"), running),
        }
        variable = {name: {"target": target, "job": job} for name, (_, _, target, job) in failures.items()}
        fields = {name: connection_to(url, token) for name, (url, token, _, _) in failures.items()}
        fields["repeated_upload"]["extra"]["ledger"] = ledger_of_another_run(
            quick, failures["repeated_upload"][2], data
        )
        connections = {f"AIRFLOW_CONN_DATATILE_{name.upper()}": json.dumps(found) for name, found in fields.items()}
        yield {"AIRFLOW_VAR_FAILURES": json.dumps(variable), **connections}


def ledger_of_another_run(sandbox: Sandbox, target: str, data: Path) -> str:
    """Make a ledger in which another run has sent ``wave2.zsav``, and return its URI."""
    folder = data / "ledger"
    folder.mkdir()
    content = (data / "wave2.zsav").read_bytes()
    job_id = upload(sandbox, "append", target, data / "wave2.zsav")
    owner = Owner("", "weekly_wave", "scheduled__2026-11-30T06:00:00+00:00", "append", -1, 1)
    what = (f"{sandbox.url}/api/v2", "append", target, hashlib.sha256(content).hexdigest(), len(content), "wave2.zsav")
    entry = Entry("id-1", *what, Phase.ACCEPTED, job_id, "2026-11-30T06:00:07+00:00", owner)
    Ledger(FolderStore(folder)).claim(entry, lambda earlier: None)
    return folder.as_uri()


def forbid(peer: Peer) -> None:
    """Respond with 403 to each request."""
    while True:
        peer.request()
        message = {"error": "The user lacks the role Data collector"}
        peer.respond(403, json.dumps(message).encode(), "Content-Type: application/json")
