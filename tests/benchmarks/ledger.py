"""What the hash of the content and the ledger add to an upload of one file, from disk and over a link of 60 MB/s."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks import fresh, report
from tests.benchmarks.link import link
from tests.benchmarks.report import Report
from tests.support.sink import sink

MIB = 1 << 20
ALONE, HASHED, CLAIMED = "without", "hash", "hash and ledger"
RATE = 60e6


def send(url: str, path: str, ledger: str, hashed: bool) -> dict[str, float]:
    """Send a file as the operator does: alone, with its hash, or with its hash and a claim."""
    from datatile_provider.api.client import DatatileClient
    from datatile_provider.api.models import Action, ServerConfig, Upload
    from datatile_provider.api.settings import Settings
    from datatile_provider.hooks.content import Sha256
    from datatile_provider.hooks.dataset import dataset_of
    from datatile_provider.ledger.entry import Entry, Owner, Phase
    from datatile_provider.ledger.ledger import Ledger
    from datatile_provider.ledger.store import store_of

    client = DatatileClient(Settings(ServerConfig(url), "token"))
    owner = Owner("", "dag", "run", "task", -1, 1)

    def work() -> None:
        dataset, content = dataset_of(path), Sha256()
        upload = Upload(Action.APPEND, "target", dataset.name, dataset.size)
        if not hashed:
            client.upload(upload, dataset)
            return
        book = Ledger(store_of(ledger)) if ledger else None
        if book:
            book.check()
        names: list[str] = []

        def claim() -> None:
            sha256 = content.hexdigest()
            if book:
                where = (url, "append", "target", sha256, dataset.size, dataset.name)
                # A claim of its own for each measurement.
                entry = Entry(os.urandom(8).hex(), *where, Phase.CLAIMED, "", "2026-01-05T06:03:10", owner)
                names.append(book.claim(entry, lambda earlier: None))

        client.upload(upload, content.of(dataset), before_end=claim)
        if book:
            book.change(names[0], Phase.ACCEPTED, "job-7")

    return fresh.measure(work)


def main() -> None:
    options = report.options(__doc__, runs=5)
    result = Report("ledger", "Cost of the hash and the ledger", options, ["requests", "urllib3"])
    sizes = [1, 8] if options.quick else [10, 1024]
    with TemporaryDirectory() as directory, ExitStack() as stack:
        folder = Path(directory)
        (folder / "ledger").mkdir()
        url = stack.enter_context(sink())
        port = stack.enter_context(link(int(url.rpartition(":")[2].partition("/")[0]), RATE))
        for mib in sizes:
            path = folder / "wave.sav"
            path.write_bytes(b"")
            with path.open("wb") as file:
                for _ in range(mib):
                    file.write(os.urandom(MIB))
                os.fsync(file.fileno())
            size = f"{mib // 1024} GiB" if mib >= 1024 else f"{mib} MiB"
            cases: list[tuple[str, str, bool]] = [
                (f"{size}, in memory", url, True),
                (f"{size}, from disk", url, False),
                (f"{size}, 60 MB/s", f"http://127.0.0.1:{port}", True),
            ]
            for case, address, cached in cases:
                for _ in range(options.runs):
                    _run(result, case, address, path, (folder / "ledger").as_uri(), cached=cached)
                result.ratio(case, "seconds", CLAIMED, ALONE, lower=True, at_least=1 / 1.15)
                result.ratio(case, "seconds", HASHED, ALONE, lower=True, at_least=None)
    result.note("From disk: the file is removed from the page cache before each upload. Else it is in memory.")
    result.note("Client and server share the processors.")
    result.finish()


def _run(result: Report, case: str, url: str, path: Path, ledger: str, *, cached: bool) -> None:
    variants: dict[str, tuple[Any, ...]] = {ALONE: ("", False), HASHED: ("", True), CLAIMED: (ledger, True)}
    for variant, arguments in variants.items():
        with path.open("rb") as file:
            if cached:
                while file.read(MIB):
                    pass
            else:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        measured = fresh.call(f"{__spec__.name}:{send.__name__}", url, str(path), *arguments)
        result.add(case, variant, seconds=(measured["seconds"], "s"), processor=(measured["cpu"], "s"))


if __name__ == "__main__":
    main()
