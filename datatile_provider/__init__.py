"""Airflow provider for DATATILE's Data Collector API."""

from __future__ import annotations

__version__ = "0.1.0"
