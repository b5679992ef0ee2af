"""The DAGs with the sensor of dbt Cloud."""

from airflow.providers.dbt.cloud.sensors.dbt import DbtCloudJobRunSensor
from waiting import add_dags

MODES = ("poke", "reschedule", "deferrable")

add_dags("dbt", MODES, lambda job, **kwargs: DbtCloudJobRunSensor(run_id=job, account_id=1, **kwargs))
