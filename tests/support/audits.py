"""What the tests of the audit share: a published and served mirror, and how to harm it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puavo_repository.audit.report import NAME, AuditReport, Checked, Finding, error, records
from puavo_repository.formats.names import rdiff_name
from puavo_repository.progress import Progress, Watcher
from puavo_repository.remote.target import Target
from puavo_repository.settings import Settings
from puavo_repository.settings.model import Model
from support.mirrors import publish
from support.repository import AMXA, FREE, V1, V2, V3, Repository, name
from support.servers import HttpsServer, free_port

SERIES = f"{AMXA}-amd64"
DOCUMENT = f"meta/{SERIES}.json"
OLDEST, OLD, NEW = name(V1), name(V2), name(V3)
RDIFF = f"rdiffs/{rdiff_name(OLD, NEW)}"
OTHER = f"rdiffs/{rdiff_name(NEW, OLD)}"
KEEP = Model(replace_pause=0.0)


@dataclass
class Audited:
    """A repository that was prepared and published, ready to be served and harmed."""

    repository: Repository
    remote: Path
    port: int

    @property
    def mirror(self) -> Path:
        return self.repository.mirror

    @property
    def target(self) -> Target:
        return Target(path=str(self.remote))

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def settings(self, **options: Any) -> Settings:
        home = self.repository.root / "nginx"
        certificate = str(home / "certificate.pem")
        given = {"repository": self.url, "ca_file": certificate, "replace_pause": 0.0}
        return self.repository.settings(**{**given, **options})

    @contextmanager
    def served(self, root: Path | None = None, **options: Any) -> Iterator[HttpsServer]:
        home = self.repository.root / "nginx"
        with HttpsServer(home, root or self.remote, port=self.port, **options) as server:
            yield server

    def was_checked(self, where: str, times: int, wrong: str = "") -> None:
        """Leave the report of so many audits of a place, the last of which found a wrong file."""
        found = Checked(where, findings=(error(wrong, "is wrong"),) if wrong else ())
        records(self.mirror).put(AuditReport(NAME, checks=(found,), turns={where: times}))

    def publish(self) -> None:
        done = publish(self.mirror, self.target, KEEP)
        assert done.ok, done.failed


def make(root: Path) -> Audited:
    """Make one: a series of three images, and one of a single image."""
    made = Audited(Repository(root / "repository"), root / "remote", free_port())
    for version in (V1, V2, V3):
        made.repository.add(name(version))
    made.repository.add(name(V1, FREE))
    assert made.repository.prepare(repository=made.url).ok
    made.remote.mkdir()
    made.publish()
    return made


def copy(original: Audited, root: Path) -> Audited:
    """Return a copy that may be harmed; times are kept, so that it counts as the same."""
    shutil.copytree(original.repository.root, root / "repository")
    shutil.copytree(original.remote, root / "remote")
    return Audited(Repository(root / "repository"), root / "remote", original.port)


def flip(path: Path, at: int | None = None) -> None:
    """Turn over a bit of a file in a way that neither size nor time tells."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def said(found: Checked) -> list[tuple[str, str, str]]:
    """Return what matters of findings: severity, file, the first words of the problem."""
    return [(one.severity.value, one.file, one.problem) for one in found.findings]


def only(found: Checked) -> Finding:
    """Return the one finding that there is."""
    (finding,) = found.findings
    return finding


class Meanwhile(Watcher):
    """A watcher in whose time something happens: after metadata was read, before files are."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens = [happens]

    def begin(self, *stage: Any) -> Progress:
        while self._happens:
            self._happens.pop()()
        return super().begin(*stage)
