"""What the DAGs share, beside the package: that one does not know Airflow."""
