"""
Hundreds and thousands of waits in one event loop, as in a triggerer.

The triggers of this provider, of dbt Cloud and of Airbyte poll a local server that always responds "running".
"A session a poll" is a minimal trigger that opens an aiohttp session for each poll.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.status_server import StatusServer, serving
from tests.support.tls import Certificates

#: Seconds before each response of the slow server.
SLOW = 3.0
#: The timeout of one process, in seconds.
TIMEOUT = 300.0
OURS, SESSION, DBT, AIRBYTE = VARIANTS = ("ours", "a session a poll", "dbt Cloud", "Airbyte")


@dataclass(frozen=True, slots=True)
class Case:
    """
    The parameters of a measurement, the same for all variants.

    :param waits: the number of waits.
    :param interval: seconds between the polls of a wait.
    :param window: the measured seconds, after each wait has polled once.
    :param tls: whether the server uses TLS.
    :param slow_waits: the number of additional waits that poll another, slow server.
    :param one_job: whether all waits are for the same job.
    """

    waits: int
    interval: float
    window: float
    tls: bool = True
    slow_waits: int = 0
    one_job: bool = False

    def __str__(self) -> str:
        waits = f"{self.waits:,} waits for one job" if self.one_job else f"{self.waits:,} waits"
        slow = f", {self.slow_waits} of a slow server beside" if self.slow_waits else ""
        return f"{waits}, every {self.interval:g} s, {'https' if self.tls else 'http'}{slow}"


# With more slow waits, Airbyte's triggers would never poll the fast server: each one blocks the loop for 3 of 4 s.
FEW = Case(waits=100, interval=1, window=5, slow_waits=1)
MANY = Case(waits=1000, interval=5, window=5)
MANY_PLAIN = replace(MANY, tls=False)
LONG = Case(waits=1000, interval=30, window=30, slow_waits=3)
LONGEST = replace(LONG, waits=5000)
ONE_JOB = Case(waits=1000, interval=5, window=8, one_job=True)

_CPU, _LAG, _LAG_WITHOUT_GC, _RATE = "CPU a poll", "longest lag", "longest lag without gc", "polls a second"
#: The metrics that are shown, with name and unit.
SHOWN = {
    "cpu": (_CPU, "ms"),
    "connections": ("connections", ""),
    "handshakes": ("handshakes", ""),
    "lag": (_LAG, "ms"),
    "lag without gc": (_LAG_WITHOUT_GC, "ms"),
    "lag p99": ("p99 of lag", "ms"),
    "polls a second": (_RATE, ""),
}


class Measurements:
    """
    Measures variants, each in its own process and with its own servers.

    :param certificates: for the servers with TLS.
    """

    def __init__(self, result: report.Report, certificates: Certificates) -> None:
        self._result = result
        self._certificates = certificates
        # The fork server imports Airflow and the triggers once for all processes.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.benchmarks.waiters"])
        #: The longest garbage collection before the first wait, in milliseconds.
        self.collection = 0.0

    def run(self, *measurements: tuple[Case, str]) -> None:
        """
        Measure variants of cases concurrently, and add a note for each one without a result.

        :raises RuntimeError: the variant of this provider has no result.
        """
        with ExitStack() as stack:
            responses = [stack.enter_context(self._measuring(case, variant)) for case, variant in measurements]
            for (case, variant), response in zip(measurements, responses, strict=True):
                found = response.recv() if response.poll(TIMEOUT) else f"no result in {TIMEOUT:.0f} s"
                if isinstance(found, str):
                    if variant == OURS:
                        raise RuntimeError(f"{case}: {found}")
                    self._result.note(f"{variant} gave no figures for {case}: {found}.")
                    continue
                self.collection = max(self.collection, found["collection"])
                shown = {"polls": ("polls", "")} if case.one_job else SHOWN
                self._result.add(str(case), variant, **{shown[n][0]: (found[n], shown[n][1]) for n in shown})

    @contextmanager
    def _measuring(self, case: Case, variant: str) -> Iterator[Connection]:
        certificates = self._certificates if case.tls else None
        with serving(certificates) as server, serving(certificates, delay=SLOW) as slow:
            pipe, worker_pipe = self._context.Pipe()
            process = self._context.Process(
                target=_measure, args=(case, variant, server, slow, worker_pipe), daemon=True
            )
            process.start()
            try:
                yield pipe
            finally:
                process.kill()
                process.join(10)


def _measure(case: Case, variant: str, server: StatusServer, slow: StatusServer, response: Connection) -> None:
    from tests.benchmarks.waiters import measure

    try:
        response.send(measure(case, variant, server, slow))
    except Exception as e:
        response.send(repr(e))


@contextmanager
def environment() -> Iterator[Certificates]:
    """Set a temporary home for Airflow, and a trusted CA for all clients."""
    with tempfile.TemporaryDirectory(prefix="datatile-waits-") as folder:
        certificates = Certificates.make(Path(folder))
        trusted = str(certificates.authority)
        os.environ |= {
            "AIRFLOW_HOME": folder,
            # How much a triggerer logs is a setting, so logging is not measured.
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
            "NO_PROXY": "127.0.0.1",
            # aiohttp and httpx read the first variable, requests and this provider the second.
            "SSL_CERT_FILE": trusted,
            "REQUESTS_CA_BUNDLE": trusted,
        }
        yield certificates


def main() -> None:
    options = report.options(__doc__, runs=3)
    libraries = ["aiohttp", "apache-airflow", "apache-airflow-providers-airbyte", "apache-airflow-providers-dbt-cloud"]
    result = report.Report("waits", "Waiting for many jobs in one event loop", options, libraries=libraries)
    with environment() as certificates:
        measurements = Measurements(result, certificates)
        if options.quick:
            quick(measurements, result)
        else:
            full(measurements, result, options.runs)
    result.finish()


def quick(measurements: Measurements, result: report.Report) -> None:
    """Measure each variant briefly."""
    case = Case(waits=20, interval=0.5, window=1, slow_waits=1)
    for variant in VARIANTS:
        measurements.run((case, variant))
    one_job = replace(case, slow_waits=0, one_job=True)
    measurements.run((one_job, OURS))
    result.ratio(str(case), _CPU, OURS, SESSION, at_least=None, lower=True)
    result.limit(str(case), "connections", OURS, under=9)
    result.limit(str(one_job), "polls", OURS, under=20)


def full(measurements: Measurements, result: report.Report, runs: int) -> None:
    """Measure all cases, and compare them with the targets."""
    for variant in VARIANTS:
        measurements.run((FEW, variant))
    for _ in range(runs):
        for variant in (OURS, SESSION, DBT):
            measurements.run((MANY, variant))
        for variant in (OURS, SESSION):
            measurements.run((MANY_PLAIN, variant))
    for case in (MANY, MANY_PLAIN):
        measurements.run((case, AIRBYTE))
    for case in (LONG, LONGEST):
        measurements.run((case, OURS))
        # Concurrent, because they start slowly. Ours runs alone, because its lag has a target.
        measurements.run((case, DBT), (case, AIRBYTE))
    measurements.run((ONE_JOB, OURS))

    for peer in (SESSION, DBT):
        result.ratio(str(MANY), _CPU, OURS, peer, at_least=2.5, lower=True)
    result.ratio(str(MANY_PLAIN), _CPU, OURS, SESSION, at_least=None, lower=True)
    for case in (MANY, MANY_PLAIN, LONG, LONGEST):
        # The default of max_connections.
        result.limit(str(case), "connections", OURS, under=101)
    for case in (LONG, LONGEST):
        result.limit(str(case), _LAG_WITHOUT_GC, OURS, under=50)
    result.ratio(str(FEW), _RATE, OURS, SESSION, at_least=0.9)
    result.limit(str(ONE_JOB), "polls", OURS, under=20)
    result.note(NOTE)
    result.note(f"Before the first wait, a full garbage collection takes up to {measurements.collection:.0f} ms.")


NOTE = (
    "CPU is the processor time of the process with the event loop, measured once each wait has polled. The lag is how "
    "late the loop resumes a task that sleeps for 10 ms, measured from before the first wait. Python's garbage "
    "collector sometimes walks the whole heap, most of which is Airflow's. That stops every loop. 'Without gc' leaves "
    "it out. Nothing is logged. dbt Cloud's hook supports https only. Airbyte's trigger is measured once per case. "
    "With intervals of 30 s, ours ran alone, and the peers ran at the same time as each other."
)


if __name__ == "__main__":
    main()
