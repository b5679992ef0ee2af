"""DATATILE's Data Collector API, without Airflow: pure data and functions, and two thin clients over them."""
