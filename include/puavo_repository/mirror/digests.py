"""All digests of a stream in the one pass that reads or writes it, side by side on all cores."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from puavo_repository.formats.metadata import Digests

BLOCK_SIZE = 1 << 20  # bytes; large enough that Python's part in the work vanishes
IN_USE = 5  # blocks that consumers may have at once; bounds the memory


def digest_file(path: Path, progress: Callable[[int], None]) -> Digests:
    """Read a file once, not through a link, and return its size and checksums."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb", 0) as stream, Digester() as digester:
        while block := stream.read(BLOCK_SIZE):
            digester.update(block)
            progress(len(block))
        return digester.digests()


class Digester:
    """Computes cksum, sha256 and sha512 of a stream, each in its own thread.

    The libraries drop the GIL for large blocks, so the threads run in parallel. As a context
    manager it ends them. Others may get the same blocks, such as an engine's indexer.
    """

    def __init__(self, others: Sequence[Callable[[memoryview], None]] = ()) -> None:
        # Compiled code, and slow to load: a run without news must not wait for it.
        from puavo_repository.formats.cksum import PosixCksum

        self.size = 0
        self._cksum = PosixCksum()
        self._sha256 = hashlib.sha256()
        self._sha512 = hashlib.sha512()
        consumers = [self._sha512.update, self._sha256.update, self._cksum.update, *others]
        self._threads = [(ThreadPoolExecutor(1), consumer) for consumer in consumers]
        self._pending: deque[list[Future[None]]] = deque()  # by block

    def update(self, block: bytes | memoryview) -> None:
        """Take the next bytes, or with none wait until those before are not needed any more.

        Raises what a consumer raised on an earlier block.
        """
        self.size += len(block)
        self._wait(IN_USE - 1 if block else 0)
        view = memoryview(block)
        self._pending.append([thread.submit(consumer, view) for thread, consumer in self._threads])

    def digests(self) -> Digests:
        """Wait for the consumers and return the result; nothing may follow."""
        self._wait(0)
        sha256, sha512 = self._sha256.hexdigest(), self._sha512.hexdigest()
        return Digests(self.size, str(self._cksum.value()), sha256, sha512)

    def _wait(self, left: int) -> None:
        while len(self._pending) > left:
            for future in self._pending.popleft():
                future.result()

    def __enter__(self) -> Digester:
        return self

    def __exit__(self, *_raised: object) -> None:
        for thread, _ in self._threads:
            thread.shutdown(cancel_futures=True)
