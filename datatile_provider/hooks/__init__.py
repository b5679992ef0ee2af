"""The Airflow connection to DATATILE."""
