"""Puavo image repository: prepares, proves and publishes mirrors of Puavo OS images.

The rooms follow the data's way: ``stages`` do the night's work in order, on ``formats``
(what lies on disk), ``delta`` (how an rdiff is made and proven) and ``storage`` (how files
are written, locally and remotely). Nothing here imports Airflow.
"""
