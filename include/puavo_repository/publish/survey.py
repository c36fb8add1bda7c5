"""What lies on a remote, compared with what is wanted there: the table of ``plan`` is filled.

Each step begins with ``survey``, under the remote's lock, and acts on nothing older. Below it are
the ways to tell a remote file from another by reading some of it back, or all.
"""

import hashlib
import logging
import os
import random
from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path

from puavo_repository.errors import PublishError, as_storage_error
from puavo_repository.formats import metadata
from puavo_repository.mirror.description import Description
from puavo_repository.mirror.records import mirror_id
from puavo_repository.progress import Progress, no_progress
from puavo_repository.publish.plan import (
    CKSUMS,
    FileState,
    RemoteState,
    Row,
    is_document,
    is_meta,
    sha256,
)
from puavo_repository.remote.documents import read_whole
from puavo_repository.remote.journal import Journal, load_generation
from puavo_repository.remote.tree import Kind, Range, RemoteStat, RemoteTree
from puavo_repository.settings import once
from puavo_repository.settings.model import Model

logger = logging.getLogger(__name__)

SAMPLE = 4 << 10  # bytes of one sampled range
EDGE = 64 << 10  # bytes compared at both ends
STRIDE = 16 << 20  # one sample in each stretch of this size
MOST_SAMPLES = 256
WHOLE = 1 << 20  # a file up to this size is compared whole
BLOCK = 1 << 20  # bytes of one range when everything is compared


def survey(
    tree: RemoteTree, local: Description, journal: Journal, options: Model, *, acts: bool = True
) -> RemoteState:
    """Find out what a remote has. It is not changed; what is learned is entered in the journal.

    A file is known by its journal entry (size, mtime). One that is not, as on a remote that
    somebody else filled, is read whole: samples would take one with a wrong megabyte for right.
    They do where nobody ``acts`` on the plan: it is only printed.
    """
    state = listed(tree, local, journal)
    if options.allow_rolled_back and journal.rejected:
        journal.rejected, state.journal_changed = {}, True
    _mark_rejected(state)
    for row in list(state.rows.values()):
        if row.found is not None and (row.path == CKSUMS or is_document(row.path)):
            _check_replaceable(tree, row)
            if row.path != CKSUMS:
                _read_document(tree, state, row)
    _know_as_ours(tree, state)
    forget_gone(state, journal.files)
    for path in state.published():  # by name, what the metadata names and no listing showed
        row = state.row(path)
        row.found = row.found or tree.stat(path)
    for row in state.wanted_files():
        try:
            _compare(tree, state, row, thorough=acts)
        except PublishError as error:
            row.problem = str(error)
    mirror = mirror_id(local.root, make=acts)
    if journal.mirror != mirror:
        if not options.allow_other_mirror:
            _check_owner(tree, state)
        journal.mirror, state.journal_changed = mirror, True
    return state


def _mark_rejected(state: RemoteState) -> None:
    """Leave out what a rollback took from clients; the documents that name it say so."""
    known = state.journal.rejected
    for row in state.wanted_files():
        if known.get(row.path) == row.sha256:
            row.state = FileState.REJECTED
    for path, files in state.local.named.items():
        row = state.rows[path]
        named = [f.path for f in files if state.rows[f.path].state is FileState.REJECTED]
        if named or known.get(path) == row.sha256:
            more = f" and {len(named) - 1} more" if len(named) > 1 else ""
            what = f"names {min(named)}{more}" if named else "describes what it did"
            row.problem = (
                f"{what} (found what a rollback took from clients). Take the bad image out of its "
                "folder or configuration and prepare again; or, if it is good after all, publish "
                f"{once('allow_rolled_back')}"
            )


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
        row.state, row.content, row.names = FileState.PRESENT, ours, state.local.named[row.path]
        if not row.is_entered_as_wanted:
            state.note_found(row)
        return
    if ours is not None:
        row.state = FileState.WRONG
    row.content = content or b"{}"
    try:
        row.names = list(metadata.described_files(metadata.parse(row.content)))
    except ValueError as error:
        logger.warning("%s/%s is damaged and will be replaced: %s", tree.name, row.path, error)


def _know_as_ours(tree: RemoteTree, state: RemoteState) -> None:
    """Enter metadata that we put there where the journal does not say so.

    Whoever wrote it may have ended before that was written, and its record of the generation was.
    """
    unknown = [row for row in state.documents() if not row.is_ours]
    last = load_generation(tree, state.journal.generation) if unknown else None
    written = {path: last.written.get(path) for path in last.replaced} if last else {}
    for row in unknown:
        content = row.content or b""
        if row.found and row.path in written and written[row.path] == sha256(content):
            state.journal.placed(row.path, len(content), sha256(content), row.found.mtime)
            state.journal_changed = True


