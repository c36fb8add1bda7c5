"""A mirror whose metadata alone is there, and logs of a server that clients fetch from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from puavo_repository.fleet.store import Store
from puavo_repository.formats import metadata
from puavo_repository.formats.names import image_name, rdiff_name
from support.repository import AMXA, name

DAY = datetime.now(UTC).date() - timedelta(90)  # figures tell of the last year
SERIES = f"{AMXA}-amd64"


def built(number: int, prefix: str = AMXA) -> str:
    """Return the image that was built so many days after the first."""
    return name(f"{DAY + timedelta(number)}-010203", prefix)


def offer(
    mirror: Path,
    images: Mapping[str, int],
    rdiffs: Mapping[tuple[str, str], int] | None = None,
    series: str = SERIES,
) -> None:
    """Describe images of a series and rdiffs between them, by their sizes."""
    entries: list[dict[str, Any]] = []
    for image, size in images.items():
        diffs = [
            {"filename": rdiff_name(source, target), "size": count, "version": "1"}
            for (source, target), count in (rdiffs or {}).items()
            if target == image
        ]
        version = image_name(image).number
        entries.append({"filename": image, "size": size, "version": version, "diffs": diffs})
    path = mirror / "meta" / f"{series}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(metadata.render({series: {"images": entries}}))


def line(
    path: str,
    sent: int,
    *,
    address: str = "192.0.2.7",
    day: int = 0,
    time: str = "12:00:00",
    status: int = 200,
    agent: str = "Wget/1.21.3",
) -> str:
    """Return a line of a server's log, so many days after the first."""
    at = f"{DAY + timedelta(day):%d/%b/%Y}:{time} +0000"
    return f'{address} - - [{at}] "GET /{path} HTTP/1.1" {status} {sent} "-" "{agent}"\n'


def counted(mirror: Path) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Return downloads and bytes by day, file and way."""
    sql = "SELECT day, name, via, downloads, bytes FROM counts, files WHERE id = file"
    with Store(mirror) as store:
        rows: Iterable[tuple[str, str, str, int, int]] = store.rows(sql)
    return {(day, file, via): (downloads, sent) for day, file, via, downloads, sent in rows}


def total(mirror: Path) -> dict[str, tuple[int, int]]:
    """Return downloads and bytes by file, of clients."""
    found: dict[str, tuple[int, int]] = {}
    for (_, file, via), (downloads, sent) in counted(mirror).items():
        if via in ("https", "rsync"):
            before = found.get(file, (0, 0))
            found[file] = before[0] + downloads, before[1] + sent
    return found
