"""``usage`` of the command: what clients fetch, by the logs of the servers."""

import argparse
from dataclasses import asdict

from puavo_repository import settings
from puavo_repository.cli.terminal import print_json, print_lines, shown
from puavo_repository.errors import SettingsError
from puavo_repository.fleet import fold
from puavo_repository.fleet.policies import lines
from puavo_repository.remote.target import Target

_MOST_DAYS = 36_500


def usage(asked: argparse.Namespace) -> int:
    """Read what is new in the logs, and show the figures."""
    if not 0 < asked.days <= _MOST_DAYS:
        raise SettingsError("--days", "not a number of days", expected=f"1 to {_MOST_DAYS}")
    chosen = settings.load(vars(asked), images=False, command=True)
    fold.check_set_up(chosen)

    def connect(where: str) -> Target:
        if "://" in where:
            return chosen.target(where)
        problem = f"{where} is an Airflow connection, which only the DAGs can use"
        remedy = "Name the log with --log sftp://user@host/path, or run the DAG"
        raise SettingsError("PUAVO_REPOSITORY_USAGE_LOGS", problem, remedy=remedy)

    with shown():
        done = fold.fold_logs(chosen, connect)
        notes = list(done.notes)
        demand = fold.demand_of_file(chosen)
        if demand is not None:
            notes += fold.keep_demand(chosen, demand)
        elif chosen.usage_demand:
            notes.append(f"demand of connection {chosen.usage_demand}: as the DAG last asked it")
        found = fold.figures(chosen, notes)
        outcomes = fold.policies(chosen, asked.days) if asked.policies else []
    if asked.json:
        print_json({**found.to_dict(), "policies": [asdict(one) for one in outcomes]})
    else:
        print_lines(found.lines())
        print_lines(lines(outcomes, asked.days) if asked.policies else [])
    return 0