def forget_gone(state: RemoteState, paths: Iterable[str]) -> None:
    """Take out of the journal what is not there, not wanted and not named by the metadata there.

    Whoever removed it ended before the journal said so. A file that was only meant to be sent
    stays: who was to send it may still sleep, so it is given up when its grace is over (``clean``).
    """
    named, files = {CKSUMS, *state.published()}, state.journal.files
    for path in list(paths):
        row = state.row(path)
        was_there = row.entry is not None and (row.entry.mtime is not None or is_meta(path))
        if was_there and not (row.found or row.sha256 or path in named):
            del files[path]
            state.journal_changed = True


def _compare(tree: RemoteTree, state: RemoteState, row: Row, *, thorough: bool) -> None:
    """Find the state of a wanted file; it stays missing where the local one is not as described."""
    if row.state is FileState.REJECTED:
        return
    found, local = row.found, state.local.root / row.path
    _check_replaceable(tree, row)
    if row.is_entered_as_wanted:
        row.state = FileState.PRESENT
        return
    check_local(local, row.size)
    if found is not None:
        row.state = FileState.WRONG
        if found.is_file(row.size) and not row.is_as_left:
            if thorough:
                where = f"{tree.name}/{row.path}"
                logger.info("%s: not as it was left there, so it is read whole", where)
            if same_bytes(tree, row.path, local, (every_range if thorough else samples)(row.size)):
                state.note_found(row)


def _check_owner(tree: RemoteTree, state: RemoteState) -> None:
    """Refuse a remote whose clients are another mirror's.

    The id of this one may be lost with its records. So what counts is whether clients would lose
    a series: a mirror that describes all that is there may go on with it.
    """
    theirs = sorted(row.path for row in state.documents() if row.is_ours)
    lost = [path for path in theirs if path not in state.local.documents]
    if lost and (state.journal.mirror or len(lost) == len(theirs)):
        names = ", ".join(path.removeprefix("meta/").removesuffix(".json") for path in lost[:5])
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        raise PublishError(
            tree.name,
            "another mirror is published there: its clients would lose their series",
            expected=f"a mirror that describes {names}{more} too",
            found=f"{state.local.root}, which does not",
            remedy="Publish to another folder; or, if this mirror is to take its place, publish "
            f"{once('allow_other_mirror')}",
        )


def listed(tree: RemoteTree, local: Description, journal: Journal) -> RemoteState:
    """List a remote; what lies there is not compared yet."""
    found = listing(tree, [*journal.files, *local.documents])
    state = RemoteState(local, journal)
    for path in (*local.files, *journal.files, *found, CKSUMS):  # one text for each path is kept
        state.row(path).found = found.get(path)
    wanted = {path: (len(text), sha256(text)) for path, text in local.documents.items()}
    wanted |= {path: (file.size, file.sha256) for path, file in local.files.items()}
    for path, (size, digest) in wanted.items():
        row = state.row(path)
        row.size, row.sha256, row.state = size, digest, FileState.MISSING
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


def check_local(path: Path, size: int) -> None:
    """Raise ``PublishError`` where a local file is not there with its size."""
    with as_storage_error(path):
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            found = -1
    if found != size:
        problem, there = "is not the file that the metadata describes", f"{found} bytes"
        sizes = {"expected": f"{size} bytes", "found": there if found >= 0 else "no file"}
        raise PublishError(path, problem, **sizes, remedy="Prepare the mirror again")


def samples(size: int, also: Iterable[int] = ()) -> list[Range]:
    """Choose ranges by which a file is told from another: both ends, random ones between.

    ``size`` is that of the file; ``also`` are offsets around which to look, such as seams.
    """
    if size <= WHOLE:
        return [Range(0, size)] if size else []
    stride = max(STRIDE, size // MOST_SAMPLES)
    chance = random.SystemRandom()
    inner = (min(size - SAMPLE, at + chance.randrange(stride)) for at in range(0, size, stride))
    around = (min(max(0, at - SAMPLE // 2), size - SAMPLE) for at in also)
    ends = (Range(0, EDGE), Range(size - EDGE, EDGE))
    return [*ends, *(Range(at, SAMPLE) for at in sorted({*inner, *around}))]


def every_range(size: int) -> Iterator[Range]:
    """Cut a file into ranges that cover it; one by one, since a server may lie about its size."""
    return (Range(at, min(BLOCK, size - at)) for at in range(0, size, BLOCK))


def same_bytes(tree: RemoteTree, path: str, local: Path, ranges: Iterable[Range]) -> bool:
    """Say whether a remote file has the local one's bytes in some ranges."""
    with as_storage_error(local), local.open("rb", buffering=0) as stream:
        asked, wanted = tee(ranges)
        here = (os.pread(stream.fileno(), r.length, r.offset) for r in wanted)
        return all(a == b for a, b in zip(tree.read(path, asked), here, strict=True))


def sha256_of(tree: RemoteTree, path: str, size: int, progress: Progress = no_progress) -> str:
    """Read a remote file whole and return its sha256."""
    digest = hashlib.sha256()
    for block in tree.read(path, every_range(size)):
        if not block:
            break  # it ends here, whatever size its server says that it has
        digest.update(block)
        progress(len(block))
    return digest.hexdigest()
