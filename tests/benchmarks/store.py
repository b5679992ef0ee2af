"""Upload an object from an S3 server over two equal links: with this provider, and through the local disk."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.benchmarks import fresh, report, s3
from tests.benchmarks.link import link
from tests.benchmarks.report import Report
from tests.support.sink import sink

if TYPE_CHECKING:
    from datatile_provider.api.dataset import Dataset

MIB = 1 << 20
KEY = "wave.sav"
#: Bytes per second of each link.
RATE = 60e6
OURS, PLAIN, DISK = "ours", "s3fs's own file", "download, then upload"
SLOWER = "the slower link alone"
#: MiB: the part that is sent, three that are read ahead, and one that the store's client assembles.
MEMORY = 48


def streamed(url: str, ahead: bool, gate: str = "") -> dict[str, float]:
    """
    Send the object as the operator does, or from the file that s3fs opens.

    :param gate: a folder, if several processes start together: each leaves a file there, and waits for ``go``.
    """
    from airflow.sdk import ObjectStoragePath

    from datatile_provider.hooks.dataset import dataset_of

    path = ObjectStoragePath(f"s3://aws_default@{s3.BUCKET}/{KEY}")
    # A worker loads the store's libraries and makes its client only once.
    with path.open("rb") as file:
        file.read(1)
    if gate:
        (Path(gate) / str(os.getpid())).touch()
        while not (Path(gate) / "go").exists():
            time.sleep(0.01)
    started = time.time()

    def send() -> None:
        dataset = dataset_of(path)
        _send(url, dataset if ahead else replace(dataset, open=lambda: path.open("rb")))

    return fresh.measure(send) | {"started": started, "ended": time.time()}


def by_disk(url: str, port: int) -> dict[str, float]:
    """Download the object with boto3, then send the file; ``slower`` is the time of the slower half."""
    from datatile_provider.hooks.dataset import dataset_of

    client = s3.client(port)
    client.head_object(Bucket=s3.BUCKET, Key=KEY)
    halves = []
    with TemporaryDirectory() as directory:
        path = os.path.join(directory, KEY)

        def both() -> None:
            start = time.perf_counter()
            client.download_file(s3.BUCKET, KEY, path)
            middle = time.perf_counter()
            _send(url, dataset_of(path))
            halves.extend([middle - start, time.perf_counter() - middle])

        return fresh.measure(both) | {"slower": max(halves)}


def _send(url: str, dataset: Dataset) -> None:
    from datatile_provider.api.client import DatatileClient
    from datatile_provider.api.models import Action, ServerConfig, Upload
    from datatile_provider.api.settings import Settings

    upload = Upload(Action.APPEND, "target", dataset.name, dataset.size)
    DatatileClient(Settings(ServerConfig(url), "token")).upload(upload, dataset)


def main() -> None:
    options = report.options(__doc__, runs=5)
    size = (16 if options.quick else 128) * MIB
    result = Report(
        "store",
        "Upload of an object from an S3 server",
        options,
        ("s3fs", "fsspec", "aiobotocore", "boto3", "moto", "apache-airflow-providers-amazon"),
    )
    case = f"{size // MIB} MiB, links of {RATE / 1e6:.0f} MB/s"
    with TemporaryDirectory() as directory, ExitStack() as stack:
        server = stack.enter_context(s3.s3(Path(directory)))
        s3.client(server).put_object(Bucket=s3.BUCKET, Key=KEY, Body=os.urandom(size))
        store = stack.enter_context(link(server, RATE))
        sink_port = int(stack.enter_context(sink()).rpartition(":")[2])
        url = f"http://127.0.0.1:{stack.enter_context(link(sink_port, RATE))}"
        env = {"AIRFLOW_HOME": directory, "AIRFLOW_CONN_AWS_DEFAULT": s3.connection(store)}
        for _ in range(options.runs):
            measured = {
                OURS: fresh.call(f"{__spec__.name}:streamed", url, True, env=env),
                DISK: fresh.call(f"{__spec__.name}:by_disk", url, store, env=env),
                PLAIN: fresh.call(f"{__spec__.name}:streamed", url, False, env=env),
            }
            for variant, found in measured.items():
                result.add(
                    case,
                    variant,
                    throughput=(size / found["seconds"] / 1e6, "MB/s"),
                    processor=(found["cpu"] / size * 1e9, "s/GB"),
                    memory=(found["memory"], "MiB"),
                    disk=(size / MIB if variant == DISK else 0.0, "MiB"),
                )
            result.add(case, SLOWER, throughput=(size / measured[DISK]["slower"] / 1e6, "MB/s"))
    # 1.25 times the time is 0.8 of the throughput.
    result.ratio(case, "throughput", OURS, SLOWER, at_least=0.8)
    result.ratio(case, "throughput", OURS, DISK, at_least=1.5)
    result.ratio(case, "throughput", OURS, PLAIN, at_least=None)
    result.limit(case, "memory", OURS, under=MEMORY)
    result.note(
        "S3 is moto's server on the same machine. A process between limits the rate of each link to that of a network."
    )
    result.note(
        "The slower link alone is the slower half of the way through the disk, at another moment. Above 1 is noise."
    )
    result.note(
        "s3fs's own file uses its default blocks of 50 MiB. moto reads the whole object for each range request."
    )
    result.finish()


if __name__ == "__main__":
    main()
