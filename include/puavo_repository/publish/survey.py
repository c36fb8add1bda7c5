"""The facts that publishing is planned on: what the mirror describes, what the remote has.

A step acts on the survey that it made itself, under the remote's lock (``held``). One that was
made without it is for printing a plan.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from puavo_repository.errors import PublishError
from puavo_repository.formats import cksums, metadata
from puavo_repository.formats.metadata import DescribedFile, Document
from puavo_repository.mirror.description import Description
from puavo_repository.publish.compare import check_local, every_range, same_bytes, samples
from puavo_repository.publish.plan import Plan, Presence, is_part, plan_transfers
from puavo_repository.remote.journal import Journal
from puavo_repository.remote.tree import Kind, RemoteStat, RemoteTree, read_whole

logger = logging.getLogger(__name__)

CKSUMS = "CKSUMS"


@dataclass
class Facts:
    """What the remote has.

    Attributes:
        journal: What we put there.
        listing: Everything in the folders of the mirror, by path; hidden names too.
        presence: By path of each wanted file.
        documents: The remote's metadata by path, parsed; a damaged one counts as empty.
        current: Paths of those of our documents that it has byte for byte.
        problems: Files that cannot be published as they stand, and why.
        rejected: Files that a rollback took from clients: they and the documents that name
            them wait.
        news: Whether the journal learned something that is worth saving.
    """

    journal: Journal
    listing: dict[str, RemoteStat]
    presence: dict[str, Presence] = field(default_factory=dict)
    documents: dict[str, Document] = field(default_factory=dict)
    current: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    news: bool = False

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be written into the journal, and no part lies about."""
        return self.journal.verified and not self.news and not any(map(is_part, self.listing))

    def is_ours(self, path: str) -> bool:
        """Say whether we put a file there."""
        entry = self.journal.files.get(path)
        return entry is not None and entry.ours

    def named(self) -> set[str]:
        """Return the paths that the remote's metadata names."""
        return {f.path for doc in self.documents.values() for f in metadata.described_files(doc)}

    def told(self) -> dict[str, str]:
        """Return what clients are told of: sha256 by path."""
        files = (f for doc in self.documents.values() for f in metadata.described_files(doc))
        return {file.path: file.digests.get("sha256", "") for file in files}

    def kept(self, local: Description) -> set[str]:
        """Return the paths that the mirror describes, or that clients are told of until it can."""
        waiting = (self.documents[path] for path in self.problems if path in self.documents)
        named = {file.path for doc in waiting for file in metadata.described_files(doc)}
        return named.union(local.files)

    def cksums(self, local: Description) -> bytes:
        """Return the CKSUMS that goes with the metadata that the remote has."""
        if self.current == set(self.documents) == set(local.documents):
            return local.cksums or b""
        return cksums.render(self.documents.values())

    def has_cksums(self, local: Description) -> bool:
        """Say whether the remote has it."""
        entry = self.journal.files.get(CKSUMS)
        if entry is None or not self.journal.verified:
            return False
        same = entry.sha256 == sha256(self.cksums(local))
        return same and entry.agrees(self.listing.get(CKSUMS))


def survey(
    tree: RemoteTree,
    local: Description,
    record: Journal,
    *,
    allow_rolled_back: bool = False,
    thorough: bool = True,
) -> Facts:
    """Find out what the remote has. It is not changed.

    A file is known by its journal entry (size, mtime). One that is not, as on a remote that
    somebody else filled, is read whole: samples would take one with a wrong megabyte for right.

    Args:
        tree: The remote.
        local: What the mirror describes.
        record: The journal there; what the survey learns is entered.
        allow_rolled_back: Whether to forget what a rollback took from clients.
        thorough: Whether to read such files whole. A plan that is only printed samples them.
    """
    facts = Facts(record, listing(tree, [*record.files, *local.documents]))
    if allow_rolled_back and facts.journal.rejected:
        facts.journal.rejected, facts.news = {}, True
    _reject(facts, local)
    for path, found in facts.listing.items():
        if path == CKSUMS:
            _check_replaceable(tree, found, path)
        if path.startswith("meta/") and path.endswith(".json") and "/." not in path:
            _check_replaceable(tree, found, path)
            facts.documents[path] = _document(tree, facts, local, path, found)
    _ask_for(tree, facts.named(), facts.listing)
    for path, file in local.files.items():
        if path in facts.rejected:
            continue
        try:
            facts.presence[path] = _presence(tree, facts, local.root / path, file, thorough)
        except PublishError as error:
            facts.presence[path] = Presence.MISSING
            facts.problems[path] = str(error)
    return facts


