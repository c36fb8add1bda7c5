"""Airflow, imported once: a process that forks another for each piece of code that it is given.

It reads an order a line, as JSON, and answers each with a line when the code has ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from importlib import import_module
from typing import Any, NoReturn

import httpx
from airflow.sdk.execution_time.supervisor import in_process_api_server

for used in (
    "airflow.dag_processing.dagbag",
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


def main(answers: int) -> None:
    """Do what is asked for until nobody asks any more."""
    asyncio.run(_warm_up())
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        os.waitpid(child, 0)
        os.write(answers, b"\n")


async def _warm_up() -> None:
    """Have the API made that a DAG's tasks ask, which it is at its first request."""
    transport = httpx.ASGITransport(in_process_api_server().app)
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
        await client.get("/")


def _run(order: dict[str, Any]) -> NoReturn:
    for number, path in enumerate(order["streams"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]
    try:
        exec(order["code"], {"__name__": "__main__"})
    except BaseException:  # noqa: BLE001 - told, whatever it is
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
