"""Uploading to DATATILE from a task."""
