"""What lies on a remote, compared with what is wanted there: the table of ``state`` is filled.

Each step begins with ``survey``, under the remote's lock, and acts on nothing older. One that is
made without the lock is for printing a plan.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from puavo_repository.errors import PublishError
from puavo_repository.formats import metadata
from puavo_repository.mirror.description import Description
from puavo_repository.publish.compare import check_local, every_range, same_bytes, samples
from puavo_repository.publish.state import (
    CKSUMS,
    FileState,
    RemoteState,
    Row,
    is_document,
    sha256,
)
from puavo_repository.remote.journal import Journal
from puavo_repository.remote.tree import Kind, RemoteStat, RemoteTree, read_whole

logger = logging.getLogger(__name__)


def survey(
    tree: RemoteTree,
    local: Description,
    journal: Journal,
    *,
    allow_rolled_back: bool = False,
    thorough: bool = True,
) -> RemoteState:
    """Find out what a remote has. It is not changed.

    A file is known by its journal entry (size, mtime). One that is not, as on a remote that
    somebody else filled, is read whole: samples would take one with a wrong megabyte for right.

    Args:
        tree: The remote.
        local: What the mirror offers.
        journal: The one there; what is learned is entered.
        allow_rolled_back: Whether to forget what a rollback took from clients.
        thorough: Whether to read such files whole. A plan that is only printed samples them.

    Raises:
        PublishError: A folder lies in the place of metadata or CKSUMS.
    """
    state = listed(tree, local, journal)
    if allow_rolled_back and journal.rejected:
        journal.rejected, state.journal_changed = {}, True
    _mark_rejected(state)
    for row in list(state.rows.values()):
        if row.found is not None and (row.path == CKSUMS or is_document(row.path)):
            _check_replaceable(tree, row)
            if row.path != CKSUMS:
                _read_document(tree, state, row)
    for path in state.published():  # by name, what the metadata names and no listing showed
        row = state.row(path)
        row.found = row.found or tree.stat(path)
    for row in state.wanted_files():
        if row.state is not FileState.REJECTED:
            try:
                _compare(tree, state, row, thorough=thorough)
            except PublishError as error:
                row.problem = str(error)
    return state


def _mark_rejected(state: RemoteState) -> None:
    """Leave out what a rollback took from clients; the documents that name it say so."""
    known = state.journal.rejected
    for row in state.wanted_files():
        if known.get(row.path) == row.sha256:
            row.state = FileState.REJECTED
    for path, document in state.local.parsed.items():
        row, files = state.rows[path], metadata.described_files(document)
        named = [f.path for f in files if state.rows[f.path].state is FileState.REJECTED]
        if named or known.get(path) == row.sha256:
            more = f" and {len(named) - 1} more" if len(named) > 1 else ""
            error = PublishError(
                path,
                f"names {min(named)}{more}" if named else "describes what it did",
                found="what a rollback took from clients",
                remedy="Take the bad image out of its folder or configuration and prepare again; "
                "or, if it is good after all, publish once with allow_rolled_back",
            )
            row.problem = str(error).removeprefix(f"{path}: ")


def _check_replaceable(tree: RemoteTree, row: Row) -> None:
    """Refuse a folder in the place of a file before anything is withdrawn because of it."""
    if row.found is not None and row.found.kind is Kind.FOLDER:
        where, remedy = f"{tree.name}/{row.path}", "Move it away there, and publish again"
        raise PublishError(where, "is a folder, in the place of a file", remedy=remedy)


def _read_document(tree: RemoteTree, state: RemoteState, row: Row) -> None:
    ours = state.local.documents.get(row.path)
    # Before it is verified, it may have been written in the very second that is known.
    known = row.is_entered_as_wanted and state.journal.verified
    content = ours if known else read_whole(tree, row.path)
    if content is not None and content == ours:
        row.state, row.document = FileState.PRESENT, state.local.parsed[row.path]
        if not row.is_entered_as_wanted:
            state.note_found(row)
        return
    if ours is not None:
        row.state = FileState.WRONG
    try:
        row.document = metadata.parse(content or b"{}")
    except ValueError as error:
        logger.warning("%s/%s is damaged and will be replaced: %s", tree.name, row.path, error)
        row.document = {}


def _compare(tree: RemoteTree, state: RemoteState, row: Row, *, thorough: bool) -> None:
    """Find the state of a wanted file; it stays missing where the local one is not as described."""
    found, local = row.found, state.local.root / row.path
    _check_replaceable(tree, row)
    if row.is_entered_as_wanted:
        row.state = FileState.PRESENT
        return
    check_local(local, row.size)
    if found is None:
        return
    row.state = FileState.WRONG
    if row.is_as_left or not found.is_file(row.size):
        return
    if thorough:
        logger.info("%s/%s: not as it was left there, so it is read whole", tree.name, row.path)
    ranges = every_range(row.size) if thorough else samples(row.size)
    if same_bytes(tree, row.path, local, ranges):
        state.note_found(row)


def check_owner(tree: RemoteTree, state: RemoteState, mirror: str) -> None:
    """Refuse a remote whose clients are another mirror's, and enter this one where it has none.

    ``mirror`` is this one's id (``published.mirror_id``), which may be lost with its records. So
    what counts is whether clients would lose a series: a mirror that describes all that is there
    may go on with it.

    Raises:
        PublishError: That is so. Nothing was changed.
    """
    known, local = state.journal.mirror, state.local
    if known == mirror:
        return
    theirs = sorted(row.path for row in state.documents() if row.is_ours)
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
    state.journal.mirror, state.journal_changed = mirror, True


def listed(tree: RemoteTree, local: Description, journal: Journal) -> RemoteState:
    """List a remote; what lies there is not compared yet."""
    found = listing(tree, [*journal.files, *local.documents])
    state = RemoteState(local, journal)
    for path in (*found, *journal.files, CKSUMS):
        state.row(path).found = found.get(path)
    for path, content in local.documents.items():
        state.want(path, len(content), sha256(content))
    for file in local.files.values():
        state.want(file.path, file.size, file.sha256)
    return state


def listing(tree: RemoteTree, expected: Iterable[str]) -> dict[str, RemoteStat]:
    """Return everything in the folders of a mirror, by path.

    A server leaves out of a listing what it cannot look at, or ends it, and says nothing:
    OpenSSH's does (``process_readdir`` in its ``sftp-server.c``). So ``expected`` paths that no
    folder lists are looked for by name.
    """
    every = dict(tree.list(""))
    for folder in ("meta", "rdiffs"):
        every |= {f"{folder}/{name}": stat for name, stat in tree.list(folder).items()}
    asked = ((path, tree.stat(path)) for path in expected if path not in every)
    return every | {path: stat for path, stat in asked if stat is not None}
