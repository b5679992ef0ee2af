"""Upload one file from disk: with this provider, with the usual Python libraries, and with curl."""

from __future__ import annotations

import os
import resource
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from tests.benchmarks import fresh, report
from tests.benchmarks.report import Report
from tests.support.sink import sink
from tests.support.tls import Certificates

MIB = 1 << 20
OURS, CURL = "ours", "curl -F"
FILES = "requests files="


def ours(url: str, path: str, ca: str) -> dict[str, float]:
    """Send a file as the operator does."""
    from datatile_provider.api.client import DatatileClient
    from datatile_provider.api.models import Action, ServerConfig, Upload
    from datatile_provider.api.settings import Settings
    from datatile_provider.hooks.dataset import dataset_of

    client = DatatileClient(Settings(ServerConfig(url), "token", verify=ca or True))
    dataset = dataset_of(path)

    def send() -> None:
        client.upload(Upload(Action.APPEND, "target", dataset.name, dataset.size), dataset)

    return fresh.measure(send)


def requests_files(url: str, path: str, ca: str) -> dict[str, float]:
    """Send a file as in the documentation of requests."""
    import requests

    def send() -> None:
        with open(path, "rb") as file:
            requests.post(url, files={"dataset": file}, verify=ca or True).raise_for_status()

    return fresh.measure(send)


def toolbelt(url: str, path: str, ca: str, block: int = 0) -> dict[str, float]:
    """Send a file with requests-toolbelt, in blocks of its default size or another one."""
    import requests
    from requests_toolbelt import MultipartEncoder

    class Blocks:
        def __init__(self, encoder: MultipartEncoder) -> None:
            self._encoder = encoder

        def __len__(self) -> int:
            return int(self._encoder.len)

        def __iter__(self) -> Any:
            return iter(lambda: self._encoder.read(block), b"")

    def send() -> None:
        with open(path, "rb") as file:
            encoder = MultipartEncoder({"dataset": ("wave.sav", file, "application/octet-stream")})
            requests.post(
                url,
                data=Blocks(encoder) if block else encoder,
                headers={"Content-Type": encoder.content_type},
                verify=ca or True,
            ).raise_for_status()

    return fresh.measure(send)


def httpx_files(url: str, path: str, ca: str) -> dict[str, float]:
    """Send a file with httpx."""
    import ssl

    import httpx

    context = ssl.create_default_context(cafile=ca or None)

    def send() -> None:
        with open(path, "rb") as file:
            httpx.post(url, files={"dataset": file}, verify=context, timeout=300).raise_for_status()

    return fresh.measure(send)


def curl(url: str, path: str, ca: str) -> dict[str, float]:
    """Send a file with curl. The memory is that of the whole process; the time is curl's own, without its start."""
    command = ["curl", "--silent", "--show-error", "--fail", *(["--cacert", ca] if ca else [])]
    command += ["--output", "/dev/null", "--write-out", "%{time_total}", "-F", f"dataset=@{path}", url]
    memory = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        # Read while the process runs: the resource usage of an ended child includes its parent's memory.
        while process.poll() is None:
            memory = max(memory, fresh.status("VmHWM", process.pid))
            time.sleep(0.005)
        assert process.stdout
        seconds = float(process.stdout.read())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "memory": memory / 1024}


#: Each variant's function, and its arguments after address, file and CA bundle.
VARIANTS: dict[str, tuple[Callable[..., dict[str, float]], tuple[int, ...]]] = {
    OURS: (ours, ()),
    CURL: (curl, ()),
    FILES: (requests_files, ()),
    "requests-toolbelt": (toolbelt, ()),
    "toolbelt, 1 MiB blocks": (toolbelt, (MIB,)),
    "httpx files=": (httpx_files, ()),
}


def main() -> None:
    options = report.options(__doc__, runs=5)
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    libraries = ("requests", "urllib3", "requests-toolbelt", "httpx")
    result = Report(
        "upload", "Upload of one file", options, libraries, {"curl": version, "OpenSSL": ssl.OPENSSL_VERSION.split()[1]}
    )
    sizes = [1, 8] if options.quick else [10, 1024, 5120]
    with TemporaryDirectory() as directory, ExitStack() as stack:
        certificates = Certificates.make(Path(directory))
        plain, secure = stack.enter_context(sink()), stack.enter_context(sink(certificates))
        servers = (("http", plain, ""), ("https", secure, str(certificates.authority)))
        for mib in sizes:
            path = _file(Path(directory), mib)
            for scheme, url, ca in servers:
                case = f"{scheme}, {f'{mib // 1024} GiB' if mib >= 1024 else f'{mib} MiB'}"
                for _ in range(1 if mib > 1024 else options.runs):
                    _run(result, case, url, path, ca)
                _compare(result, case)
    result.note("The file is in the page cache. Client and server share the processors.")
    result.note("Memory is the peak above the interpreter with its libraries. For curl it is the whole process.")
    result.note("Times do not include the start of curl or the interpreter. curl's processor time includes its start.")
    if max(sizes) > 1024:
        result.note("Each variant sends the largest file once, so its ratios have no spread.")
    result.finish()


def _file(directory: Path, mib: int) -> Path:
    path = directory / "wave.sav"
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(block)
        # Otherwise it is written to the disk while the first variants are measured.
        os.fsync(file.fileno())
    with path.open("rb") as file:
        while file.read(MIB):
            pass
    return path


def _run(result: Report, case: str, url: str, path: Path, ca: str) -> None:
    size = path.stat().st_size
    for variant, (function, arguments) in VARIANTS.items():
        # Twice the file's size, and some memory for other processes.
        if variant == FILES and psutil.virtual_memory().available < 2.5 * size:
            result.note(f"{case}: {FILES} is left out, as it needs twice the file in memory.")
            continue
        measured = fresh.call(f"{__spec__.name}:{function.__name__}", url, str(path), ca, *arguments)
        result.add(
            case,
            variant,
            throughput=(size / measured["seconds"] / 1e6, "MB/s"),
            processor=(measured["cpu"] / size * 1e9, "s/GB"),
            memory=(measured["memory"], "MiB"),
        )


def _compare(result: Report, case: str) -> None:
    result.ratio(case, "throughput", OURS, CURL, at_least=1.0)
    if result.has(case, FILES):
        result.ratio(case, "throughput", OURS, FILES, at_least=10.0 if case == "http, 1 GiB" else None)
    result.limit(case, "memory", OURS, under=8.0)


if __name__ == "__main__":
    main()
