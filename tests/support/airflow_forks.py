"""Airflow, imported once, for ``forks``."""

from __future__ import annotations

import gc
import os
import tempfile
from importlib import import_module
from pathlib import Path

from airflow import settings
from airflow.configuration import write_default_airflow_configuration_if_needed
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.sdk.execution_time.supervisor import in_process_api_server
from airflow.utils.db import initdb

for used in (
    "airflow.dag_processing.collection",
    "airflow.models.dagbag",
    "paramiko",
    "puavo_repository.compiled",
    "puavo_repository.delta.librsync",
):
    import_module(used)

# Each task resolves each field of a form, and would check the field's schema each time. Of a
# run of seconds that is a fifth; the running Airflow of the UI's test checks them all.
validator = import_module("jsonschema").Draft202012Validator
validator.check_schema = classmethod(lambda *_: None)

SMALL_DAG = """
from airflow.sdk import dag, task, task_group

@task(map_index_template="{{ name }}")
def one(name):
    return name

@task_group
def both(name):
    one(name) >> one.override(task_id="two")(name)

@task(trigger_rule="all_done")
def last(names, params):
    return names

@dag(params={"few": 1})
def small():
    names = one.override(task_id="names")(["a", "b"])
    last(one.expand(name=names)) << both.expand(name=names)

small()
"""


def warm_up() -> None:
    """Make a database, and run a small DAG: what its first use makes is there for all forks.

    That is the API that a DAG's tasks ask, and what SQLAlchemy makes of models and statements;
    half of what a run of few tasks takes. Only the connections and the thread of that API are
    not for a fork, and the database shall know nothing of it.
    """
    write_default_airflow_configuration_if_needed()
    initdb()
    database = Path(os.environ["AIRFLOW_HOME"], "airflow.db")
    before = database.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder, "small.py")
        small.write_text(SMALL_DAG)
        bag = DagBag(folder)
        DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]
        sync_bag_to_db(bag, "dags-folder", None)
        bag.dags["small"].test()
    del in_process_api_server().transport
    gc.collect()
    assert settings.engine is not None
    settings.engine.dispose()
    database.write_bytes(before)


def in_child() -> None:
    """Use another database, where one is named."""
    if "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" in os.environ:
        settings.configure_vars()  # type: ignore[no-untyped-call]
        settings.configure_orm()  # type: ignore[no-untyped-call]
