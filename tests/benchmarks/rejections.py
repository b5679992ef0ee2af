"""
How many uploads a server rejects in a real Airflow, by what limits the tasks.

One server accepts one upload a second. To another one, two DAGs send the same files to the same database at once.
"""

from __future__ import annotations

import collections
import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import report
from tests.support.airflow import RealAirflow
from tests.support.faults import FaultProxy
from tests.support.sandbox import SandboxProcess

#: Seconds for a run.
LIMIT = 900.0


@dataclass(frozen=True, slots=True)
class Case:
    """
    A server, and uploads to it by some DAGs at once.

    :param rate: uploads a minute that the server accepts; 0 for no limit.
    :param variants: by name: the DAG without its last letter, and the name of its connection.
    """

    name: str
    rate: float
    uploads: int
    databases: int
    dags: str
    variants: dict[str, tuple[str, str]]


CASES = (
    Case(
        "{} uploads to {} databases, one a second accepted",
        60,
        60,
        20,
        "a",
        {
            "no limit": ("nothing", "plain"),
            "deferrable": ("deferrable", "plain"),
            "max_active_tis_per_dag=2": ("tis_per_dag", "plain"),
            "pool of 1 slot": ("pool", "plain"),
        },
    ),
    Case(
        "the same {} files to {} database, from two DAGs",
        0,
        8,
        1,
        "ab",
        {
            "each waits for its job": ("waits", "plain"),
            "one at a time in each DAG": ("waits_in_turn", "plain"),
            "pool of 1 slot for both": ("waits_in_pool", "plain"),
            "pool and ledger": ("waits_in_pool", "ledger"),
        },
    ),
)


class Server:
    """A sandbox behind a proxy that counts its responses, and the connections to it: with and without a ledger."""

    def __init__(self, name: str, rate: float, folder: Path, stack: ExitStack) -> None:
        self.name = name
        self._folder = folder / name
        self.ledger = self._folder / "ledger"
        self.ledger.mkdir(parents=True)
        self.sandbox = stack.enter_context(SandboxProcess(self._folder, 1.0, rate))
        self.proxy = stack.enter_context(FaultProxy(self.sandbox.url))
        self._files = 0

    def connections(self) -> dict[str, str]:
        plain = json.loads(self.sandbox.connection(self.proxy.url))
        ledger = {**plain, "extra": {**plain["extra"], "ledger": self.ledger.as_uri()}}
        return {
            f"AIRFLOW_CONN_{self.name.upper()}_PLAIN": json.dumps(plain),
            f"AIRFLOW_CONN_{self.name.upper()}_LEDGER": json.dumps(ledger),
        }

    def make_file(self, number: int) -> Path:
        self._files += 1
        path = self._folder / f"wave{self._files}.csv"
        path.write_text(f"id\n{self._files}\n{number}\n")
        return path


def measure(
    case: Case, uploads: int, dag: str, conn: str, airflow: RealAirflow, server: Server
) -> dict[str, tuple[float, str]]:
    """Run one variant and return its metrics."""
    targets = [server.sandbox.add_database() for _ in range(case.databases)]
    files = [server.make_file(n) for n in range(uploads)]
    pairs = [{"dataset": str(file), "target_hash": targets[n % case.databases]} for n, file in enumerate(files)]
    conf = {"uploads": pairs, "conn_id": f"{server.name}_{conn}"}
    before, started = len(server.proxy.log), time.monotonic()
    runs = {f"{dag}_{copy}": airflow.api.trigger(f"{dag}_{copy}", conf) for copy in case.dags}
    ended = [airflow.api.wait_for_run(dag_id, run_id, LIMIT) for dag_id, run_id in runs.items()]
    seconds = time.monotonic() - started
    tasks = [task for run in ended for task in run.tasks if task.task_id == "upload"]
    if not all(run.finished for run in ended):
        raise RuntimeError(f"{dag} has not ended: {collections.Counter(task.state for task in tasks)}")
    statuses = collections.Counter(r.upstream_status for r in server.proxy.log[before:] if r.on == "upload")
    return {
        "rejected": (statuses[429] + statuses[409], ""),
        "seconds": (seconds, "s"),
        "accepted a file": (statuses[200] / uploads, ""),
        "failed tasks": (sum(task.state == "failed" for task in tasks), ""),
    }


def main() -> None:
    options = report.options(__doc__, runs=1)
    result = report.Report("rejections", "Rejected uploads", options, ["apache-airflow"])
    with tempfile.TemporaryDirectory(prefix="datatile-rejections-") as folder, ExitStack() as stack:
        servers = [Server(f"server{n}", case.rate, Path(folder), stack) for n, case in enumerate(CASES)]
        env = {name: text for server in servers for name, text in server.connections().items()}
        env["DATATILE_BENCHMARK_WAITS"] = "1"
        airflow = stack.enter_context(RealAirflow(Path(__file__).parent / "dags", env=env))
        pool = {"name": "datatile", "slots": 1, "include_deferred": True}
        airflow.api.call("POST", "pools", json=pool)
        for _ in range(options.runs):
            for case, server in zip(CASES, servers, strict=True):
                uploads = 4 if options.quick else case.uploads
                for variant, (dag, conn) in case.variants.items():
                    found = measure(case, uploads, dag, conn, airflow, server)
                    result.add(case.name.format(uploads, case.databases), variant, **found)
    result.note(
        "'Rejected' counts responses with 429 or 409, which the operator retries. 'Accepted a file' is 1 if each file "
        "is in the database once. LocalExecutor with 8 slots. A job takes 1 s."
    )
    result.finish()


if __name__ == "__main__":
    main()
