"""Each byte of an rdiff is told of once, by file, folder, package and cause."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from fleet.packing import PLAIN, between, pack, tree, whole
from puavo_repository.cli.main import main
from puavo_repository.errors import DeltaError, ImageError, SettingsError
from puavo_repository.fleet.explain import examine, images_of
from puavo_repository.fleet.explanation import VIEWS, Cause, Explanation, Item
from support.repository import V1, V2, Repository, name

NOISE = random.Random(1)
TEXTS = [NOISE.randbytes(NOISE.randrange(9000)).hex().encode() for _ in range(99)]
OLD = {f"usr/share/doc/{n:03}/readme": text for n, text in enumerate(TEXTS)}
OLD |= {f"usr/lib/{n}.so": NOISE.randbytes(300_000 + n) for n in range(3)}
OLD["var/lib/dpkg/info/docs:amd64.list"] = b"".join(b"/%s\n" % path.encode() for path in OLD)
NEW = {
    **OLD,
    "usr/lib/1.so": NOISE.randbytes(310_000),
    "usr/lib/fresh.so": NOISE.randbytes(200_000),
    "usr/share/doc/050/readme": NOISE.randbytes(5_000),
    "usr/lib/same.so": OLD["usr/lib/2.so"],
    "var/lib/dpkg/info/fresh.list": b"/.\n/lib/fresh.so\n",
}
del NEW["usr/share/doc/040/readme"]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trees")
    return tree(folder / "old", OLD), tree(folder / "new", NEW)


@pytest.fixture(scope="module")
def pair(trees: tuple[Path, Path]) -> tuple[Path, Path, Path]:
    """Return an rdiff and its images."""
    folder = trees[0].parent
    old, new = (pack(files, folder / f"{files.name}.img") for files in trees)
    return between(old, new, folder / "rdiff"), old, new


def sizes(found: Explanation, view: str = "cause") -> dict[str, int]:
    return {row.name: row.size for row in found.rows(view)}


def test_every_view_adds_up_to_the_rdiff(pair: tuple[Path, Path, Path]) -> None:
    found = examine(*pair)
    assert found.size == pair[0].stat().st_size
    for view in VIEWS:
        for share in (0.5, 0.9, 1.0):
            rows = found.rows(view, share)
            assert sum(row.size for row in rows) == found.size
            assert sum(len(row.items) for row in rows) == len(found.items)


def test_each_cause_is_the_one_that_both_unpacked_images_show(
    pair: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """An independent count: ``unsquashfs`` both, and compare."""
    for which, image in zip(("old", "new"), pair[1:], strict=True):
        command = ["unsquashfs", "-quiet", "-no-progress", "-d", str(tmp_path / which), str(image)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = examine(*pair)
    for item in filter(lambda item: item.is_file, found.items):
        before, after = (Path(f"{tmp_path}/{which}{item.name}") for which in ("old", "new"))
        if not before.exists():
            assert item.cause is Cause.NEW
        else:
            same = before.read_bytes() == after.read_bytes()
            assert item.cause is (Cause.PACKED if same else Cause.CHANGED)
    by_cause = sizes(found)
    assert by_cause["new file"] == pytest.approx(200_000, abs=1000)
    assert 313_000 <= by_cause["changed content"] < 316_000
    assert by_cause["same content, packed differently"] > 1000  # neighbours of 050 and 040
    assert by_cause["tables"] > 1000
    assert by_cause["commands of the rdiff"] > 0
    assert "/usr/lib/2.so" not in sizes(found, "file")  # it was there


@pytest.mark.parametrize("more", [(), ("-no-fragments",), ("-always-use-fragments",)])
def test_each_file_counts_for_what_it_takes_in_the_image(
    trees: tuple[Path, Path], tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Nothing is compressed, and the rdiff brings all: what a file takes is its length."""
    image = pack(trees[1], tmp_path / "image", *PLAIN, *more)
    found = examine(whole(image, tmp_path / "rdiff"), image, image)
    wanted = {f"/{path}": len(content) for path, content in NEW.items() if content}
    del wanted["/usr/lib/same.so"]  # it lies where 2.so does, and counts once
    assert {item.name: item.size for item in found.items if item.is_file} == wanted
    assert sizes(found)["commands of the rdiff"] == 4 + 5 + 1
    assert sizes(found)["padding"] == image.stat().st_size - used(image)


