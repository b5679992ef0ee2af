"""Uploads from an S3 server at the same time on one worker, each in the process of its task: memory and throughput."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks import fresh, report, s3
from tests.benchmarks.link import link
from tests.benchmarks.store import KEY, MIB, RATE
from tests.support.sink import sink

#: The numbers of uploads at the same time.
AT_ONCE = (1, 4, 16)
#: Seconds within which all processes must have done their imports.
TIMEOUT = 180.0
_ALL, _EACH = "throughput", "memory of an upload"


def main() -> None:
    options = report.options(__doc__, runs=1)
    size = (8 if options.quick else 64) * MIB
    numbers = (1, 2) if options.quick else AT_ONCE
    result = report.Report("uploads", "Uploads from an S3 server at once", options, ("s3fs", "moto"))
    case = f"{size // MIB} MiB each, links of {RATE / 1e6:.0f} MB/s for all"
    with TemporaryDirectory() as directory, ExitStack() as stack:
        server = stack.enter_context(s3.s3(Path(directory)))
        s3.client(server).put_object(Bucket=s3.BUCKET, Key=KEY, Body=os.urandom(size))
        store = stack.enter_context(link(server, RATE))
        sink_port = int(stack.enter_context(sink()).rpartition(":")[2])
        url = f"http://127.0.0.1:{stack.enter_context(link(sink_port, RATE))}"
        env = {"AIRFLOW_HOME": directory, "AIRFLOW_CONN_AWS_DEFAULT": s3.connection(store)}

        def upload(gate: str) -> dict[str, float]:
            found: dict[str, float] = fresh.call("tests.benchmarks.store:streamed", url, True, gate, env=env)
            return found

        def together(number: int) -> list[dict[str, float]]:
            with TemporaryDirectory() as gate, ThreadPoolExecutor(number) as pool:
                uploads = [pool.submit(upload, gate) for _ in range(number)]
                deadline = time.monotonic() + TIMEOUT
                while len(os.listdir(gate)) < number and time.monotonic() < deadline:
                    time.sleep(0.05)
                (Path(gate) / "go").touch()
                return [one.result() for one in uploads]

        for _ in range(options.runs):
            for number in numbers:
                found = together(number)
                span = max(one["ended"] for one in found) - min(one["started"] for one in found)
                result.add(
                    case,
                    f"ours, {number} at once",
                    **{
                        _ALL: (number * size / span / 1e6, "MB/s"),
                        _EACH: (max(one["memory"] for one in found), "MiB"),
                        "memory of all": (sum(one["memory"] for one in found), "MiB"),
                        "processor": (sum(one["cpu"] for one in found) / (number * size) * 1e9, "s/GB"),
                    },
                )
    most = f"ours, {numbers[-1]} at once"
    result.ratio(case, _ALL, most, f"ours, {numbers[0]} at once", at_least=0.5)
    result.limit(case, _EACH, most, under=48)
    result.note(
        "Throughput of all uploads together, until the last one is done. Memory is the peak above that of the process "
        "before the upload. S3 is moto's server on the same machine, and the links are shared by all uploads."
    )
    result.finish()


if __name__ == "__main__":
    main()
