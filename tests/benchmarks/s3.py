"""An S3 server of moto, in its own process."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.fresh import environment
from tests.support.airflow import free_port
from tests.support.processes import Session, end

BUCKET = "surveys"


@contextmanager
def s3(directory: Path) -> Iterator[int]:
    """Run a server with an empty bucket and yield its port. Its log is written to the directory."""
    import botocore.exceptions

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = Session("moto", command, directory / "moto.log", env=environment())
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                client(port).create_bucket(Bucket=BUCKET)
                break
            except botocore.exceptions.EndpointConnectionError:
                if not server.running or time.monotonic() > deadline:
                    raise server.failure("did not start") from None
                time.sleep(0.1)
        yield port
    finally:
        end([server])


def client(port: int) -> Any:
    """Return a boto3 client of the server."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )


def connection(port: int, **extra: str) -> str:
    """Return the Airflow connection to the server."""
    extra = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"} | extra
    return json.dumps({"conn_type": "aws", "login": "key", "password": "secret", "extra": extra})
