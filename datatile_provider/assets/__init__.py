"""DATATILE's databases as Airflow's assets."""
