"""The commands for people: ``python -m datatile_provider``, and ``airflow datatile`` on Airflow 3.2 and later."""
