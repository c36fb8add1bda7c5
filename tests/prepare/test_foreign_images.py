"""Images that are damaged anywhere: refused by name, or read like any other."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from puavo_repository.demo import make_image
from puavo_repository.errors import ImageError, StorageError
from puavo_repository.prepare.fingerprint import fingerprint
from support.foreign import changed_bytes, examples
from support.repository import V1, Repository, name


@cache
def real_image() -> bytes:
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        contents = {f"usr/share/puavo-conf/definitions/{n}.json": b'{"%d": 1}' % n for n in (1, 2)}
        make_image(Path(folder, "image"), {**contents, "bin/x": b"x" * 999}, compression="gzip")
        return Path(folder, "image").read_bytes()


@examples(0.5)
@given(st.deferred(lambda: changed_bytes(real_image().rstrip(b"\0"))))
def test_a_damaged_image_is_refused_or_read(content: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        repository = Repository(Path(folder, "repository"))
        (repository.images / name(V1)).write_bytes(content)
        try:
            record = fingerprint(repository.settings(), name(V1))
        except (ImageError, StorageError) as error:
            if name(V1) not in str(error):
                raise
            return
        assert record.digests.size == len(content)
        assert isinstance(record.puavo_conf, dict)
