"""Puavo image repository: prepares, proves and publishes mirrors of Puavo OS images.

CONTRIBUTING.md has the picture of its rooms. Nothing here imports Airflow.
"""
