"""The DAGs with this provider's sensor, in a file of their own, as each task of Airflow imports its DAG's file."""

# Airflow reads only files with the word "airflow".
from waiting import MODES, add_dags

from datatile_provider.sensors.datatile import DatatileJobSensor

add_dags("ours", MODES, lambda job, **kwargs: DatatileJobSensor(job_id=job, **kwargs))