def _check_replaceable(tree: RemoteTree, found: RemoteStat, path: str) -> None:
    """Refuse a folder in the place of a file before anything is withdrawn because of it."""
    if found.kind is Kind.FOLDER:
        raise PublishError(
            f"{tree.name}/{path}",
            "is a folder, in the place of a file",
            remedy="Move it away there, and publish again",
        )


def listing(tree: RemoteTree, expected: Iterable[str]) -> dict[str, RemoteStat]:
    """Return everything in the folders of a mirror, by path.

    Args:
        tree: The remote.
        expected: Paths that are looked for by name where the folders do not list them.
    """
    every = dict(tree.list(""))
    for folder in ("meta", "rdiffs"):
        every |= {f"{folder}/{name}": stat for name, stat in tree.list(folder).items()}
    _ask_for(tree, expected, every)
    return every


def _ask_for(tree: RemoteTree, paths: Iterable[str], found: dict[str, RemoteStat]) -> None:
    """Complete a listing: a server leaves out what it cannot look at, or ends it, and says nothing.

    OpenSSH's does (``process_readdir`` in its ``sftp-server.c``).
    """
    for path in paths:
        if path not in found and (there := tree.stat(path)) is not None:
            found[path] = there


def _reject(facts: Facts, local: Description) -> None:
    """Leave out what a rollback took from clients, and say so by the documents that name it."""
    known = facts.journal.rejected
    facts.rejected = {path for path, file in local.files.items() if known.get(path) == file.sha256}
    facts.presence |= dict.fromkeys(facts.rejected, Presence.MISSING)
    for path, document in local.parsed.items():
        named = [f.path for f in metadata.described_files(document) if f.path in facts.rejected]
        whole = known.get(path) == sha256(local.documents[path])
        if named or whole:
            more = f" and {len(named) - 1} more" if len(named) > 1 else ""
            error = PublishError(
                path,
                f"names {min(named)}{more}" if named else "describes what it did",
                found="what a rollback took from clients",
                remedy="Take the bad image out of its folder or configuration and prepare again; "
                "or, if it is good after all, publish once with allow_rolled_back",
            )
            facts.problems[path] = str(error).removeprefix(f"{path}: ")


def _presence(
    tree: RemoteTree,
    facts: Facts,
    local: Path,
    file: DescribedFile,
    thorough: bool,  # noqa: FBT001
) -> Presence:
    found = facts.listing.get(file.path)
    entry = facts.journal.files.get(file.path)
    if found is None:
        check_local(local, file.size)
        return Presence.MISSING
    _check_replaceable(tree, found, file.path)
    if found.kind is not Kind.FILE or found.size != file.size:
        check_local(local, file.size)
        return Presence.WRONG
    if entry is not None and entry.agrees(found):
        if entry.sha256 == file.sha256:
            return Presence.PRESENT
        check_local(local, file.size)
        return Presence.WRONG  # the content that we put there before
    check_local(local, file.size)
    if thorough:
        logger.info("%s/%s: not as it was left there, so it is read whole", tree.name, file.path)
    ranges = every_range(file.size) if thorough else samples(file.size)
    if not same_bytes(tree, file.path, local, ranges):
        return Presence.WRONG
    facts.journal.found(file.path, file.size, file.sha256, found.mtime)
    facts.news = True
    return Presence.PRESENT


