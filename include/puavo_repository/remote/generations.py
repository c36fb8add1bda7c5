"""The generations of a remote mirror: what each one replaced, so that there is a way back.

They lie on the remote beside the journal. Whatever is read there may be somebody else's work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from puavo_repository.formats import sealed
from puavo_repository.remote.tree import RemoteTree, read_whole, write_whole

FOLDER = ".puavo-publish"
GENERATIONS = f"{FOLDER}/generations"
LOST = b"lost"  # stands for a document that was not as we had published it any more
NO_TIME = -1  # seconds; no server has a file from before the epoch
_PATH = re.compile(r"(?:(?:meta|rdiffs)/)?[^/\0.][^/\0]*")
_NUMBER = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class Restored:
    """What makes a generation a rollback.

    Attributes:
        restores: The generation whose metadata it puts back.
        series: The metadata files that were asked for; empty for all. Who asks for the same
            again gets the same, not one generation more.
    """

    restores: int
    series: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """The record of one generation.

    Attributes:
        number: Which.
        at: When it was published, in seconds since the epoch on the publisher's clock.
        replaced: The metadata before it, by path, as far as it changed; None where there was
            none.
        rejected: The journal's ``rejected`` since then.
        restored: What it puts back, if it is a rollback.
        written: sha256 of each metadata file that it writes, by path: so it is known as ours
            where whoever wrote it was killed before the journal said so.
        others: Files that others put there and our metadata names.
        mirror: The id of the mirror that it is published from.
    """

    number: int
    at: int
    replaced: Mapping[str, str | None]
    rejected: Mapping[str, str]
    restored: Restored | None = None
    written: Mapping[str, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    mirror: str = ""


def save(tree: RemoteTree, new: Generation, before: int, check: Callable[[], object]) -> None:
    """Keep what a generation replaces, so that a rollback is possible, and drop the oldest.

    Args:
        tree: The remote.
        new: The generation that begins.
        before: How many generations before it can be gone back to; after a rollback one more,
            or it could not be ended once it was killed.
        check: Called before each write; see ``write_whole``.
    """
    tree.make_folder(GENERATIONS)
    values = {
        "at": new.at,
        "step_back": asdict(new.restored) if new.restored else None,
        "rejected": dict(new.rejected),
        "replaced": dict(new.replaced),
        "written": dict(new.written),
        "others": sorted(new.others),
        "mirror": new.mirror,
    }
    write_whole(tree, f"{GENERATIONS}/{new.number}.json", sealed.dumps(values), check)
    for number in kept(tree):
        if number <= new.number - before - (new.restored is not None):
            check()
            tree.remove(f"{GENERATIONS}/{number}.json")


def load(tree: RemoteTree, number: int) -> Generation | None:
    """Read the record of a generation; None where there is none, or none that can be read."""
    content = read_whole(tree, f"{GENERATIONS}/{number}.json")
    try:
        found = sealed.loads(content or b"")
        replaced = {own_path(p, "meta/"): text for p, text in found["replaced"].items()}
        texts({p: text for p, text in replaced.items() if text is not None})
        at, rejected = whole(found["at"]), texts(found["rejected"])
        return Generation(
            number,
            at,
            replaced,
            rejected,
            _restored(found["step_back"]),
            texts(found.get("written", {})),
            frozenset(own_path(path) for path in found.get("others", ())),
            str(found.get("mirror", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _restored(found: dict[str, Any] | None) -> Restored | None:
    if found is None:
        return None
    series = tuple(own_path(path, "meta/") for path in found.get("series", ()))
    return Restored(whole(found["restores"], 0), series)


def kept(tree: RemoteTree) -> list[int]:
    """Return the numbers of the generations that there are records of, ascending."""
    stems = (name.removesuffix(".json") for name in tree.list(GENERATIONS))
    return sorted(int(stem) for stem in stems if _NUMBER.fullmatch(stem))


def own_path(path: str, folder: str = "") -> str:
    """Return a path that a document of ours may name: whoever wrote it, it stays in the tree."""
    if not _PATH.fullmatch(path) or not path.startswith(folder):
        raise ValueError(f"{path!r} is no path of ours")
    return path


def whole(value: Any, least: int = NO_TIME) -> int:
    """Return a whole number that a document of ours may have."""
    if type(value) is not int or not least <= value < 1 << 63:
        raise ValueError(f"{value!r} is no whole number, or none that can be here")
    return value


def texts(values: Any) -> dict[str, str]:
    """Return an object that has only texts."""
    if not all(isinstance(text, str) for text in values.values()):
        raise ValueError("it holds something else than text")
    return dict(values)
