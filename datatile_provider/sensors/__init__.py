"""Waiting for DATATILE from a task."""
