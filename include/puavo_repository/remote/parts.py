"""Files on their way to a remote: how far each one is safe on the server's disk.

``.puavo-publish/parts.json`` on the remote, written by whoever holds the lock. A part is gone on
with from the position that the server had put on its disk when this was written, never from the
length of the file: after a power cut a file may be long and have holes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from puavo_repository.formats import jsonfile
from puavo_repository.remote.journal import FOLDER, Count, OwnPath, PartPath
from puavo_repository.remote.lock import PublisherLock
from puavo_repository.remote.tree import RemoteTree, read_whole, write_whole

PATH = f"{FOLDER}/parts.json"


@dataclass(frozen=True)
class Part:
    """A file that has not got its name yet."""

    name: PartPath  # where it lies, hidden
    size: Count  # of the whole file in bytes
    sha256: str  # of the whole file
    synced: Count = 0  # so many bytes from its begin are on the server's disk
    proven: bool = False  # whether it is whole and proven, and waits until it may have its name


_PARTS = TypeAdapter(dict[OwnPath, Part])


class Parts:
    """The parts on a remote whose lock is ours, by the paths that their files will have.

    For several threads; only ``put`` and ``forget`` change what is ``known``. A damaged record
    counts as none: all is sent anew.
    """

    def __init__(self, tree: RemoteTree, lock: PublisherLock) -> None:
        self._tree = tree
        self._lock = lock
        self.known: dict[str, Part] = {}
        with contextlib.suppress(ValueError, KeyError):
            found = jsonfile.loads_sealed(read_whole(tree, PATH) or b"")
            self.known = _PARTS.validate_python(found["parts"])

    def put(self, path: str, part: Part) -> None:
        """Note how far a part is; a position that lies before the known one changes nothing."""
        with self._lock.using:
            known = self.known.get(path)
            if known is not None and replace(known, synced=part.synced) == part:
                part = replace(part, synced=max(known.synced, part.synced))
            if part != known:
                self.known[path] = part
                self._save()

    def forget(self, paths: Collection[str]) -> None:
        """Forget parts that have their names, or are gone."""
        with self._lock.using:
            if gone := self.known.keys() & set(paths):
                for path in gone:
                    del self.known[path]
                self._save()

    def _save(self) -> None:
        if self.known:
            parts = _PARTS.dump_python(dict(sorted(self.known.items())))
            write_whole(self._tree, PATH, jsonfile.dumps_sealed({"parts": parts}), self._lock.check)
        else:
            self._lock.check()
            self._tree.remove(PATH)
