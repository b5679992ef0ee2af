"""Measurements against peers, one command each: ``python -m tests.benchmarks.upload`` and so on, or ``make bench``."""
