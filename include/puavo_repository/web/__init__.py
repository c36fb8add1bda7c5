"""The repository's page and JSON API: read from the mirror's files, shown in Airflow's UI.

``disk`` reads what lies there, ``status`` judges it, ``view`` makes of both what is shown
(``model``), ``page`` renders that as HTML, and ``app`` serves it; ``explainer`` tells why one rdiff
is large. None of them imports Airflow: the plugin hands runs and permissions to ``app.create_app``.
"""
