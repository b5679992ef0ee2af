"""The command group. No module that a DAG file imports is in it."""
