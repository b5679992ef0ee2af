"""The DAGs of dbt Cloud's sensor."""

from airflow.providers.dbt.cloud.sensors.dbt import DbtCloudJobRunSensor
from waiting import add_dags

WAYS = ("poke", "reschedule", "deferrable")

add_dags("dbt", WAYS, lambda job, **given: DbtCloudJobRunSensor(run_id=job, account_id=1, **given))
