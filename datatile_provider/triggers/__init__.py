"""Waiting for DATATILE in the triggerer."""
