"""Benchmarks against peers: ``python -m tests.benchmarks.upload`` and so on, or ``make bench`` for all."""
