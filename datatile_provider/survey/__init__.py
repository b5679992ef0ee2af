"""What a survey file says of its variables, and the check of a wave against earlier ones. Knows nothing of Airflow."""
