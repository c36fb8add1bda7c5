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
from puavo_repository.formats import metadata
from puavo_repository.mirror import published
from puavo_repository.mirror.description import Description
from puavo_repository.publish.compare import sha256_of
from puavo_repository.publish.locked import LockedRemote
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.report import PublishReport
from puavo_repository.publish.state import FileState, RemoteState, is_meta, sha256
from puavo_repository.publish.survey import listed
from puavo_repository.publish.switch import Switch
from puavo_repository.remote.journal import Journal, Restored, load_generation
from puavo_repository.remote.tree import RemoteTree
from puavo_repository.rollback.history import Past, history, is_in_place

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did."""

    target: str  # the remote
    generation: int  # that clients see now
    restored: int  # the generation whose metadata that is
    documents: tuple[str, ...]  # metadata files that were put back or removed
    rejected: tuple[str, ...]  # files that clients are not told of any more
    files: Mapping[str, str] = field(default_factory=dict)  # sha256 of those they are told of

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
            nothing that was rolled back from before. Asked again before anything is published,
            None stands for the same generation: it is done to its end, and goes no further.
        series: Only these; empty for all.

    Raises:
        LockedError: The lock was lost; nothing more was written.
        SettingsError: There is no such generation or series.
        PublishError: A file that it names is not there any more, or the metadata there is
            damaged. Nothing was changed.
    """
    with publisher.hold() as remote:
        # It takes from clients what was agreed on when it was asked for.
        options = publisher.options.model_copy(update={"allow_mass_delete": True})
        report = PublishReport(remote.tree.name)
        return _roll_back(replace(remote, options=options, report=report), to, series)


def _roll_back(remote: LockedRemote, to: int | None, series: Collection[str]) -> RolledBack:
    tree, journal = remote.tree, remote.journal
    asked = tuple(sorted(f"meta/{name}.json" for name in series))
    now, *before = history(tree, journal)
    made = load_generation(tree, journal.generation)
    last = made.restored if made else None
    if to is None and last and last.series == asked:
        to = last.restores
    past = _chosen(remote, now, before, to, asked)
    past.described.check_digests()
    state = _compared(tree, journal, now, past)
    changing = {*now.documents, *past.documents}
    changing = {p for p in changing if state.row(p).state is not FileState.PRESENT}
    _check_sound(tree, now, changing)
    _check_in_place(tree, state, changing, past.number)
    kept = _contents(past, past.documents).items()
    rejected = _contents(now, changing & now.documents.keys())
    rejected = {path: digest for path, digest in rejected.items() if (path, digest) not in kept}
    if last and past.number > last.restores:
        rejected = {}  # a step forward: what it leaves behind was good
    # In the journal before clients see a thing: a rollback that is cut short stays one.
    every = (journal.rejected | rejected).items()
    journal.rejected = {path: digest for path, digest in every if (path, digest) not in kept}
    try:
        Switch(remote, state, Restored(past.number, asked)).run([])
        _check_in_place(tree, listed(tree, past.described, journal), changing, past.number)
        for path in past.described.files:
            journal.set_unnamed(path, None)  # the grace begins anew when they go once more
        journal.verified = True
    finally:
        remote.save()
    found = RolledBack(
        tree.name,
        journal.generation,
        past.number,
        tuple(remote.report.switched),
        tuple(path for path in sorted(rejected) if not is_meta(path)),
        past.described.digests(),
    )
    logger.info("%s", found)
    return found


def _compared(tree: RemoteTree, journal: Journal, now: Past, past: Past) -> RemoteState:
    """Return the table of a remote that is to have the metadata of the past."""
    state = listed(tree, past.described, journal)
    for path, content in now.documents.items():
        row = state.row(path)
        row.document = now.described.parsed.get(path, {})
        if past.documents.get(path) == content:
            row.state = FileState.PRESENT
            # A rollback that was killed may have written it, and not said so.
            mtime = row.found.mtime if row.found else 0
            journal.placed(path, row.size, row.sha256, mtime)
    return state


