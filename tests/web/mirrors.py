"""Mirrors to look at: metadata and sparse files, as large as one likes, made in no time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from puavo_repository.audit import report as audit_report
from puavo_repository.audit.report import AuditReport, Checked, Finding
from puavo_repository.formats import metadata
from puavo_repository.formats.metadata import Digests
from puavo_repository.formats.names import rdiff_name
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import Failure, RdiffRecord

URLBASE = "https://images.example"
IMAGE_SIZE = 4_000_000_000


def image_names(series: int, images: int) -> list[str]:
    """Return names of images a month apart."""
    return [
        f"puavo-os-class{series:02}-bookworm-{2020 + i // 12}-{1 + i % 12:02}-01-120000-amd64.img"
        for i in range(images)
    ]


def digests(name: str, size: int) -> Digests:
    sha512 = hashlib.sha512(name.encode()).hexdigest()
    return Digests(size, str(size % 4294967296), sha512[:64], sha512)


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)


def make_mirror(root: Path, series: int = 1, images: int = 4, share: float = 0.02) -> Mirror:
    """Make a mirror of so many series of so many images, with an rdiff for every pair.

    Each image that lies between source and target adds ``share`` to an rdiff.
    """
    mirror = Mirror(root)
    for number in range(series):
        names = image_names(number, images)
        entries = [_entry(mirror, target, names, share) for target in names]
        name = f"puavo-os-class{number:02}-bookworm-amd64"
        path = mirror.meta / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(metadata.render({name: {"images": entries}}))
    sparse(mirror.cksums, 0)
    return mirror


def _entry(mirror: Mirror, target: str, names: list[str], share: float) -> dict[str, Any]:
    sparse(mirror.root / target, IMAGE_SIZE)
    diffs = []
    for source in names:
        if source == target:
            continue
        rdiff = rdiff_name(source, target)
        found = digests(
            rdiff, int(IMAGE_SIZE * share * abs(names.index(source) - names.index(target)))
        )
        sparse(mirror.rdiffs / rdiff, found.size)
        diffs.append(metadata.diff_entry(source, rdiff, found, URLBASE))
    return metadata.image_entry(target, digests(target, IMAGE_SIZE), {}, diffs, URLBASE)


def edit_metadata(mirror: Mirror, change: Any) -> None:
    """Let a function change the metadata's plain values in every file."""
    for path in mirror.meta.glob("*.json"):
        document = metadata.parse(path.read_bytes())
        change(document)
        path.write_bytes(metadata.render(document))


def fail(mirror: Mirror, name: str, message: str, stage: str = "fingerprint") -> None:
    mirror.state.failures.put(Failure(name, stage, message))


def too_large(mirror: Mirror, name: str, size: int, *, identity: Identity | None = None) -> None:
    mirror.state.rdiffs.put(RdiffRecord(name, "a", "b", digests(name, size), identity, "anchors"))


def audited(mirror: Mirror, *findings: Finding, repaired: tuple[Finding, ...] = ()) -> AuditReport:
    """Keep the report of an audit that found this."""
    local = Checked("local", repaired=repaired, notes=("the canary flew",))
    checks = (local, *(Checked(one.where, findings=(one,)) for one in findings))
    report = AuditReport("audit", begun=1_790_000_000.0, seconds=61.0, turn=7, checks=checks)
    audit_report.records(mirror.root).put(report)
    return report
