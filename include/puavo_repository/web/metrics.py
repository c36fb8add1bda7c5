"""What the page tells, as metrics in Prometheus' text format. Pure.

Names and units as its documentation asks for: https://prometheus.io/docs/practices/naming/.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from puavo_repository.audit.report import Severity
from puavo_repository.web.causes import last_ended
from puavo_repository.web.model import Alerts, Remote, Repository, Run, Space, State

TYPE = CONTENT_TYPE_LATEST  # the media type
Value = float | datetime | None
"""Nothing is told of one that is None."""


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def render(found: Repository) -> bytes:
    """Return the metrics."""
    families = _repository(found), _mirrors(found), _runs(found), _alerts(found.summary.alerts)
    return generate_latest(_Families(chain.from_iterable(families)))


def _family(
    name: str, text: str, values: Iterable[tuple[Sequence[str], Value]], *labels: str
) -> Metric:
    family = GaugeMetricFamily(f"puavo_repository_{name}", text, labels=labels)
    for key, value in values:
        if value is not None:
            family.add_metric(key, value.timestamp() if isinstance(value, datetime) else value)
    return family


def _repository(found: Repository) -> Iterator[Metric]:
    one = found.summary
    stages = Counter(problem.stage for problem in one.problems)
    single: dict[str, tuple[str, Value]] = {
        "ok": ("Whether nothing is wrong", one.ok),
        "series": ("Series on offer", one.series),
        "images": ("Images on offer", one.images),
        "rdiffs": ("Rdiffs on offer", one.rdiffs),
        "image_bytes": ("Size of the images", one.image_bytes),
        "rdiff_bytes": ("Size of the rdiffs", one.rdiff_bytes),
        "update_bytes": ("What one client a series fetches to be up to date", one.update_bytes),
        "update_whole_bytes": ("The same without rdiffs", one.update_whole),
        "free_bytes": ("What the disk of the local mirror has left", _free(one.space)),
        "days_left": ("How long that lasts at the present rate", _days(one.space)),
        "last_success_timestamp_seconds": ("End of the last good prepare", one.last_success),
        "next_run_timestamp_seconds": ("When prepare is to run next", one.next_run),
        "audit_timestamp_seconds": ("Begin of the last audit", one.audit.at if one.audit else None),
    }
    for name, (text, value) in single.items():
        yield _family(name, text, [((), value)])
    by_stage = [((stage,), number) for stage, number in stages.items()]
    yield _family("problems", "What is wrong, by the step that failed", by_stage, "stage")
    if one.audit is not None:
        found_of = Counter(finding.severity for finding in one.audit.findings)
        by = [((one.value,), found_of[one]) for one in Severity]
        yield _family("audit_findings", "Findings of the last audit", by, "severity")


def _alerts(told: Alerts | None) -> Iterator[Metric]:
    """Yield who is told of failures, and whether that works."""
    if told is None:
        return
    undelivered, last = bool(told.problem), told.last
    yield _family("alert_ways", "In how many ways somebody is told", [((), len(told.ways))])
    yield _family("alert_undelivered", "Whether the last could not be sent", [((), undelivered)])
    yield _family("alert_timestamp_seconds", "When the last one went out", [((), last)])


def _free(space: Space | None) -> Value:
    return space.free if space else None


def _days(space: Space | None) -> Value:
    return space.days if space else None


def _mirrors(found: Repository) -> Iterator[Metric]:
    mirrors = [one for one in found.summary.remotes if one.configured]
    states = [((one.name, s.value), one.state is s) for one in mirrors for s in State]
    yield _family("mirror_state", "1 for how a mirror stands", states, "mirror", "state")
    told: dict[str, tuple[str, Callable[[Remote], Value]]] = {
        "pending_files": ("Files that are not there yet", lambda one: len(one.pending)),
        "pending_bytes": ("Their size", lambda one: one.pending_bytes),
        "generation": ("Counts the changes of what clients see", lambda one: one.generation),
        "published_timestamp_seconds": ("When metadata last changed", lambda one: one.published),
        "verified_timestamp_seconds": ("When it was found complete", lambda one: one.verified),
        "checked_timestamp_seconds": ("When a run last looked at it", lambda one: one.checked),
        "audit_timestamp_seconds": ("When an audit last looked at it", lambda one: one.audited),
        "free_bytes": ("What its disk has left", lambda one: _free(one.space)),
        "days_left": ("How long that lasts at the present rate", lambda one: _days(one.space)),
    }
    for name, (text, of) in told.items():
        yield _family(f"mirror_{name}", text, [((one.name,), of(one)) for one in mirrors], "mirror")


def _runs(found: Repository) -> Iterator[Metric]:
    """Yield how the last run of each DAG ended."""
    last = last_ended(found.runs).values()
    told: dict[str, tuple[str, Callable[[Run], Value]]] = {
        "failed": ("Whether the last run of a DAG failed", lambda run: run.state == "failed"),
        "seconds": ("How long it took", lambda run: run.seconds),
        "ended_timestamp_seconds": ("When it ended", lambda run: run.ended),
    }
    for name, (text, of) in told.items():
        yield _family(f"run_{name}", text, [((run.dag_id,), of(run)) for run in last], "dag")
