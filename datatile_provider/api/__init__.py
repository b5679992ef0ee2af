"""DATATILE's Data Collector API, without Airflow: a pure contract and two thin clients over it."""
