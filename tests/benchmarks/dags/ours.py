"""The DAGs of our sensor, in a file of their own: Airflow imports for each task what stands in its DAG's file."""

from waiting import WAYS, add_dags

from datatile_provider.sensors.datatile import DatatileJobSensor

add_dags("ours", WAYS, lambda job, **given: DatatileJobSensor(job_id=job, **given))
