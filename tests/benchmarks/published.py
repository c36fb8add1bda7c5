"""Publishes a mirror that is published already, in a process of its own: what nothing new costs.

    PYTHONPATH=include:tests python -m benchmarks.published MIRROR REMOTE [PORT KEY HOST_KEY]

``lay_out`` makes such a remote, of hard links, as if every file had been sent there.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from puavo_repository.mirror.description import publishable
from puavo_repository.mirror.records import mirror_id
from puavo_repository.publish import run
from puavo_repository.publish.plan import CKSUMS, sha256
from puavo_repository.publish.publisher import Publisher
from puavo_repository.remote import journal
from puavo_repository.remote.documents import write_whole
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.target import Target
from puavo_repository.settings.model import Model


def lay_out(mirror: Path, remote: Path) -> None:
    """Make a remote that has all of a mirror, and a journal that knows it."""
    local = publishable(mirror)
    for folder in ("", "rdiffs", "meta", journal.FOLDER):
        (remote / folder).mkdir(parents=True, exist_ok=True)
    wanted = {path: (len(content), sha256(content)) for path, content in local.documents.items()}
    wanted |= {path: (file.size, file.sha256) for path, file in local.files.items()}
    wanted[CKSUMS] = (len(local.cksums or b""), sha256(local.cksums or b""))
    known = journal.Journal(generation=1, verified=True, mirror=mirror_id(mirror, make=True))
    for path, (size, digest) in wanted.items():
        os.link(mirror / path, remote / path)
        mtime = int((remote / path).stat().st_mtime)
        known.files[path] = journal.Entry(size, digest, mtime, None)
    with contextlib.closing(FolderTree(Target(path=str(remote)))) as tree:
        write_whole(tree, journal.PATH, known.render())


def main(mirror: str, remote: str, port: str = "", key: str = "", host_key: str = "") -> None:
    """Publish; there must be nothing to do."""
    target = Target(path=remote)
    if port:
        target = Target(remote, "127.0.0.1", int(port), key_file=key, host_key=host_key)
    with Publisher(Path(mirror), target, Model()) as publisher:
        run.publish(publisher)
    report = publisher.report
    assert report.ok, report.lines()
    assert not report.uploaded, report.lines()
    assert report.present, report.lines()


if __name__ == "__main__":
    main(*sys.argv[1:])
