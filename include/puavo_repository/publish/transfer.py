"""One file onto the remote: resumed, sent or assembled, proven, and only then named.

What is on its way has a hidden name tied to its content and to the step that sends it
(``Transfer.part``), so no two ever write the same file. What an earlier step sent is taken over
by its name: as far as it is noted to be on the server's disk (``parts``), and no further.

A new image can be made on the server, for the bytes of its rdiff: that is COPY ranges of the old
image, which the server has, and LITERAL ranges, which lie at known offsets in the rdiff, which it
has too, for the clients. So ``copy-data`` requests (OpenSSH's ``PROTOCOL``, 4.10) put the new image
together there, over plain SFTP without a shell, and only they travel: 62 bytes a range, which
differ in so few that a compressed connection makes 11 of them.

A new file claims a name that must be free: whoever slept while another publisher took over does
not put it over that one's.
"""

import hashlib
import logging
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from puavo_repository import errors
from puavo_repository.mirror.files import Identity
from puavo_repository.progress import format_bytes
from puavo_repository.publish.plan import Transfer
from puavo_repository.publish.publisher import LockedRemote
from puavo_repository.publish.send import send
from puavo_repository.publish.survey import check_local, every_range, same_bytes, samples
from puavo_repository.remote.journal import Part, Parts
from puavo_repository.remote.tree import Kind, Piece, RemoteTree

logger = logging.getLogger(__name__)

SEAMS = 64  # how many places where two ranges meet are looked at after an assembly


def transfer(item: Transfer, remote: LockedRemote) -> tuple[bool, int | None]:
    """Bring one file to the remote; what arrived before an error is kept for the next attempt.

    Returns:
        Whether the server made it from others, and the time of the file on the server's clock;
        None while it still waits under its part name.
    """
    local = remote.publisher.mirror_dir / item.path
    check_local(local, item.size)
    # Errors of the system are those of the local file: those of the remote are ours already.
    with errors.as_storage_error(local), remote.publisher.pool.tree() as tree:
        return _Attempt(tree, item, remote).run()


def proven_part(tree: RemoteTree, parts: Parts, item: Transfer) -> str:
    """Return where a file waits for its name, proven by an earlier step; empty if it does not."""
    part = parts.known.get(item.path)
    if part is None or not part.proven or part.sha256 != item.sha256:
        return ""
    found = tree.stat(part.name)
    return part.name if found and found.is_file(item.size) else ""


def rename_into_place(tree: RemoteTree, item: Transfer, part: str) -> int:
    """Give a proven part its name, which must be free if it takes no other's; return its time."""
    if item.wrong:
        tree.rename(part, item.path)
    else:
        tree.rename_exclusive(part, item.path)
    found = tree.stat(item.path)
    if found is None or not found.is_file(item.size):
        raise errors.StorageError(f"{tree.name}/{item.path}", "was changed while it was published")
    return found.mtime


