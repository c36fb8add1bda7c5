"""A rollback: clients see the metadata of an earlier generation again.

Only metadata and CKSUMS change, and only after every file that they will name was found in place:
what a bad night took out of the metadata stays on the remote for as long as the grace of pruning.
It is a new generation itself, so it can be undone in the same way. Asked for once more it changes
nothing, so it may be repeated whenever something failed late. What it takes from clients is noted
in the journal and not published again until the operator allows it, or it is no longer described.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from puavo_repository.errors import PublishError, SettingsError
from puavo_repository.formats import cksums, metadata
from puavo_repository.formats.metadata import Document
from puavo_repository.mirror import published
from puavo_repository.mirror.description import Description
from puavo_repository.publish.compare import sha256_of
from puavo_repository.publish.locked import LockedRemote
from puavo_repository.publish.options import RemovalPolicy
from puavo_repository.publish.plan import Presence
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.survey import Facts, sha256
from puavo_repository.publish.switch import Switch
from puavo_repository.remote import generations
from puavo_repository.remote.generations import Restored
from puavo_repository.remote.tree import RemoteTree
from puavo_repository.rollback.history import Past, history, in_place, is_sound, look, parse

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did.

    Attributes:
        target: The remote.
        generation: The generation that clients see now.
        restored: The generation whose metadata that is.
        documents: Metadata files that were put back or removed.
        rejected: Files that clients are not told of any more.
        files: What they are told of: sha256 by path.
    """

    target: str
    generation: int
    restored: int
    documents: tuple[str, ...]
    rejected: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.target}: generation {self.generation} has the metadata of {self.restored} "
            f"again; metadata files put back: {len(self.documents)}, files not offered any more: "
            f"{len(self.rejected)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without what its clients are told of: that is in the metadata."""
        return {name: value for name, value in asdict(self).items() if name != "files"}


def roll_back(publisher: Publisher, to: int | None, series: Collection[str] = ()) -> RolledBack:
    """Give clients the metadata of an earlier generation.

    Args:
        publisher: Of the remote.
        to: Number of the generation; None for the last one that has other metadata and names
            nothing that was rolled back from before. If the same was asked for before, and nothing
            was published since, None stands for the same generation: it is done to its end, and
            goes no further.
        series: Only these; empty for all.

    Raises:
        LockedError: The lock was lost; nothing more was written.
        SettingsError: There is no such generation or series.
        PublishError: A file that it names is not there any more, or the metadata there is
            damaged. Nothing was changed.
    """
    with publisher.hold() as held:
        return _roll_back(held, to, series, publisher.options.removal.generations)


def _roll_back(
    held: LockedRemote, to: int | None, series: Collection[str], generations_kept: int
) -> RolledBack:
    tree, facts = held.tree, look(held.tree, held.journal)
    asked = tuple(sorted(f"meta/{name}.json" for name in series))
    now, *before = history(tree, facts.journal)
    facts.documents = parse(tree, now.documents)
    made = generations.load(tree, facts.journal.generation)
    last = made.restored if made else None
    if to is None and last and last.series == asked:
        to = last.restores
    past = _chosen(tree, facts, now, before, to, asked)
    local = _snapshot(tree, past.documents)
    facts.current = {p for p, text in past.documents.items() if now.documents.get(p) == text}
    for path in facts.current:  # a rollback that was killed may have written it, and not said so
        content = past.documents[path]
        facts.journal.placed(path, len(content), sha256(content), facts.listing[path].mtime)
    changing = (past.documents.keys() | now.documents.keys()) - facts.current
    _check_whole(tree, now, changing)
    _check_in_place(tree, facts, local, changing, past.number)
    offered, kept = _digests(facts.documents), _digests(local.parsed)
    offered |= {path: sha256(now.documents[path]) for path in changing & now.documents.keys()}
    kept |= {path: sha256(content) for path, content in past.documents.items()}
    rejected = {path: digest for path, digest in offered.items() if kept.get(path) != digest}
    if last and past.number > last.restores:
        rejected = {}  # a step forward: what it leaves behind was good
    known = facts.journal.rejected | rejected
    # In the journal before clients see a thing: a rollback that is cut short stays one.
    facts.journal.rejected = {p: digest for p, digest in known.items() if kept.get(p) != digest}
    whole = RemovalPolicy(allow_mass_delete=True, generations=generations_kept)
    try:
        done = Switch(held, local, facts, whole, Restored(past.number, asked)).run([])
        _check_in_place(tree, look(tree, held.journal), local, changing, past.number)
        for path in local.files:
            facts.journal.set_unnamed(path, None)  # the grace begins anew when they go once more
        facts.journal.verified = True
    finally:
        held.save()
    found = RolledBack(
        tree.name,
        facts.journal.generation,
        past.number,
        (*done.documents, *done.dropped),
        tuple(path for path in sorted(rejected) if not path.startswith("meta/")),
        {path: file.sha256 for path, file in local.files.items()},
    )
    logger.info("%s", found)
    return found


