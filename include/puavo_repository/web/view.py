"""From the facts on disk and the DAGs' runs to what is shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from puavo_repository.audit.report import AuditReport
from puavo_repository.formats.names import ImageName, rdiff_name
from puavo_repository.web import status
from puavo_repository.web.disk import Disk
from puavo_repository.web.model import (
    PREPARE,
    Audit,
    Dag,
    Digests,
    Image,
    Rdiff,
    RdiffState,
    Remote,
    Repository,
    Run,
    Series,
    Summary,
)
from puavo_repository.web.problems import find_problems
from puavo_repository.web.words import built, moment


def repository(
    disk: Disk,
    runs: Sequence[Run] = (),
    dags: Sequence[Dag] = (),
    remotes: Sequence[str] = (),
    now: datetime | None = None,
) -> Repository:
    """Bring everything together.

    Args:
        disk: What lies in the mirror.
        runs: The last runs of the DAGs, newest first.
        dags: What Airflow knows of the DAGs.
        remotes: URLs or ids of connections that are published to by default.
        now: The time, if it is not now.
    """
    now = now or datetime.now(UTC)
    failed = {failure.name for failure in disk.failures}
    series = [_series(name, images, disk, failed) for name, images in sorted(disk.series.items())]
    mirrors = status.mirrors(disk, remotes, runs, dags, now)
    problems = find_problems(disk, series, mirrors, runs, dags, now)
    images = [image for one in series for image in one.images]
    rdiffs = [r for image in images for r in image.rdiffs if r.state is RdiffState.OFFERED]
    fetched, whole = _updates(series)
    prepare = next((dag for dag in dags if dag.dag_id == PREPARE), None)
    return Repository(
        summary=Summary(
            ok=not problems,
            status=status.headline(problems, mirrors),
            problems=problems,
            mirror=str(disk.root),
            series=len(series),
            images=len(images),
            rdiffs=len(rdiffs),
            image_bytes=sum({image.filename: image.size for image in images}.values()),
            rdiff_bytes=sum({rdiff.filename: rdiff.size for rdiff in rdiffs}.values()),
            update_bytes=fetched,
            update_whole=whole,
            saving=1 - fetched / whole if whole else 0.0,
            changed=_changed(mirrors) if mirrors else moment(disk.changed),
            last_success=prepare.succeeded if prepare else None,
            next_run=prepare.due if prepare and not prepare.paused else None,
            remotes=mirrors,
            audit=_audit(disk.audit) if disk.audit else None,
        ),
        series=series,
        runs=list(runs),
    )


def _series(name: str, entries: list[dict[str, Any]], disk: Disk, failed: set[str]) -> Series:
    images = [_image(entry, entries, disk, failed) for entry in entries]
    if not images:
        return Series(name=name, images=[], update=None, saving=0.0)
    newest = images[-1]
    before = images[-2].version if len(images) > 1 else None
    update = next(
        (r.size for r in newest.rdiffs if r.source == before and r.state is RdiffState.OFFERED),
        None,
    )
    saving = 1 - update / newest.size if update is not None and newest.size else 0.0
    return Series(name=name, images=images, update=update, saving=saving)


def _image(
    entry: dict[str, Any], entries: list[dict[str, Any]], disk: Disk, failed: set[str]
) -> Image:
    filename, size = entry["filename"], entry["size"]
    version = str(entry.get("version", ""))
    rdiffs = [_rdiff(diff, version, size, disk) for diff in entry.get("diffs", [])]
    if failed or disk.too_large:
        known = {rdiff.filename for rdiff in rdiffs}
        found = (_absent(other["filename"], filename, size, disk, failed) for other in entries)
        rdiffs += [rdiff for rdiff in found if rdiff and rdiff.filename not in known]
    return Image(
        filename=filename,
        version=version,
        built=built(version),
        size=size,
        present=disk.sizes.get(filename) == size,
        digests=_digests(entry),
        rdiffs=rdiffs,
    )


def _rdiff(diff: dict[str, Any], target: str, target_size: int, disk: Disk) -> Rdiff:
    present = disk.sizes.get(f"rdiffs/{diff['filename']}") == diff["size"]
    return Rdiff(
        filename=diff["filename"],
        state=RdiffState.OFFERED if present else RdiffState.MISSING,
        source=str(diff.get("version", "")),
        target=target,
        size=diff["size"],
        share=diff["size"] / target_size if target_size else 0.0,
        digests=_digests(diff),
    )


def _absent(
    source: str, target: str, target_size: int, disk: Disk, failed: set[str]
) -> Rdiff | None:
    """Return an rdiff that is on record but not on offer: too large, or failed."""
    basis, goal = ImageName.parse(source), ImageName.parse(target)
    if basis is None or goal is None or source == target:
        return None
    name = rdiff_name(source, target)
    if name in failed:
        state, size = RdiffState.FAILED, 0
    elif name in disk.too_large:
        state, size = RdiffState.TOO_LARGE, disk.too_large[name]
    else:
        return None
    return Rdiff(
        filename=name,
        state=state,
        source=basis.number,
        target=goal.number,
        size=size,
        share=size / target_size if target_size else 0.0,
        digests=None,
    )


def _digests(entry: dict[str, Any]) -> Digests:
    return Digests(**{kind: str(entry.get(kind, "")) for kind in Digests.model_fields})


def _updates(series: Iterable[Series]) -> tuple[int, int]:
    """Return what one client of each series fetches to get to its newest image, in bytes.

    Returns:
        With the rdiff from the image before, and without.
    """
    updates = [one for one in series if len(one.images) > 1]
    whole = sum(one.images[-1].size for one in updates)
    fetched = sum(one.update if one.update is not None else one.images[-1].size for one in updates)
    return fetched, whole


def _changed(mirrors: Iterable[Remote]) -> datetime | None:
    """Return when clients of any mirror that counts last got to see something new."""
    return max((one.published for one in mirrors if one.configured and one.published), default=None)


def _audit(found: AuditReport) -> Audit:
    values = {"at": moment(found.begun), "looked_at": found.looked_at()}
    others = Audit.model_fields.keys() - values.keys()
    return Audit.model_validate({**values, **{name: getattr(found, name) for name in others}})