def _document(
    tree: RemoteTree, facts: Facts, local: Description, path: str, found: RemoteStat
) -> Document:
    ours = local.documents.get(path)
    entry = facts.journal.files.get(path)
    known = (
        facts.journal.verified  # else it may have been written in the very second that is known
        and ours is not None
        and entry is not None
        and entry.sha256 == sha256(ours)
    )
    content = ours if known and entry and entry.agrees(found) else read_whole(tree, path)
    if content is not None and content == ours:
        facts.current.add(path)
        if entry is None or not entry.agrees(found) or entry.sha256 != sha256(content):
            facts.journal.found(path, len(content), sha256(content), found.mtime)
            facts.news = True
        return local.parsed[path]
    try:
        return metadata.parse(content or b"{}")
    except ValueError as error:
        logger.warning("%s/%s is damaged and will be replaced: %s", tree.name, path, error)
        return {}


def make_plan(
    tree: RemoteTree,
    local: Description,
    facts: Facts,
    *,
    assemble: bool = True,
    only: Collection[str] | None = None,
) -> Plan:
    """Plan from the facts.

    Args:
        tree: The remote.
        local: What the mirror describes.
        facts: What the remote has.
        assemble: Whether images may be made there; otherwise the bytes of every file travel.
        only: The files, metadata and CKSUMS among them, that are wanted now; None for all.
    """
    left_out = facts.rejected.union(facts.problems)
    wanted = [file for path, file in local.files.items() if path not in left_out]
    named = facts.named()
    transfers = plan_transfers(
        wanted, local.recipes, facts.presence, named, can_copy=tree.can_copy and assemble
    )
    present = [f for f in wanted if facts.presence[f.path] is Presence.PRESENT]
    documents = [path for path in local.documents if path not in facts.current]
    if not facts.has_cksums(local):
        documents.append(CKSUMS)
    dropped = [path for path in facts.documents if path not in local.documents]
    ours = facts.journal.files
    kept = facts.kept(local)
    unnamed = [
        path
        for path, entry in ours.items()
        if entry.ours and path not in kept and path in facts.listing and _is_data(path)
    ]
    if only is not None:
        transfers = tuple(item for item in transfers if item.path in only)
        documents = [path for path in documents if path in only or path == CKSUMS]
        dropped, unnamed = [], []
    foreign = [path for path in facts.listing if _is_foreign(path, facts, local)]
    return Plan(
        transfers=transfers,
        present=len(present),
        present_bytes=sum(file.size for file in present),
        documents=tuple(documents),
        dropped=tuple(path for path in dropped if facts.is_ours(path)),
        prune=tuple(sorted(unnamed)),
        foreign=len(foreign),
        problems=facts.problems,
    )


def _is_foreign(path: str, facts: Facts, local: Description) -> bool:
    return path not in local.files and _is_data(path) and not facts.is_ours(path)


def _is_data(path: str) -> bool:
    name = path.rpartition("/")[2]
    return (
        not name.startswith(".")
        and path not in ("meta", "rdiffs", CKSUMS)
        and (not path.startswith("meta/"))
    )


def sha256(content: bytes) -> str:
    """Return the sha256 of a small document."""
    return hashlib.sha256(content).hexdigest()


def check_owner(tree: RemoteTree, facts: Facts, local: Description, mirror: str) -> None:
    """Refuse a remote whose clients are another mirror's, and enter this one where it has none.

    The id of a mirror may be lost with its records. So what counts is whether clients would lose
    a series: a mirror that describes all that is there may go on with it.

    Args:
        tree: The remote.
        facts: What it has.
        local: What the mirror describes.
        mirror: Its id; see ``published.mirror_id``.

    Raises:
        PublishError: That is so. Nothing was changed.
    """
    known = facts.journal.mirror
    if known == mirror:
        return
    theirs = sorted(path for path in facts.documents if facts.is_ours(path))
    lost = [path for path in theirs if path not in local.documents]
    if lost and (known or len(lost) == len(theirs)):
        names = ", ".join(path.removeprefix("meta/").removesuffix(".json") for path in lost[:5])
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        raise PublishError(
            tree.name,
            "another mirror is published there: its clients would lose their series",
            expected=f"a mirror that describes {names}{more} too",
            found=f"{local.root}, which does not",
            remedy="Publish to another folder; or, if this mirror is to take its place, publish "
            "once with allow_other_mirror",
        )
    facts.journal.mirror, facts.news = mirror, True
