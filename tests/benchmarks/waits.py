"""
Waits: hundreds and thousands in one event loop, as in a triggerer.

The triggers themselves run, of this provider, of dbt Cloud's and of Airbyte's, and poll a local server that says
"running" for ever. "A session a poll" is the least that a trigger can do which opens an aiohttp session for each poll.
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

#: Seconds that the slow server takes for an answer.
SLOW = 3.0
#: Seconds for one process, from its start to its result.
TIMEOUT = 300.0
OURS, SESSION, DBT, AIRBYTE = VARIANTS = ("ours", "a session a poll", "dbt Cloud", "Airbyte")


@dataclass(frozen=True, slots=True)
class Case:
    """
    What the variants do alike.

    :param waits: how many there are.
    :param interval: seconds between the polls of a wait.
    :param window: seconds measured, from when each has polled once.
    :param tls: whether the server is asked over TLS.
    :param slow_waits: how many further waits poll another server, which is slow to answer.
    :param one_job: whether all wait for the same job.
    """

    waits: int
    interval: float
    window: float
    tls: bool = True
    slow_waits: int = 0
    one_job: bool = False

    def __str__(self) -> str:
        waits = f"{self.waits:,} waits for one job" if self.one_job else f"{self.waits:,} waits"
        beside = f", {self.slow_waits} of a slow server beside" if self.slow_waits else ""
        return f"{waits}, every {self.interval:g} s, {'https' if self.tls else 'http'}{beside}"


# With more of the slow server's, Airbyte's would never come to the others: each stops the loop for 3 of 4 s.
FEW = Case(waits=100, interval=1, window=5, slow_waits=1)
MANY = Case(waits=1000, interval=5, window=5)
MANY_PLAIN = replace(MANY, tls=False)
LONG = Case(waits=1000, interval=30, window=30, slow_waits=3)
LONGEST = replace(LONG, waits=5000)
ONE_JOB = Case(waits=1000, interval=5, window=8, one_job=True)

_CPU, _LAG, _LAG_WITHOUT_GC, _RATE = "CPU a poll", "longest lag", "longest lag without gc", "polls a second"
#: What of a measurement is shown, under which name, in which unit.
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
    Runs variants, each against servers of its own, in a process of its own.

    :param certificates: for the servers that speak TLS.
    """

    def __init__(self, result: report.Report, certificates: Certificates) -> None:
        self._result = result
        self._certificates = certificates
        # What all of them import, Airflow above all, is imported once.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.benchmarks.waiters"])
        #: Milliseconds that the collector took at most for what was there before the first wait.
        self.collection = 0.0

    def run(self, *wanted: tuple[Case, str]) -> None:
        """
        Measure variants of cases, beside each other; note what did not get through.

        :raises RuntimeError: ours did not.
        """
        with ExitStack() as ends:
            responses = [ends.enter_context(self._measuring(case, variant)) for case, variant in wanted]
            for (case, variant), response in zip(wanted, responses, strict=True):
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
            ours, its = self._context.Pipe()
            process = self._context.Process(target=_measure, args=(case, variant, server, slow, its), daemon=True)
            process.start()
            try:
                yield ours
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
    """Give Airflow a throw-away home, and all clients an authority to trust."""
    with tempfile.TemporaryDirectory(prefix="datatile-waits-") as folder:
        certificates = Certificates.make(Path(folder))
        trusted = str(certificates.authority)
        os.environ |= {
            "AIRFLOW_HOME": folder,
            # A triggerer writes what its triggers log, or not, as it is told; nothing of that is counted here.
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
            "NO_PROXY": "127.0.0.1",
            # aiohttp and httpx read the one, requests and this provider the other.
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
    """Take a short look at each variant."""
    case = Case(waits=20, interval=0.5, window=1, slow_waits=1)
    for variant in VARIANTS:
        measurements.run((case, variant))
    one_job = replace(case, slow_waits=0, one_job=True)
    measurements.run((one_job, OURS))
    result.ratio(str(case), _CPU, OURS, SESSION, at_least=None, lower=True)
    result.limit(str(case), "connections", OURS, under=9)
    result.limit(str(one_job), "polls", OURS, under=20)


def full(measurements: Measurements, result: report.Report, runs: int) -> None:
    """Measure all, and hold it against the marks."""
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
        # They take long to start. Ours has the machine for itself, as its lag is held against a mark.
        measurements.run((case, DBT), (case, AIRBYTE))
    measurements.run((ONE_JOB, OURS))

    for peer in (SESSION, DBT):
        result.ratio(str(MANY), _CPU, OURS, peer, at_least=2.5, lower=True)
    result.ratio(str(MANY_PLAIN), _CPU, OURS, SESSION, at_least=None, lower=True)
    for case in (MANY, MANY_PLAIN, LONG, LONGEST):
        result.limit(str(case), "connections", OURS, under=9)
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