def _contents(past: Past, documents: Collection[str]) -> dict[str, str]:
    """Return the sha256 of every file that a generation names, and of some of its metadata."""
    return past.described.digests() | {path: sha256(past.documents[path]) for path in documents}


def remember(mirror_dir: Path, address: str, done: RolledBack) -> None:
    """Keep beside the mirror what a rollback left on a remote, whose address has no password."""
    now, before = done.generation, done.restored
    published.remember(mirror_dir, address, now, files=done.files, problems={}, restored=before)


def _check_sound(tree: RemoteTree, now: Past, changing: Collection[str]) -> None:
    """Refuse to roll back from metadata that is damaged: nobody knows what it offered."""
    for path in sorted(changing & now.described.damaged.keys()):
        raise PublishError(
            f"{tree.name}/{path}",
            "is damaged, so what it offered cannot be taken back",
            remedy="Nothing was changed. Publish once, which mends it, and roll back then",
        )


def _chosen(
    remote: LockedRemote, now: Past, before: Sequence[Past], to: int | None, asked: Collection[str]
) -> Past:
    """Return the metadata that clients shall see: of one generation, in some series or in all."""
    name, every = remote.tree.name, {path for past in (now, *before) for path in past.documents}
    only, rejected = set(asked) or every, remote.journal.rejected.items()
    if not only <= every:
        raise no_such_series(name, min(only - every), every)
    for past in (_mixed(now, past, only) for past in before):
        lost = sorted(only & past.described.damaged.keys())
        if lost and past.number == to:
            raise PublishError(
                f"{name}/{lost[0]}",
                f"of generation {to} was damaged before it was replaced",
                remedy="Choose another generation",
            )
        is_other = past.documents != now.documents
        is_good = not past.described.digests().items() & rejected
        if not lost and (past.number == to or (to is None and is_other and is_good)):
            return past
    numbers = ", ".join(str(past.number) for past in before) or "none"
    raise SettingsError(
        name,
        "there is no such generation to go back to" if to is not None else "there is no way back",
        expected=f"one of those that are kept: {numbers}",
        found="" if to is None else str(to),
        remedy="Choose one of them by its number" if before else "",
    )


def _mixed(now: Past, past: Past, only: set[str]) -> Past:
    """Return a generation with its own metadata for some series, and that of now for the others."""
    documents = {path: text for path, text in now.documents.items() if path not in only}
    documents |= {path: text for path, text in past.documents.items() if path in only}
    return replace(past, described=Description.of(documents))


def no_such_series(where: str, name: str, there: Collection[str]) -> SettingsError:
    """Return the error for a series that a remote does not have."""
    known = ", ".join(sorted(map(_series, there)))
    return SettingsError(
        where, "has no such series", expected=f"one of {known}", found=_series(name)
    )


def _series(path: str) -> str:
    """Return the series that a metadata file is of; a series' name stays as it is."""
    return path.removeprefix("meta/").removesuffix(".json")


def _check_in_place(
    tree: RemoteTree, state: RemoteState, changing: Collection[str], number: int
) -> None:
    """Make sure that every file is there that changing documents name.

    What the journal is not sure of is read whole. What stays as it is, is another's business.
    """
    described, missing = state.local, []
    parsed = (described.parsed.get(path, {}) for path in changing)
    named = {file.path for document in parsed for file in metadata.described_files(document)}
    for file in described.files.values():
        row = state.row(file.path)
        there = is_in_place(row, file) if file.path in named else True
        if there is None and sha256_of(tree, file.path, file.size) == file.sha256:
            state.note_found(row)
        elif not there:
            missing.append(file.path)
        row.state = FileState.PRESENT
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise PublishError(
            f"{tree.name}/{min(missing)}{more}",
            f"which generation {number} names, is not there any more",
            remedy="Nothing was changed. Choose a later generation, or prepare and publish again",
        )
