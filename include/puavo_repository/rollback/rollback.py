"""A rollback: clients see the metadata of an earlier generation again.

Only metadata and CKSUMS change, and only after every file that they will name was found in place:
what a bad night took out of the metadata stays on the remote for as long as the grace of pruning.
It is a new generation itself, so it can be undone in the same way. Asked for once more it changes
nothing, so it may be repeated whenever something failed late. What it takes from clients is noted
in the journal and not published again until the operator allows it, or it is no longer described.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from puavo_repository.errors import PublishError, SettingsError
from puavo_repository.formats.metadata import DescribedFile
from puavo_repository.mirror import published
from puavo_repository.mirror.description import Description
from puavo_repository.progress import count
from puavo_repository.publish.plan import FileState, RemoteState, Row, is_meta, sha256
from puavo_repository.publish.publisher import LockedRemote, Publisher, PublishReport
from puavo_repository.publish.survey import forget_gone, listed, sha256_of
from puavo_repository.publish.switch import Switch
from puavo_repository.remote import journal
from puavo_repository.remote.documents import read_whole
from puavo_repository.remote.tree import RemoteTree
from puavo_repository.rollback.changes import Change, changes, newest

logger = logging.getLogger(__name__)

Past = tuple[int, journal.Generation | None, Description]
"""A generation as it was: its number, its record where that can be read, what it offered."""


@dataclass(frozen=True)
class Step:
    """One generation that was published, as it is shown."""

    number: int
    at: int | None  # when, in seconds since the epoch; None where that is not kept
    newest: Mapping[str, str]  # version of the newest image of each series then
    missing: int  # how many of the files that it names are not there any more
    lost: int = 0  # how many of its metadata files are lost: it cannot be gone back to
    changes: tuple[Change, ...] = ()  # what would be different for clients, of the current one none

    def __str__(self) -> str:
        at = f"{datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M} UTC" if self.at else "unknown"
        newest = ", ".join(f"{name} {version}" for name, version in self.newest.items())
        missing = f"; {count(self.missing, 'file')} of it missing" if self.missing else ""
        lost = "; its metadata is lost, so it cannot be rolled back to" if self.lost else ""
        return f"generation {self.number}, published {at}: {newest}{missing}{lost}"


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did."""

    target: str  # the remote
    generation: int  # that clients see now
    restored: int  # the generation whose metadata that is
    documents: tuple[str, ...]  # metadata files that were put back or removed
    rejected: tuple[str, ...]  # files that clients are not told of any more
    files: Mapping[str, str]  # sha256 of those they are told of
    metadata: Mapping[str, str]  # sha256 of what tells them, by path
    series: int  # so many alone were asked for; 0 for all

    @property
    def again(self) -> str:
        """What clients see again, in words."""
        return f"{self.restored}{f' of {self.series} series' if self.series else ''}"

    def __str__(self) -> str:
        return (
            f"{self.target}: generation {self.generation} has the metadata of {self.again} "
            f"again; metadata files put back: {len(self.documents)}, files not offered any more: "
            f"{len(self.rejected)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without what its clients are told of: that is in the metadata."""
        hidden = {"files", "metadata"}
        return {name: value for name, value in asdict(self).items() if name not in hidden}


def steps(publisher: Publisher, series: Collection[str] = ()) -> list[Step]:
    """Return the generations that are kept, the current one first; of some series or of all."""
    with publisher.pool.tree() as tree:
        record, found, there = journal.load(tree), [], set[str]()
        state = listed(tree, Description({}), record)
        now: Description | None = None
        for number, made, past in _history(tree, record):
            now = now or past
            last = {n: v for one in past.parsed.values() for n, v in newest(one).items()}
            there |= last.keys()
            last = {name: last.get(name, "") for name in series} or last
            at, lost = made.at if made else None, len(past.damaged)
            in_place = [_is_in_place(state.row(file.path), file) for file in past.files.values()]
            different = tuple(changes(now, past, series))
            found.append(Step(number, at, last, in_place.count(False), lost, different))
        _check_series(tree.name, series, there)
    return found


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
        publisher.report = PublishReport(remote.tree.name)
        found = _roll_back(remote, to, series)
    logger.info("%s", found)
    return found


def remember(mirror_dir: Path, address: str, done: RolledBack) -> None:
    """Keep beside the mirror what a rollback left on a remote, whose address has no password.

    It works where the mirror's disk is lost: then there is none to keep it beside.
    """
    if not mirror_dir.is_dir():
        return
    published.remember(
        mirror_dir,
        address,
        done.generation,
        files=done.files,
        documents=done.metadata,
        problems={},
        restored=done.restored,
        series=done.series,
    )


def _roll_back(remote: LockedRemote, to: int | None, series: Collection[str]) -> RolledBack:
    tree, record, report = remote.tree, remote.journal, remote.publisher.report
    (_, made, now), *before = _history(tree, record)
    last = made.restored if made else None
    asked = tuple(sorted(f"meta/{name}.json" for name in series))
    if to is None and last and last.series == asked:
        to = last.restores
    number, past = _chosen(remote, now, before, to, set(asked))
    past.check_digests()
    there, state = now.documents, listed(tree, past, record)
    changing = {p for p in {*there, *past.documents} if there.get(p) != past.documents.get(p)}
    for path in sorted(changing & now.damaged.keys()):
        problem = "is damaged, so what it offered cannot be taken back"
        remedy = "Nothing was changed. Publish once, which mends it, and roll back then"
        raise PublishError(f"{tree.name}/{path}", problem, remedy=remedy)
    for path in there:
        row = state.row(path)
        row.content, row.names = now.documents[path], now.named.get(path, [])
        if path not in changing:
            row.state = FileState.PRESENT
            # A rollback that was killed may have written it, and not said so.
            mtime = row.found.mtime if row.found else 0
            record.placed(path, row.size, row.sha256, mtime)
    forget_gone(state, asked or record.files)  # or have removed it
    _check_in_place(tree, state, changing, number)
    kept, rejected = _contents(past).items(), {}
    if not last or number <= last.restores:  # else a step forward: what it leaves behind was good
        rejected = {p: d for p, d in _contents(now).items() if (p, d) not in kept}
    # In the journal before clients see a thing: a rollback that is cut short stays one.
    every = (record.rejected | rejected).items()
    record.rejected = {path: digest for path, digest in every if (path, digest) not in kept}
    try:
        Switch(remote, state, journal.Restored(number, asked)).run([])
        _check_in_place(tree, listed(tree, past, record), changing, number)
        for path in past.files:
            record.set_unnamed(path, None)  # the grace begins anew when they go once more
        record.verified = True
    finally:
        remote.save()
    gone = tuple(path for path in sorted(rejected) if not is_meta(path))
    return RolledBack(
        target=tree.name,
        generation=record.generation,
        restored=number,
        documents=tuple(report.switched),
        rejected=gone,
        files=past.digests(),
        metadata={path: sha256(content) for path, content in past.documents.items()},
        series=len(asked),
    )


def _history(tree: RemoteTree, record: journal.Journal) -> Iterator[Past]:
    """Yield the current generation and those before it, as far as there are records of them."""
    read = ((path, read_whole(tree, path)) for path in sorted(record.files) if is_meta(path))
    documents = {path: content for path, content in read if content is not None}
    for number in range(record.generation, -1, -1):
        made = journal.load_generation(tree, number)
        yield number, made, Description.of(dict(documents))
        if made is None:
            return
        for path, text in made.replaced.items():
            documents.pop(path, None)
            if text is not None:
                documents[path] = text.encode()
        if not documents:
            return


def _chosen(
    remote: LockedRemote, now: Description, before: Sequence[Past], to: int | None, asked: set[str]
) -> tuple[int, Description]:
    """Return the number of a generation, and what clients shall see: that of now for other series.

    ``asked`` has the metadata files of the series that roll back; empty for all.
    """
    name, rejected = remote.tree.name, remote.journal.rejected.items()
    every = {*now.documents, *(path for _, _, past in before for path in past.documents)}
    _check_series(name, map(_series, asked), set(map(_series, every)))
    only = asked or every
    for number, _made, past in before:
        documents = {path: text for path, text in now.documents.items() if path not in only}
        documents |= {path: text for path, text in past.documents.items() if path in only}
        mixed = Description.of(documents)
        lost = sorted(only & mixed.damaged.keys())
        if lost and number == to:
            problem = f"of generation {to} was damaged before it was replaced"
            remedy = "Choose another generation"
            raise PublishError(f"{name}/{lost[0]}", problem, remedy=remedy)
        is_other = documents != now.documents
        is_good = not mixed.digests().items() & rejected
        if not lost and (number == to or (to is None and is_other and is_good)):
            return number, mixed
    numbers = ", ".join(str(number) for number, *_ in before)
    wanted = "such generation" if to is not None else "earlier generation with other metadata"
    raise SettingsError(
        name,
        f"there is no {wanted} to go back to",
        expected=f"one of those that are kept: {numbers}" if before else "",
        found="" if to is None else str(to),
        remedy="Choose one of them by its number" if before else "",
    )


def _series(path: str) -> str:
    return path.removeprefix("meta/").removesuffix(".json")


def _check_series(where: str, asked: Iterable[str], there: Collection[str]) -> None:
    for name in sorted(set(asked) - set(there)):
        expected = f"one of {', '.join(sorted(there))}"
        raise SettingsError(where, "has no such series", expected=expected, found=name)


def _contents(described: Description) -> dict[str, str]:
    """Return the sha256 of all metadata of a generation and of every file that it names."""
    own = {path: sha256(content) for path, content in described.documents.items()}
    return described.digests() | own


def _is_in_place(row: Row, file: DescribedFile) -> bool | None:
    """Say whether a file is there as it was published; None where only its bytes can tell."""
    if row.found is None or not row.found.is_file(file.size):
        return False
    if row.entry is None or not row.is_as_left:
        return None
    return row.entry.sha256 == file.sha256


def _check_in_place(
    tree: RemoteTree, state: RemoteState, changing: Collection[str], number: int
) -> None:
    """Make sure that every file is there that changing documents name.

    What the journal is not sure of is read whole. What stays as it is, is another's business.
    """
    missing, files = [], (state.local.named.get(path, ()) for path in changing)
    named = {file.path for some in files for file in some}
    for file in state.local.files.values():
        row = state.row(file.path)
        there = _is_in_place(row, file) if file.path in named else True
        if there is None and sha256_of(tree, file.path, file.size) == file.sha256:
            state.note_found(row)
        elif not there:
            missing.append(file.path)
        row.state = FileState.PRESENT
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        problem = f"which generation {number} names, is not there any more"
        remedy = "Choose a later generation, or prepare and publish again"
        where = f"{tree.name}/{min(missing)}{more}"
        raise PublishError(where, problem, remedy=f"Nothing was changed. {remedy}")
