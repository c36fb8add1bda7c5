from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from puavo_repository.mirror.digests import BLOCK_SIZE, Digester, digest_file


def test_every_consumer_gets_every_block_in_order(tmp_path: Path) -> None:
    content = bytes(range(256)) * (BLOCK_SIZE // 100)
    (tmp_path / "f").write_bytes(content)
    seen = bytearray()
    with Digester([seen.extend]) as digester:
        for start in range(0, len(content), 100_000):
            digester.update(content[start : start + 100_000])
        digests = digester.digests()
    assert bytes(seen) == content
    assert digests == digest_file(tmp_path / "f", lambda _done: None)
    assert digests.sha512 == hashlib.sha512(content).hexdigest()


def test_what_a_consumer_raises_is_raised_and_no_thread_stays() -> None:
    before = threading.active_count()

    def fail(_block: memoryview) -> None:
        raise ZeroDivisionError

    def digest() -> None:
        with Digester([fail]) as digester:
            digester.update(b"x")
            digester.digests()

    with pytest.raises(ZeroDivisionError):
        digest()
    assert threading.active_count() == before
