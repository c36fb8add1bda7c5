"""fold: what is new in the logs and the demand is read, and the figures are worked out.

Each step looks for itself and may be repeated at any time: what was read once is not read again.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from puavo_repository.errors import RepositoryError, SettingsError
from puavo_repository.fleet import usage
from puavo_repository.fleet.demand import COUNTS, Demand, from_file
from puavo_repository.fleet.history import Fleet, History
from puavo_repository.fleet.logs import Connect, Folded, fold
from puavo_repository.fleet.policies import Outcome, Replay
from puavo_repository.fleet.store import Store, days_before
from puavo_repository.fleet.usage import Usage
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.prepare import demand
from puavo_repository.settings import Settings


def fold_logs(settings: Settings, connect: Connect) -> Folded:
    """Read what is new of every log; one that cannot be read does not hold back another.

    Raises:
        RepositoryError: Why the first of those could not be read, after all others were.
    """
    done, failed = Folded(), list[RepositoryError]()
    for log in settings.usage_logs:
        try:
            fold(settings, log, connect, done)
        except RepositoryError as error:
            failed.append(error)
    if failed:
        first, *others = failed
        first.remedy = ". ".join(filter(None, [first.remedy, *map(str, others)]))
        raise first
    return done


def keep_demand(settings: Settings, found: Demand) -> list[str]:
    """Keep how many clients have and want which images; return what there is to say of it."""
    with Store(settings.mirror_dir) as store:
        store.describe(Mirror(settings.mirror_dir).documents().values())
        store.set_demand(found)
        unknown = sorted({name for both in found for name in both} - store.files.keys())
    if not unknown:
        return []
    names = ", ".join(unknown[:3]) + ("…" if len(unknown) > 3 else "")
    return [f"demand names {len(unknown)} images that were never on offer here: {names}"]


def demand_of_file(settings: Settings) -> Demand | None:
    """Return the demand in the file that the settings name; None where they name none."""
    named = settings.usage_demand
    return from_file(Path(named)) if named.startswith("/") else None


def figures(settings: Settings, notes: Sequence[str] = ()) -> Usage:
    """Work the figures of the last year out, and what to expect; keep both beside the mirror."""
    fleet, age = _fleet(settings)
    found = Usage.of(fleet, [*notes, *age])
    usage.records(settings.mirror_dir).put(found)
    told = sorted(fleet.history.demand.items())
    wanted = tuple((*both, float(clients)) for both, clients in told)
    expected = replace(Replay(fleet).expected(found.day), wanted=wanted)
    demand.records(settings.mirror_dir).put(expected)
    return found


def policies(settings: Settings, days: int) -> list[Outcome]:
    """Say what each policy would have cost and saved in the last days."""
    fleet, _ = _fleet(settings)
    return list(Replay(fleet).outcomes(days, settings))


def _fleet(settings: Settings) -> tuple[Fleet, list[str]]:
    """Return the fleet, and what there is to say of how old the demand is.

    Demand counts as long as the settings ask for it, and was told not long ago.
    """
    with Store(settings.mirror_dir) as store:
        store.describe(Mirror(settings.mirror_dir).documents().values())
        history = History.of(store, usage.YEAR)
    notes, told = list[str](), history.told
    if not settings.usage_demand:
        history = replace(history, demand={})
    elif told and told < days_before(history.today, COUNTS):
        history = replace(history, demand={})
        notes = [f"demand of {told} does not count any more: it is older than {COUNTS} days"]
    elif told and told < history.today:
        notes = [f"demand is that of {told}: nothing newer was told"]
    return Fleet(history), notes


def check_set_up(settings: Settings) -> None:
    """Refuse where there is nothing to read."""
    if not settings.usage_logs and not settings.usage_demand:
        remedy = "Set it to the log of your web server, such as /var/log/nginx/access.log*"
        problem = "no log is named, so nothing is known of what clients fetch"
        raise SettingsError("PUAVO_REPOSITORY_USAGE_LOGS", problem, remedy=remedy)
    if not Mirror(settings.mirror_dir).meta.is_dir():
        problem = "there is no mirror yet, so no file of ours can be told from others"
        raise SettingsError(settings.mirror_dir, problem, remedy="Prepare it first")
