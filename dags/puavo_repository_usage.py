"""Usage: what do clients fetch, by the logs of the servers?

Runs daily where `PUAVO_REPOSITORY_USAGE_LOGS` or `PUAVO_REPOSITORY_USAGE_DEMAND` is set, and by
hand with a form; an empty field of it is as this installation is set up. What is new in each log is
read once, here or over SFTP; Puavo is asked which images its devices have, where that is set up.
Counts alone are kept, no address. The figures are on the page: bytes a day, what rdiffs save, how
far the fleet is, rdiffs that nobody fetches and those that are missing.
"""

import sys
from datetime import timedelta

from airflow import sdk
from airflow.sdk import dag, task

from puavo_repository.errors import PermanentError, SettingsError
from puavo_repository.fleet import fold
from puavo_repository.fleet.demand import Demand, from_puavo
from puavo_repository.remote.target import Target
from puavo_repository.settings import usable
from puavo_repository_airflow import summary, tasks
from puavo_repository_airflow.tasks import chosen

PARAMS = tasks.fields("usage_logs", "usage_demand", "image_dir", "mirror_dir")


def connect(where: str) -> Target:
    """Return the target that the beginning of an URL or a connection's id names."""
    if "://" in where:
        return chosen(images=False).target(where)
    return tasks.target_of(where, path="/var/log")  # which the log itself tells


def asked_of_puavo(name: str) -> Demand:
    """Ask Puavo, by the id of a connection."""
    found = sdk.Connection.get(name)
    if not found.host:
        expected = "the host of puavo-rest, such as https://api.puavo.org, login and password"
        raise SettingsError(f"connection {name}", "has no host", expected=expected)
    url = found.host if "://" in found.host else f"https://{found.host}"
    port = f":{found.port}" if found.port else ""
    secret = found.login or "", found.password or ""
    return from_puavo(f"{url.rstrip('/')}{port}", *secret, chosen(images=False).ca_file)


INSTALLED = usable()
IS_SET_UP = INSTALLED.usage_logs or INSTALLED.usage_demand  # else there is nothing to read


@dag(
    schedule=tasks.schedule(INSTALLED.usage_schedule if IS_SET_UP else ""),
    **tasks.common(__doc__, PARAMS, 3, timedelta(minutes=5), timedelta(hours=12)),
)
def puavo_repository_usage() -> None:
    """Read what is new, and work the figures out."""

    @task(queue=tasks.TRANSFER)
    def logs() -> list[str]:
        here = chosen(images=False)
        fold.check_set_up(here)
        return summary.short(fold.fold_logs(here, connect).lines())

    @task
    def demand() -> list[str]:
        here = chosen(images=False)
        found = fold.demand_of_file(here)
        if found is None and here.usage_demand:
            found = asked_of_puavo(here.usage_demand)
        return [] if found is None else summary.short(fold.keep_demand(here, found))

    @task(trigger_rule="all_done")
    def report(read: list[str] | None, said: list[str] | None) -> None:
        notes = [*(read or ())[1:], *(said or ())]
        found = fold.figures(chosen(images=False), notes)
        sys.stdout.write("\n".join(found.lines()) + "\n")
        summary.used(found, [*(read or ()), *(said or ())])
        if read is None or said is None:
            problem = "not everything could be read: the log of the failed task says why"
            raise PermanentError("usage", problem)

    read, said = logs(), demand()
    report(read, said)


puavo_repository_usage()
