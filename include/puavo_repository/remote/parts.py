"""Files on their way to a remote: how far each one is safe on the server's disk.

``.puavo-publish/parts.json`` on the remote, written by whoever holds the lock. A part is gone on
with from the position that the server had put on its disk when this was written, never from the
length of the file: after a power cut a file may be long and have holes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from puavo_repository.formats import sealed
from puavo_repository.remote.generations import FOLDER, own_path, whole
from puavo_repository.remote.tree import RemoteTree, read_whole, write_whole

PATH = f"{FOLDER}/parts.json"


@dataclass(frozen=True)
class Part:
    """A file that has not got its name yet.

    Attributes:
        name: Where it lies, hidden.
        size: Of the whole file in bytes.
        sha256: Of the whole file.
        synced: So many bytes from its begin are on the server's disk.
        proven: Whether it is whole and proven, and waits until it may have its name.
    """

    name: str
    size: int
    sha256: str
    synced: int = 0
    proven: bool = False


class Parts:
    """The parts on one remote; may be used by several threads.

    Args:
        tree: The remote.
        check: Called before each write; raises where the remote's lock was lost.
        using: Held while ``tree`` is used.
    """

    def __init__(self, tree: RemoteTree, check: Callable[[], None], using: threading.RLock) -> None:
        self._tree = tree
        self._check = check
        self._lock = using
        self._known = load(tree)

    def get(self, path: str) -> Part | None:
        """Return the part of the file that will be at ``path``."""
        with self._lock:
            return self._known.get(path)

    def paths(self) -> set[str]:
        """Return the files that have parts, by the paths that they will have."""
        with self._lock:
            return set(self._known)

    def names(self) -> set[str]:
        """Return where parts lie."""
        with self._lock:
            return {part.name for part in self._known.values()}

    def put(self, path: str, part: Part) -> None:
        """Note how far a part is; a position that lies before the known one changes nothing."""
        with self._lock:
            known = self._known.get(path)
            if known is not None and replace(known, synced=part.synced) == part:
                part = replace(part, synced=max(known.synced, part.synced))
            if part != known:
                self._known[path] = part
                self._save()

    def forget(self, paths: Collection[str]) -> None:
        """Forget parts that have their names, or are gone."""
        with self._lock:
            gone = self._known.keys() & set(paths)
            for path in gone:
                del self._known[path]
            if gone:
                self._save()

    def _save(self) -> None:
        if self._known:
            write_whole(self._tree, PATH, _render(self._known), self._check)
        else:
            self._check()
            self._tree.remove(PATH)


def load(tree: RemoteTree) -> dict[str, Part]:
    """Read the parts of a remote; a damaged record counts as none: they are sent anew."""
    content = read_whole(tree, PATH)
    try:
        found = sealed.loads(content or b"")["parts"]
        return {own_path(path): _part(values) for path, values in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _render(parts: Mapping[str, Part]) -> bytes:
    return sealed.dumps({"parts": {path: asdict(parts[path]) for path in sorted(parts)}})


def _part(values: dict[str, Any]) -> Part:
    name = str(values["name"])
    folder, slash, hidden = name.rpartition("/")
    if not hidden.startswith(".") or not hidden.endswith(".part"):
        raise ValueError(f"{name!r} is no part of ours")
    own_path(f"{folder}{slash}{hidden[1:]}")
    return Part(
        name,
        whole(values["size"], 0),
        str(values["sha256"]),
        whole(values["synced"], 0),
        bool(values["proven"]),
    )
