"""The check of a large wave, beside reading the same file with pyreadstat alone."""

from __future__ import annotations

import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
import pandas
import pyreadstat

from tests.benchmarks import fresh, report
from tests.benchmarks.report import Report

CHECK, READ = "check_wave", "read_sav alone"
#: Rows that are written at once.
BLOCK = 100_000


def write(path: Path, rows: int, variables: int) -> None:
    """Write an SPSS file of categorical variables, by blocks: its data is a table of 64-bit numbers."""
    names = [f"q{n}" for n in range(variables)]
    labels: dict[str, dict[float | int, str]] = {
        name: {code: f"Answer {code}" for code in range(1, 6)} for name in names
    }
    pyreadstat.write_sav(pandas.DataFrame({name: [1.0] for name in names}), path, variable_value_labels=labels)
    content = path.read_bytes()
    header = bytearray(content[: -8 * variables])
    header[80:84] = struct.pack("<i", rows)
    random = numpy.random.default_rng(1948)
    with path.open("wb") as file:
        file.write(header)
        for start in range(0, rows, BLOCK):
            file.write(random.integers(1, 6, (min(BLOCK, rows - start), variables)).astype("<f8").tobytes())


def check(path: str, reference: str) -> dict[str, float]:
    """Check a file, and return its time, and the largest memory of its processes."""
    import resource

    from datatile_provider.survey.check import check_wave

    found = fresh.measure(lambda: check_wave(Path(path), [Path(reference)]))
    reader = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": found["seconds"], "memory": max(found["memory"], reader)}


def read(path: str) -> dict[str, float]:
    """Read a file whole."""
    return fresh.measure(lambda: pyreadstat.read_sav(path, output_format="dict"))


def main() -> None:
    options = report.options(__doc__, runs=1)
    result = Report("wave_check", "Check of a large wave", options, ["pyreadstat", "numpy"])
    sizes = [(2_000, 20), (4_000, 10)] if options.quick else [(5_000_000, 50), (1_000_000, 500)]
    with TemporaryDirectory() as folder:
        reference = Path(folder, "reference.sav")
        for rows, variables in sizes:
            path = Path(folder, "wave.sav")
            write(path, rows, variables)
            write(reference, 1_000, variables)
            case = f"{rows:,} x {variables}"
            for _ in range(options.runs):
                for variant, function, arguments in (
                    (CHECK, check, [str(path), str(reference)]),
                    (READ, read, [str(path)]),
                ):
                    found = fresh.call(f"{__spec__.name}:{function.__name__}", *arguments, timeout=1800)
                    result.add(case, variant, seconds=(found["seconds"], "s"), memory=(found["memory"], "MiB"))
            result.ratio(case, "seconds", CHECK, READ, lower=True, at_least=0.5)
            result.ratio(case, "memory", CHECK, READ, lower=True, at_least=None)
    result.note(
        "All variables are categorical, so all data is read. Both read the file from the page cache or the disk."
    )
    result.finish()


if __name__ == "__main__":
    main()
