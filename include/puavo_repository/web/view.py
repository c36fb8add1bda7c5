"""From the facts on disk and the DAGs' runs to what is shown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    Repository,
    Run,
    Series,
    Summary,
)
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
        runs: The last ones of the DAGs, newest first.
        dags: What Airflow knows of them.
        remotes: URLs or ids of connections that are published to by default.
        now: By default the present time.
    """
    now = now or datetime.now(UTC)
    series = [_series(name, images, disk) for name, images in sorted(disk.series.items())]
    mirrors = status.mirrors(disk, remotes, runs, dags, now)
    problems = status.find_problems(disk, series, mirrors, runs, dags, now)
    images = [image for one in series for image in one.images]
    rdiffs = [r for image in images for r in image.rdiffs if r.state is RdiffState.OFFERED]
    # What one client of each series fetches to get to its newest image, without and with rdiffs.
    updated = [(one.images[-1].size, one.update) for one in series if len(one.images) > 1]
    whole = sum(size for size, _ in updated)
    fetched = sum(size if update is None else update for size, update in updated)
    published = [one.published for one in mirrors if one.configured and one.published]
    prepare = next((dag for dag in dags if dag.dag_id == PREPARE), None)
    summary = Summary(
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
        changed=max(published, default=None) if mirrors else moment(disk.changed),
        last_success=prepare.succeeded if prepare else None,
        next_run=prepare.due if prepare and not prepare.paused else None,
        remotes=mirrors,
        audit=_audit(disk.audit) if disk.audit else None,
    )
    return Repository(summary=summary, series=series, runs=list(runs))


def _series(name: str, entries: list[dict[str, Any]], disk: Disk) -> Series:
    images = [
        Image(
            filename=entry["filename"],
            version=str(entry.get("version", "")),
            built=built(str(entry.get("version", ""))),
            size=entry["size"],
            present=disk.sizes.get(entry["filename"]) == entry["size"],
            digests=_digests(entry),
            rdiffs=[*_offered(entry, disk), *_absent(entry, entries, disk)],
        )
        for entry in entries
    ]
    update, saving = None, 0.0
    if len(images) > 1:
        newest, before = images[-1], images[-2].version
        offered = (
            r.size for r in newest.rdiffs if r.state is RdiffState.OFFERED and r.source == before
        )
        update = next(offered, None)
        saving = 1 - update / newest.size if update is not None and newest.size else 0.0
    return Series(name=name, images=images, update=update, saving=saving)


def _offered(image: dict[str, Any], disk: Disk) -> Iterator[Rdiff]:
    """Yield the rdiffs that lead to an image, as its metadata names them."""
    for diff in image.get("diffs", []):
        present = disk.sizes.get(f"rdiffs/{diff['filename']}") == diff["size"]
        yield Rdiff(
            filename=diff["filename"],
            state=RdiffState.OFFERED if present else RdiffState.MISSING,
            source=str(diff.get("version", "")),
            target=str(image.get("version", "")),
            size=diff["size"],
            share=diff["size"] / image["size"] if image["size"] else 0.0,
            digests=_digests(diff),
        )


def _absent(image: dict[str, Any], others: list[dict[str, Any]], disk: Disk) -> Iterator[Rdiff]:
    """Yield the rdiffs to an image that are on record but not on offer: too large, or failed."""
    offered = {diff["filename"] for diff in image.get("diffs", [])}
    target = ImageName.parse(image["filename"])
    if target is None or not (disk.failures or disk.too_large):
        return
    for other in others:
        source = ImageName.parse(other["filename"])
        if source is None or source == target:
            continue
        name = rdiff_name(str(source), str(target))
        if name in offered or not (name in disk.failures or name in disk.too_large):
            continue
        size = 0 if name in disk.failures else disk.too_large[name]
        yield Rdiff(
            filename=name,
            state=RdiffState.FAILED if name in disk.failures else RdiffState.TOO_LARGE,
            source=source.number,
            target=target.number,
            size=size,
            share=size / image["size"] if image["size"] else 0.0,
            digests=None,
        )


def _digests(entry: dict[str, Any]) -> Digests:
    return Digests(**{kind: str(entry.get(kind, "")) for kind in Digests.model_fields})


def _audit(found: AuditReport) -> Audit:
    values = {"at": moment(found.begun), "looked_at": found.looked_at()}
    others = Audit.model_fields.keys() - values.keys()
    return Audit.model_validate({**values, **{name: getattr(found, name) for name in others}})