def used(image: Path) -> int:
    return int.from_bytes(image.read_bytes()[40:48], "little")


@pytest.mark.alike(2)
@pytest.mark.parametrize("comp", ["gzip", "lzo", "xz", "zstd", "lz4"])
def test_the_same_content_is_known_however_it_is_packed(
    trees: tuple[Path, Path], tmp_path: Path, comp: str
) -> None:
    source = pack(trees[1], tmp_path / "old.img", *PLAIN, "-b", "64K")
    for options in (("-b", "64K", "-no-fragments"), ("-b", "128K")):
        target = pack(trees[1], tmp_path / "new.img", "-comp", comp, *options)
        found = examine(whole(target, tmp_path / "rdiff"), source, target)
        causes = {item.cause for item in found.items if item.is_file}
        assert causes == {Cause.PACKED}
        assert sum(item.size for item in found.items) == found.size


def test_files_are_found_by_their_packages_and_folders(pair: tuple[Path, Path, Path]) -> None:
    found = examine(*pair)
    packages = {item.name: item.package for item in found.items}
    assert packages["/usr/lib/1.so"] == "docs"
    assert packages["/usr/lib/fresh.so"] == "fresh"  # which names it by the link /lib
    assert {"/usr/lib", "/usr/share/doc", "(tables)"} <= sizes(found, "folder").keys()
    assert Item("/a/b/c/d/e", 1, Cause.NEW).folder == "/a/b/c"
    assert Item("/a", 1, Cause.NEW).folder == "/"


def test_what_does_not_belong_together_is_refused(
    pair: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    rdiff, old, new = pair
    with pytest.raises(DeltaError, match="not for this target"):
        examine(rdiff, old, old)
    with pytest.raises(DeltaError, match="not an rdiff"):
        examine(new, old, new)
    largest = b"\x54" + bytes(8) + ((1 << 62) - 1).to_bytes(8, "big")  # a copy of so many bytes
    around = whole(new, tmp_path / "around").read_bytes()[:-1] + 4 * largest + b"\x45\0\x04\0"
    (tmp_path / "around").write_bytes(around)  # 2**64 bytes more than the target
    with pytest.raises(DeltaError, match="not for this target"):
        examine(tmp_path / "around", old, new)
    (tmp_path / "short").write_bytes(new.read_bytes()[:9000])
    for other in (rdiff, tmp_path / "short"):
        with pytest.raises(ImageError, match=other.name):
            examine(rdiff, old, other)


def test_the_command_explains_an_rdiff_by_its_mirror(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in (V1, V2):
        repository.add(name(version))
    repository.prepare()
    rdiff = next(path for path in (repository.mirror / "rdiffs").iterdir() if V2 in path.stem[-28:])
    assert images_of(rdiff) == (repository.mirror / name(V1), repository.mirror / name(V2))
    assert main(["explain", "--json", str(rdiff)]) == 0
    by_mirror = json.loads(capsys.readouterr().out)
    assert by_mirror["size"] == rdiff.stat().st_size
    assert sum(row["size"] for row in by_mirror["by"]["file"]) == by_mirror["size"]
    assert main(["explain", *(str(repository.images / name(v)) for v in (V1, V2))]) == 0
    shown = capsys.readouterr().out
    assert f"{by_mirror['size']:,} bytes" in shown
    assert "/usr/lib/own.bin" in shown
    assert main(["explain", str(repository.images), str(repository.mirror)]) == 2
    assert f"{repository.images}: this is a folder" in capsys.readouterr().err
    (repository.mirror / name(V1)).unlink()
    with pytest.raises(SettingsError, match=rf"no .*{V1}.*explain RDIFF OLD NEW"):
        images_of(rdiff)
