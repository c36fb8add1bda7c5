"""The generations of a remote mirror: what each one replaced, so that there is a way back.

They lie on the remote beside the journal. Whatever is read there may be somebody else's work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, Field, PlainSerializer, TypeAdapter

from puavo_repository.formats import jsonfile
from puavo_repository.remote.tree import RemoteTree, read_whole, write_whole

FOLDER = ".puavo-publish"
GENERATIONS = f"{FOLDER}/generations"
LOST = b"lost"  # stands for a document that was not as we had published it any more
NO_TIME = -1  # seconds; no server has a file from before the epoch
_PATH = re.compile(r"(?:(?:meta|rdiffs)/)?[^/\0.][^/\0]*")
_NUMBER = re.compile("[0-9]{1,18}")


def own_path(path: str) -> str:
    """Return a path that stays in the tree, else raise ``ValueError``."""
    if not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no path of ours")
    return path


def _meta_path(path: str) -> str:
    if not own_path(path).startswith("meta/"):
        raise ValueError(f"{path!r} is no metadata of ours")
    return path


# What a document of ours may hold: whoever wrote it, its paths stay in the tree.
OwnPath = Annotated[str, AfterValidator(own_path)]
MetaPath = Annotated[str, AfterValidator(_meta_path)]
Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
Time = Annotated[int, Field(strict=True, ge=NO_TIME, lt=1 << 63)]  # seconds


@dataclass(frozen=True)
class Restored:
    """What makes a generation a rollback."""

    restores: Count  # the generation whose metadata it puts back
    # The metadata files that were asked for; empty for all. Who asks for the same again gets the
    # same, not one generation more.
    series: tuple[MetaPath, ...] = ()


@dataclass(frozen=True)
class Generation:
    """The record of one generation."""

    number: int
    at: Time  # when it was published, since the epoch on the publisher's clock
    restored: Annotated[Restored | None, Field(alias="step_back")]  # what a rollback puts back
    rejected: Mapping[str, str]  # the journal's since then
    # The metadata before it, by path, as far as it changed; None where there was none.
    replaced: Mapping[MetaPath, str | None]
    # sha256 of each metadata file that it writes, by path: so it is known as ours where whoever
    # wrote it was killed before the journal said so.
    written: Mapping[str, str] = field(default_factory=dict)
    # Files that others put there and our metadata names.
    others: Annotated[frozenset[OwnPath], PlainSerializer(sorted)] = frozenset()
    mirror: str = ""  # id of the mirror that it is published from


_RECORD = TypeAdapter(Generation)


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
    values = _RECORD.dump_python(new, by_alias=True, exclude={"number"})
    write_whole(tree, f"{GENERATIONS}/{new.number}.json", jsonfile.dumps_sealed(values), check)
    for number in kept(tree):
        if number <= new.number - before - (new.restored is not None):
            check()
            tree.remove(f"{GENERATIONS}/{number}.json")


def load(tree: RemoteTree, number: int) -> Generation | None:
    """Read the record of a generation; None where there is none, or none that can be read."""
    content = read_whole(tree, f"{GENERATIONS}/{number}.json")
    try:
        return _RECORD.validate_python({**jsonfile.loads_sealed(content or b""), "number": number})
    except ValueError:
        return None


def kept(tree: RemoteTree) -> list[int]:
    """Return the numbers of the generations that there are records of, ascending."""
    stems = (name.removesuffix(".json") for name in tree.list(GENERATIONS))
    return sorted(int(stem) for stem in stems if _NUMBER.fullmatch(stem))