class _Attempt:
    """One attempt to bring one file to the remote."""

    def __init__(self, tree: RemoteTree, item: Transfer, remote: LockedRemote) -> None:
        self._tree = tree
        self._item = item
        self._remote = remote
        self._parts = remote.parts
        self._local = remote.publisher.mirror_dir / item.path
        self._part = item.part(remote.lock.token)

    def run(self) -> tuple[bool, int | None]:
        item, tree = self._item, self._tree
        if item.replaces and proven_part(tree, self._parts, item):
            return bool(item.rdiff), None
        there = None if item.wrong else tree.stat(item.path)
        every = every_range(item.size)
        if there and there.is_file(item.size) and same_bytes(tree, item.path, self._local, every):
            # An attempt before this one got as far, and could not say so any more.
            return bool(item.rdiff), there.mtime
        made = self._assembled()
        if not made:
            self._send()
        if item.replaces:
            whole = Part(self._part, item.sha256, item.size, proven=True)
            self._parts.put(item.path, whole)
            return made, None
        if item.wrong:
            self._remote.lock.check()  # no metadata names what lies there, or it would wait
        mtime = rename_into_place(tree, item, self._part)
        self._parts.forget([item.path])
        return made, mtime

    def _assembled(self) -> bool:
        """Have the server make the part, and prove it; else say that its bytes must travel."""
        if not self._item.rdiff:
            return False
        try:
            self._begin_anew()
            self._prove(self._assemble())
        except (errors.StorageError, errors.StorageRefusedError, errors.DeltaError) as error:
            logger.warning("%s: not assembled, uploaded instead: %s", self._item.path, error)
            return False
        return True

    def _send(self) -> None:
        """Complete the part with the local file's bytes, and prove them and it."""
        item, ended, identity = self._item, threading.Event(), Identity.at(self._local)
        digest = self._digest(ended)
        try:
            begin = self._resume_point()
            send(self._tree, item, begin, self._remote)
            try:
                self._prove([begin] if begin else [])
            except errors.StorageError:
                self._begin_anew()
                raise
            if digest.result() != item.sha256 or Identity.at(self._local) != identity:
                self._begin_anew()
                remedy = (
                    "Prepare again; if that does not help, the audit says which file is damaged"
                )
                problem = "its content is not what the metadata describes"
                raise errors.PublishError(self._local, problem, remedy=remedy)
        finally:
            ended.set()

    def _digest(self, ended: threading.Event) -> Future[str]:
        """Compute the local file's sha256 beside the transfer: a disk may forget some of it."""
        digest = Future[str]()

        def work() -> None:
            try:
                digest.set_result(_sha256(self._local, ended))
            except BaseException as error:  # noqa: BLE001 - raised again where it is asked for
                digest.set_exception(error)

        # Nobody waits for it: a dead disk may never answer a read.
        threading.Thread(target=work, name="digest", daemon=True).start()
        return digest

    def _assemble(self) -> list[int]:
        """Have the server write the part from its base and its rdiff, onto its disk.

        That the remote has the very files, the plan took from the journal (size and time). Returns
        some of the offsets at which ranges meet, where a mistake would show.
        """
        from puavo_repository.formats import rdiff  # compiled code, slow to load

        item = self._item
        local_rdiff = self._remote.publisher.mirror_dir / item.rdiff
        seams = [0]  # and where the last range ends

        def pieces() -> Iterator[Piece]:
            for is_copy, position, length in rdiff.commands(local_rdiff):
                seams.append(seams[-1] + length)
                yield Piece(item.base if is_copy else item.rdiff, position, length)

        progress = self._remote.publisher.watcher.begin(item.path, item.size)
        self._tree.assemble(self._part, pieces(), progress)
        return random.SystemRandom().sample(seams, min(SEAMS, len(seams)))

    def _resume_point(self) -> int:
        """Return how many bytes need not be sent, with what an earlier step sent in our part.

        They are noted to be on the server's disk. A part that holds anything else is removed.
        """
        item, tree, known = self._item, self._tree, self._parts.known.get(self._item.path)
        found = tree.stat(known.name) if known else None
        synced = known.synced if known else 0
        some = samples(synced, also=[synced - 1, synced // 2])
        if (
            known is None
            or found is None
            or found.kind is not Kind.FILE
            or known.sha256 != item.sha256
            or not 0 < synced <= found.size <= item.size
            or not same_bytes(tree, known.name, self._local, some)
        ):
            self._begin_anew()
            return 0
        if known.name != self._part:
            self._remote.lock.check(tree)  # another publisher may wait to give it its name
            tree.rename(known.name, self._part)
            self._parts.put(item.path, replace(known, name=self._part, proven=False))
        logger.info("%s: goes on at %s", item.path, format_bytes(synced))
        return synced

    def _begin_anew(self) -> None:
        """Remove what there is of a file that has no name yet."""
        known = self._parts.known.get(self._item.path)
        if known is not None:
            self._remote.lock.check(self._tree)
            self._tree.remove(known.name)
            self._parts.forget([self._item.path])
        self._tree.remove(self._part)

    def _prove(self, seams: Sequence[int]) -> None:
        where, size = f"{self._tree.name}/{self._part}", self._item.size
        found = self._tree.stat(self._part)
        sizes = {"expected": f"{size}", "found": f"{found.size if found else -1}"}
        if sizes["expected"] != sizes["found"]:
            raise errors.StorageError(where, "has the wrong size", **sizes)
        if not same_bytes(self._tree, self._part, self._local, samples(size, also=seams)):
            raise errors.StorageError(where, "differs from the file that was sent")


def _sha256(path: Path, ended: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while not ended.is_set() and (block := stream.read(4 << 20)):
            digest.update(block)
    return digest.hexdigest()
