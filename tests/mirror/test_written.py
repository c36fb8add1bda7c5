"""Metadata that is not as it was written is never published; a killed rewriting is no damage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from puavo_repository.errors import LockedError, PublishError
from puavo_repository.mirror import files, locks
from puavo_repository.mirror.description import publishable
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.store import FOLDER
from support.mirrors import SERIES, make_mirror

DOCUMENT = f"meta/{SERIES}.json"


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    make_mirror(tmp_path / "mirror", count=2, size=20_000)
    found = Mirror(tmp_path / "mirror")
    found.describe(found.each_document())
    return found


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (DOCUMENT, r'("sha512": "[0-9a-f]{9})[0-9a-e]', r"\1f"),
        (DOCUMENT, r'("cksum": "[0-9]{3})[0-8]', r"\g<1>9"),
        (DOCUMENT, r"https://localhost", "https://localhosu"),
        (DOCUMENT, r'"version": "2', r'"version": "3'),
        ("CKSUMS", r"^[0-8]", "9"),
    ],
)
def test_one_changed_character_is_not_published(
    mirror: Mirror, path: str, old: str, new: str
) -> None:
    before = publishable(mirror.root)
    text = (mirror.root / path).read_text()
    (mirror.root / path).write_text(re.sub(old, new, text, count=1))
    with pytest.raises(PublishError, match=f"{re.escape(path)}: is not as it was written"):
        publishable(mirror.root)
    (mirror.root / path).write_text(text)
    assert publishable(mirror.root) == before


def test_a_document_that_is_gone_or_was_added_is_not_published(mirror: Mirror) -> None:
    content = (mirror.root / DOCUMENT).read_bytes()
    (mirror.meta / "other.json").write_bytes(content)
    with pytest.raises(PublishError, match=r"other\.json: is not as"):
        publishable(mirror.root)
    (mirror.root / DOCUMENT).unlink()
    assert mirror.changed_since_written(mirror.contents()) == ["meta/other.json", DOCUMENT]
    mirror.describe(mirror.each_document())
    assert mirror.changed_since_written(mirror.contents()) == []


def test_a_rewriting_that_is_killed_anywhere_is_no_damage(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (content,) = mirror.documents().values()
    anew = {"new.json": {"new": content[SERIES]}, "more.json": {"more": content[SERIES]}}
    steps = 0

    class KilledError(Exception):
        pass

    def counted(name: str) -> None:
        real = getattr(files, name)

        def step(*arguments: object) -> object:
            nonlocal steps
            if not steps:
                raise KilledError
            steps -= 1
            return real(*arguments)

        monkeypatch.setattr(files, name, step)

    counted("write")
    counted("remove")
    # The record, two documents, what goes, the record again; CKSUMS stays as it is.
    for number in range(5):
        steps = number
        with pytest.raises(KilledError):
            mirror.describe(anew.items())
        assert mirror.changed_since_written(mirror.contents()) == []
        steps = 99
        mirror.describe([(f"{SERIES}.json", content)])
    mirror.describe(anew.items())
    assert set(mirror.contents()) == {"meta/new.json", "meta/more.json", "CKSUMS"}


def test_what_a_killed_rewriting_left_goes_with_the_next_run(mirror: Mirror) -> None:
    left, young = (mirror.state.folder / f".{name}.json.1.part" for name in ("description", "id"))
    for part in (left, young):
        part.touch()
    with mirror.locked("a test"):
        assert not left.exists()
        assert young.exists(), "who writes that has no lock of the mirror"


def test_without_a_record_nothing_is_said(mirror: Mirror) -> None:
    (mirror.root / FOLDER / "description.json").unlink()
    (mirror.root / "CKSUMS").write_text("1 1 a\n")
    assert publishable(mirror.root).cksums == b"1 1 a\n"
    (mirror.root / "CKSUMS").unlink()
    with pytest.raises(PublishError, match="CKSUMS: is missing"):
        publishable(mirror.root)


def test_a_rewriting_beside_the_publisher_is_not_taken_for_damage(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A task that makes an rdiff holds the mirror's lock shared, too, and takes the old one out of
    # the metadata: that must not come between the reading and the comparison.
    compare = Mirror.changed_since_written

    def compared(self: Mirror, contents: Mapping[str, bytes]) -> list[str]:
        with pytest.raises(LockedError), locks.locked(self.state.metadata_lock, "a rewriting"):
            pass
        return compare(self, contents)

    monkeypatch.setattr(Mirror, "changed_since_written", compared)
    assert publishable(mirror.root).files
