"""From the facts on disk and the DAGs' runs to what is shown. Pure."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from puavo_repository.formats.names import ImageName, rdiff_name
from puavo_repository.mirror.records import AlertRecord
from puavo_repository.mirror.under_way import UPLOAD
from puavo_repository.web import causes, model, status
from puavo_repository.web.disk import Disk, Place
from puavo_repository.web.model import Alerts, Dag, Progress, Repository, Run, Space
from puavo_repository.web.offered import Digests, Image, Rdiff, RdiffState, Series
from puavo_repository.web.words import built, moment

_SHOWN = 10  # files that are prepared right now


class Offered:
    """What was on offer at the last look: of 30,000 rdiffs it takes longer than all else."""

    def __init__(self) -> None:
        self._last: tuple[Disk | None, list[Series]] = None, []

    def series(self, disk: Disk) -> list[Series]:
        """Return what is on offer, by name; made anew where something of it has changed."""
        last, series = self._last  # other threads replace both
        parts = "series", "sizes", "failures", "too_large"
        if last is None or any(getattr(disk, part) != getattr(last, part) for part in parts):
            every = sorted(disk.series.items())
            series = [_series(name, one["images"], disk) for name, one in every]
        self._last = disk, series  # its records stay in use, and are not read again
        return series


def repository(
    disk: Disk,
    runs: Sequence[Run] = (),
    dags: Sequence[Dag] = (),
    place: Place | None = None,
    now: datetime | None = None,
    offered: Offered | None = None,
) -> Repository:
    """Bring everything together; the last runs come newest first.

    ``offered`` is what was on offer at the last look.
    """
    now, place = now or datetime.now(UTC), place or Place(disk.root)
    series = (offered or Offered()).series(disk)
    mirrors = status.mirrors(disk, place, runs, dags, now)
    alerts = _alerts(place, disk.alert)
    found = status.find_problems(disk, series, mirrors, runs, dags, now, alerts)
    problems = list(causes.linked(found, runs))
    # One may be in several series.
    images = {image.filename: image for one in series for image in one.images}
    every = (rdiff for one in series for image in one.images for rdiff in image.rdiffs)
    rdiffs = {rdiff.filename: rdiff for rdiff in every if rdiff.state is RdiffState.OFFERED}
    # What one client of each series fetches to get to its newest image, without and with rdiffs.
    updated = [(one.images[-1].size, one.update) for one in series if len(one.images) > 1]
    whole = sum(size for size, _ in updated)
    fetched = sum(size if update is None else update for size, update in updated)
    published = [one.published for one in mirrors if one.configured and one.published]
    prepared = [one for one in disk.under_way if one.stage != UPLOAD]
    prepare = next((dag for dag in dags if dag.dag_id == model.PREPARE), Dag(model.PREPARE))
    summary = model.Summary(
        ok=not problems,
        status=status.headline(problems, mirrors),
        problems=problems,
        mirror=str(disk.root),
        series=len(series),
        images=len(images),
        rdiffs=len(rdiffs),
        image_bytes=sum(image.size for image in images.values()),
        rdiff_bytes=sum(rdiff.size for rdiff in rdiffs.values()),
        update_bytes=fetched,
        update_whole=whole,
        saving=1 - fetched / whole if whole else 0.0,
        changed=max(published, default=None) if mirrors else moment(disk.changed),
        last_success=prepare.succeeded,
        next_run=None if prepare.paused else prepare.due,
        remotes=mirrors,
        audit=model.Audit.model_validate(disk.audit) if disk.audit else None,
        address=place.address,
        schedule=prepare.schedule,
        alerts=alerts,
        ignored=[model.Ignored(name=name, why=why) for name, why in disk.ignored],
        paused=[dag.dag_id for dag in dags if dag.paused],
        space=Space.left(disk.space, disk.free),
        progress=[Progress.model_validate(one) for one in prepared[:_SHOWN]],
        # One that waits comes after the one that goes on.
        active={run.dag_id: run.run_id for run in runs if run.active},
    )
    return Repository(summary=summary, series=series, runs=list(runs), usage=disk.usage)


def _alerts(place: Place, last: AlertRecord | None) -> Alerts | None:
    """Return who is told when something fails, and what became of the last message."""
    if place.ways is None:
        return None
    return Alerts(
        ways=list(place.ways),
        last=moment(last.sent) if last else None,
        subject=last.subject if last else "",
        problem=last.problem if last else "",
    )


def _series(name: str, entries: list[dict[str, Any]], disk: Disk) -> Series:
    images = [
        Image(
            filename=entry["filename"],
            version=str(entry.get("version", "")),
            built=built(str(entry.get("version", ""))),
            size=entry["size"],
            present=disk.sizes.get(entry["filename"]) == entry["size"],
            digests=_digests(entry),
            rdiffs=list(_rdiffs(entry, entries, disk)),
        )
        for entry in entries
    ]
    newest = images[-1] if images else None
    step = newest.offered_from(images[-2].version) if newest and len(images) > 1 else None
    update = step.size if step else None
    saving = 1 - update / newest.size if newest and newest.size and update is not None else 0.0
    return Series(name=name, images=images, update=update, saving=saving)


def _rdiffs(image: dict[str, Any], others: list[dict[str, Any]], disk: Disk) -> Iterator[Rdiff]:
    """Yield the rdiffs that lead to an image: those that its metadata names, then others.

    The others are on record, but not on offer: too large, or failed.
    """

    def rdiff(name: str, state: RdiffState, source: Any, size: int, digests: Any = None) -> Rdiff:
        return Rdiff(
            filename=name,
            state=state,
            source=str(source),
            target=str(image.get("version", "")),
            size=size,
            share=size / image["size"] if image["size"] else 0.0,
            digests=digests,
        )

    offered = {diff["filename"]: diff for diff in image.get("diffs", [])}
    for name, diff in offered.items():
        present = disk.sizes.get(f"rdiffs/{name}") == diff["size"]
        state = RdiffState.OFFERED if present else RdiffState.MISSING
        yield rdiff(name, state, diff.get("version", ""), diff["size"], _digests(diff))
    target = ImageName.parse(image["filename"])
    if target is None or not (disk.failures or disk.too_large):
        return
    for other in others:
        source = ImageName.parse(other["filename"])
        if source is None or source == target:
            continue
        name = rdiff_name(str(source), str(target))
        if name in disk.failures and name not in offered:
            yield rdiff(name, RdiffState.FAILED, source.number, 0)
        elif name in disk.too_large:
            yield rdiff(
                name, RdiffState.TOO_LARGE, source.number, disk.too_large[name].digests.size
            )


def _digests(entry: dict[str, Any]) -> Digests:
    return Digests(**{kind: str(entry.get(kind, "")) for kind in Digests.model_fields})
