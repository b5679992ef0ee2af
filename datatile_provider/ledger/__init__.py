"""The ledger: which content has gone to which target, by whichever task, run, DAG or Airflow deployment."""
