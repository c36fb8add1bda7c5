"""What is remembered of a remote is what its clients are told, whatever is described here."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from puavo_repository.formats.metadata import Digests
from puavo_repository.mirror import published
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.published import Published
from puavo_repository.mirror.records import ImageRecord, RdiffRecord

WWW = "sftp://mirror@www/srv/mirror"
SERIES = "meta/puavo-os-x-y-z.json"


def test_what_was_published_is_kept_as_it_was_given(tmp_path: Path) -> None:
    left = published.remember(tmp_path, WWW, 4, files={"a.img": "aa"}, problems={})
    assert published.known(tmp_path, WWW) == left
    assert (left.address, left.generation, dict(left.files)) == (WWW, 4, {"a.img": "aa"})
    assert left.reached
    assert left.changed == left.verified == left.checked is not None
    assert left.restored is None


def test_records_of_other_versions_are_read(tmp_path: Path) -> None:
    left = published.remember(tmp_path, WWW, 4, files={}, problems={}, free=5)
    values = left.to_dict()
    assert Published.from_dict(left.name, {**values, "newer": {"a": 1}}) == left
    del values["free"]
    assert Published.from_dict(left.name, values).free == {}


def test_what_was_free_there_is_kept_by_day(tmp_path: Path) -> None:
    published.remember(tmp_path, WWW, 4, files={}, problems={}, free=7)
    published.remember(tmp_path, WWW, 4, files={}, problems={}, free=5)
    lost = published.remember(tmp_path, WWW, 0, files=None, problems={"connecting": "no answer"})
    assert list(lost.free.values()) == [5], "the last look of the day, and none where none was"
    silent = published.remember(tmp_path, WWW, 5, files={}, problems={})
    assert silent.free == lost.free, "a server that does not tell"


def test_what_a_killed_publisher_left_beside_its_record_goes_when_nobody_writes_it(
    tmp_path: Path,
) -> None:
    """Publishing takes no lock of the mirror, so what is young may be on its way."""
    published.remember(tmp_path, WWW, 4, files={}, problems={})
    folder = Mirror(tmp_path).state.remotes.folder
    old, young = (folder / f".{name}.json.0123abcd.part" for name in ("old", "young"))
    for part in (old, young):
        part.touch()
    os.utime(old, (0, time.time() - 2 * 3600))
    with Mirror(tmp_path).locked("a test"):
        pass
    assert (old.exists(), young.exists()) == (False, True)


def test_a_remote_with_problems_is_not_verified_but_its_files_are_known(tmp_path: Path) -> None:
    first = published.remember(tmp_path, WWW, 4, files={"a.img": "aa"}, problems={})
    later = published.remember(
        tmp_path, WWW, 5, files={"b.img": "bb"}, problems={SERIES: "waits for c.img"}
    )
    assert dict(later.files) == {"b.img": "bb"}
    assert later.verified == first.verified
    assert first.changed is not None
    assert later.changed is not None
    assert later.changed > first.changed
    assert later.problems == {SERIES: "waits for c.img"}


def test_what_cannot_be_reached_keeps_what_was_known_of_it(tmp_path: Path) -> None:
    first = published.remember(tmp_path, WWW, 4, files={"a.img": "aa"}, problems={}, restored=2)
    lost = published.remember(tmp_path, WWW, 0, files=None, problems={"connecting": "no answer"})
    assert not lost.reached
    assert (lost.generation, lost.files, lost.restored) == (4, first.files, 2)
    assert (lost.changed, lost.verified, lost.checked) == (
        first.changed,
        first.verified,
        first.checked,
    )
    assert lost.problems == {"connecting": "no answer"}


def test_a_rollback_is_known_until_clients_see_something_else(tmp_path: Path) -> None:
    back = published.remember(
        tmp_path, WWW, 5, files={"a.img": "aa"}, problems={}, restored=3, series=2
    )
    assert (back.restored, back.series) == (3, 2)
    same = published.remember(tmp_path, WWW, 5, files={"a.img": "aa"}, problems={SERIES: "waits"})
    assert same.changed == back.changed
    assert (same.restored, same.series) == (3, 2), (
        "a night that published nothing leaves it as it is"
    )
    new = published.remember(tmp_path, WWW, 6, files={"a.img": "aa", "b.img": "bb"}, problems={})
    assert (new.restored, new.series) == (None, 0)


def test_a_record_of_before_is_still_read() -> None:
    old = {"generation": 7, "changed": 5.0, "verified": 6.0, "files": {"a": "b"}, "problems": {}}
    found = Published.from_dict("www", old)
    assert (found.generation, found.verified, found.checked) == (7, 6.0, 6.0)
    assert found.reached
    assert found.restored is None
    assert Published.from_dict("www", found.to_dict()) == found


def test_a_record_whose_identity_ends_with_the_inode_is_still_read() -> None:
    old = {"source": "a", "target": "b", "identity": [7, 8, 4711], "engine": "anchors"}
    digests: dict[str, Any] = {"size": 7, "cksum": "1", "sha256": "2", "sha512": "3"}
    found = RdiffRecord.from_dict("x.rdiff", {**digests, **old})
    assert (found.identity, found.digests, found.made) == (Identity(7, 8), Digests(**digests), 0.0)
    assert list(found.to_dict()) == [*digests, *old, "made"]


def test_an_image_s_record_is_read_as_it_was_kept(tmp_path: Path) -> None:
    images = Mirror(tmp_path).state.images
    digests = Digests(7, "1", "2", "3")
    kept = ImageRecord("x.img", Identity(7, 8), digests, {"a": {"b": [1]}}, Identity(7, 9), 1.5)
    images.put(kept)
    assert images.get("x.img") == kept
    assert list(kept.to_dict()) == ["puavo-conf", *digests.to_dict(), "identity", "copy", "read"]
