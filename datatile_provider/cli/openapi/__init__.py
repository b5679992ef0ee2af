"""
Reads the OpenAPI document of a server: a document in, a connection's extra with its evidence out.

Pure: no I/O, no Airflow. ``read.py`` is where to start.
"""
