"""The DAGs with this provider's sensor, in a separate file: each task imports its DAG's file."""

from waiting import MODES, add_dags

from datatile_provider.sensors.datatile import DatatileJobSensor

add_dags("ours", MODES, lambda job, **kwargs: DatatileJobSensor(job_id=job, **kwargs))
