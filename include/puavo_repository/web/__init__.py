"""The repository's page and JSON API: read from the mirror's files, shown in Airflow's UI.

``disk`` reads what lies there, ``view`` makes of it what is shown (``model``), ``page`` renders
that as HTML with the figures of ``figures``, and ``app`` serves both. None of them imports
Airflow: runs and permissions come in through ``app.Backend``, made by the plugin.
"""