def remember(mirror_dir: Path, address: str, done: RolledBack) -> None:
    """Keep beside the mirror what a rollback left on a remote, for those who look there.

    Args:
        mirror_dir: The local mirror.
        address: The remote, without any password.
        done: What was done.
    """
    published.remember(
        mirror_dir,
        address,
        done.generation,
        files=done.files,
        problems={},
        restored=done.restored,
    )


def _check_whole(tree: RemoteTree, now: Past, changing: Collection[str]) -> None:
    """Refuse to roll back from metadata that is damaged: nobody knows what it offered."""
    for path in sorted(changing & now.documents.keys()):
        if not is_sound(now.documents[path]):
            raise PublishError(
                f"{tree.name}/{path}",
                "is damaged, so what it offered cannot be taken back",
                remedy="Nothing was changed. Publish once, which mends it, and roll back then",
            )


def _chosen(
    tree: RemoteTree,
    facts: Facts,
    now: Past,
    before: Sequence[Past],
    to: int | None,
    asked: Collection[str],
) -> Past:
    """Return the metadata that clients shall see: of one generation, in some series or in all."""
    every = {path for past in (now, *before) for path in past.documents}
    only = set(asked) or every
    if not only <= every:
        raise no_such_series(tree.name, min(only - every), every)

    def mixed(past: Past) -> Past:
        left = {path: text for path, text in now.documents.items() if path not in only}
        put_back = {path: text for path, text in past.documents.items() if path in only}
        return replace(past, documents=left | put_back)

    for past in map(mixed, before):
        lost = [path for path in sorted(only) if not is_sound(past.documents.get(path, b"{}"))]
        if lost and past.number == to:
            raise PublishError(
                f"{tree.name}/{lost[0]}",
                f"of generation {to} was damaged before it was replaced",
                remedy="Choose another generation",
            )
        if lost:
            continue
        if to is None and past.documents != now.documents:
            named = _digests(parse(tree, past.documents))
            if not set(named.items()) & set(facts.journal.rejected.items()):
                return past
        if past.number == to:
            return past
    numbers = ", ".join(str(past.number) for past in before) or "none"
    raise SettingsError(
        tree.name,
        "there is no such generation to go back to" if to is not None else "there is no way back",
        expected=f"one of those that are kept: {numbers}",
        found="" if to is None else str(to),
        remedy="Choose one of them by its number" if before else "",
    )


def no_such_series(where: str, name: str, there: Collection[str]) -> SettingsError:
    """Return the error for a series that a remote does not have."""
    known = ", ".join(sorted(map(_series, there)))
    return SettingsError(
        where, "has no such series", expected=f"one of {known}", found=_series(name)
    )


def _series(path: str) -> str:
    """Return the series that a metadata file is of; a series' name stays as it is."""
    return path.removeprefix("meta/").removesuffix(".json")


def _snapshot(tree: RemoteTree, documents: dict[str, bytes]) -> Description:
    text = cksums.render(parse(tree, documents).values())
    found = Description.of(documents, text)
    found.check_digests()
    return found


def _digests(parsed: Mapping[str, Document]) -> dict[str, str]:
    """Return sha256 by path of every file that documents name."""
    return {
        file.path: file.digests.get("sha256", "")
        for document in parsed.values()
        for file in metadata.described_files(document)
    }


def _check_in_place(
    tree: RemoteTree, facts: Facts, local: Description, changing: Collection[str], number: int
) -> None:
    """Make sure that every file is there that changing documents name.

    What the journal is not sure of is read whole. What stays as it is, is another's business.
    """
    missing, named = [], set[str]()
    for path in changing:
        named.update(f.path for f in metadata.described_files(local.parsed.get(path, {})))
    for path, file in local.files.items():
        if path not in named:
            facts.presence[path] = Presence.PRESENT
            continue
        there = in_place(facts, file)
        if there is None and sha256_of(tree, file.path, file.size) == file.sha256:
            facts.journal.found(path, file.size, file.sha256, facts.listing[path].mtime)
        elif not there:
            missing.append(path)
        facts.presence[path] = Presence.PRESENT
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise PublishError(
            f"{tree.name}/{min(missing)}{more}",
            f"which generation {number} names, is not there any more",
            remedy="Nothing was changed. Choose a later generation, or prepare and publish again",
        )
