"""Both kinds of remote tree keep the same promises."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puavo_repository.errors import LockedError, StorageError, StorageRefusedError
from puavo_repository.mirror import files
from puavo_repository.progress import no_progress
from puavo_repository.remote import folder
from puavo_repository.remote.documents import LARGEST_DOCUMENT, read_whole, write_whole
from puavo_repository.remote.folder import FolderTree
from puavo_repository.remote.sftp.tree import SftpTree
from puavo_repository.remote.target import Target
from puavo_repository.remote.tree import Kind, OpenMode, Piece, Range, RemoteStat, RemoteTree
from support.instead import instead
from support.servers import Sshd, running

ROOT_NAME = "tree with spaces and ä%20"


@pytest.fixture(params=["folder", "sftp"])
def tree(request: pytest.FixtureRequest, tmp_path: Path, sshd: Sshd) -> Iterator[RemoteTree]:
    root = tmp_path / ROOT_NAME
    root.mkdir()
    target = Target(path=str(root)) if request.param == "folder" else sshd.target(root)
    opened: RemoteTree = SftpTree(target) if target.host else FolderTree(target)
    yield opened
    opened.close()


@pytest.fixture
def root(tmp_path: Path, tree: RemoteTree) -> Path:
    return tmp_path / ROOT_NAME


def test_what_is_written_is_there_and_listed(tree: RemoteTree, root: Path) -> None:
    tree.make_folder("a ö")
    tree.make_folder("a ö")
    data = os.urandom(700_000)
    acknowledged: list[int] = []
    with tree.open("a ö/file", OpenMode.CREATE) as file:
        file.write(100, data[100:], acknowledged.append)
        file.write(0, data[:100], acknowledged.append)
        file.sync()
    assert (root / "a ö/file").read_bytes() == data
    assert sum(acknowledged) == len(data)
    found = tree.list("a ö")["file"]
    assert (found.kind, found.size) == (Kind.FILE, len(data))
    assert found == tree.stat("a ö/file")
    assert tree.stat("a ö/none") is None
    assert tree.list("none") == {}
    assert tree.sent >= len(data)


def test_of_two_that_want_a_name_one_gets_it(tree: RemoteTree, root: Path) -> None:
    for name in ("first", "second"):
        (root / name).write_text(name)
    tree.rename_exclusive("first", "goal")
    with pytest.raises((StorageError, StorageRefusedError)):
        tree.rename_exclusive("second", "goal")
    with pytest.raises((StorageError, StorageRefusedError)):
        tree.open("goal", OpenMode.CREATE)
    there = {path.name: path.read_text() for path in root.iterdir()}
    assert there == {"goal": "first", "second": "second"}
    tree.rename("second", "goal")
    assert {path.name: path.read_text() for path in root.iterdir()} == {"goal": "second"}


def test_who_lost_the_lock_spoils_no_document_of_who_has_it(tree: RemoteTree, root: Path) -> None:
    def lost() -> None:
        raise LockedError("lock", "lost")

    def meanwhile() -> None:  # one that was asleep goes on with the same document
        with pytest.raises(LockedError):
            write_whole(tree, "document", b"of another night", lost)

    write_whole(tree, "document", b"right", meanwhile)
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {"document": b"right"}


def test_what_goes_while_a_folder_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("going", "staying"):
        (tmp_path / name).write_bytes(b"x")

    def scanned(path: Path) -> nullcontext[list[os.DirEntry[str]]]:
        with os.scandir(path) as entries:
            found = list(entries)
        (tmp_path / "going").unlink()
        return nullcontext(found)

    instead(monkeypatch, folder, os, scandir=scanned)
    with closing(FolderTree(Target(path=str(tmp_path)))) as tree:
        assert [*tree.list("")] == ["staying"]


def test_ranges_come_back_in_order_and_short_at_the_end(tree: RemoteTree, root: Path) -> None:
    data = os.urandom(1_200_000)
    (root / "file").write_bytes(data)
    ranges = [Range(0, 10), Range(5, 1_000_000), Range(1_199_990, 100), Range(2_000_000, 5)]
    ranges += [Range(n, 3) for n in range(100)]
    assert list(tree.read("file", ranges)) == [data[r.offset : r.offset + r.length] for r in ranges]


@given(
    pieces=st.lists(
        st.tuples(st.integers(0, 9_000), st.integers(1, 1_000), st.integers(0, 20_000)), max_size=40
    )
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_copies_equal_local_ones(
    tree: RemoteTree, root: Path, pieces: list[tuple[int, int, int]]
) -> None:
    source = bytes(range(250)) * 40
    (root / "source").write_bytes(source)
    (root / "goal").unlink(missing_ok=True)
    expected = bytearray()
    with tree.open("source", OpenMode.READ) as old, tree.open("goal", OpenMode.CREATE) as new:
        for start, length, offset in pieces:
            new.copy(old, Range(start, length), offset, no_progress)
            expected.extend(bytes(max(0, offset + length - len(expected))))
            expected[offset : offset + length] = source[start : start + length]
    assert (root / "goal").read_bytes() == bytes(expected)


@given(
    pieces=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 9_000), st.integers(0, 1_000)), max_size=40
    )
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_is_assembled_from_others(
    tree: RemoteTree, root: Path, pieces: list[tuple[str, int, int]]
) -> None:
    sources = {"a": os.urandom(10_000), "b": os.urandom(10_000)}
    for path, content in sources.items():
        (root / path).write_bytes(content)
    (root / "goal").unlink(missing_ok=True)
    acknowledged: list[int] = []
    tree.assemble("goal", (Piece(*piece) for piece in pieces), acknowledged.append)
    expected = b"".join(sources[path][at : at + length] for path, at, length in pieces)
    assert (root / "goal").read_bytes() == expected
    assert sum(acknowledged) == len(expected)


def test_a_server_that_does_not_copy_says_so(tree: RemoteTree, root: Path) -> None:
    (root / "a").touch()
    tree.can_copy = False
    with pytest.raises(StorageRefusedError, match="does not copy"):
        tree.assemble("goal", [Piece("a", 0, 0)])
    assert os.listdir(root) == ["a"]


def test_rename_takes_the_place_of_the_old_file(tree: RemoteTree, root: Path) -> None:
    write_whole(tree, "file", b"old")
    with (root / "file").open("rb") as reader:
        write_whole(tree, "file", b"new")
        assert reader.read() == b"old", "a reader under way keeps what it had opened"
    assert read_whole(tree, "file") == b"new"
    assert read_whole(tree, "none") is None
    assert sorted(path.name for path in root.iterdir()) == ["file"]


def test_names_in_a_local_folder_are_put_on_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        os.fsync(descriptor)

    for module in (folder, files):
        instead(monkeypatch, module, os, fsync=note)
    tree = FolderTree(Target(path=str(tmp_path)))
    tree.make_folder("meta")
    write_whole(tree, "meta/f", b"x")
    root = str(tmp_path.resolve())
    assert (synced[0], synced[2]) == (root, f"{root}/meta")
    assert re.fullmatch(rf"{root}/meta/\.f\.[0-9a-f]{{16}}\.part", synced[1])


def test_create_refuses_what_is_there_and_change_what_is_not(tree: RemoteTree, root: Path) -> None:
    (root / "file").write_bytes(b"x")
    with pytest.raises((StorageError, StorageRefusedError)):
        tree.open("file", OpenMode.CREATE)
    tree.open("file", OpenMode.CHANGE).close()
    assert (root / "file").read_bytes() == b"x"
    tree.remove("file")
    with pytest.raises((StorageError, StorageRefusedError)):
        tree.open("file", OpenMode.CHANGE)
    tree.remove("file")
    assert tree.list("") == {}


def test_links_are_never_followed(tree: RemoteTree, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep/empty").mkdir(parents=True)
    (outside / "deep/file").touch()
    (outside / "precious").write_bytes(b"precious")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "precious")
    found = tree.stat("file")
    assert found is not None
    assert found.kind is Kind.LINK
    for refused in (
        lambda: tree.open("file", OpenMode.CHANGE),
        lambda: tree.open("folder/precious", OpenMode.CHANGE),
        lambda: tree.remove("folder/precious"),
        lambda: tree.list("folder"),
        lambda: tree.make_folder("folder"),
        lambda: tree.stat("folder/precious"),
        lambda: list(tree.read("folder/deep/file", [Range(0, 1)])),
        lambda: tree.list("folder/deep"),
        lambda: tree.make_folder("folder/deep"),
        lambda: tree.remove("folder/deep/file"),
        lambda: tree.remove_folder("folder/deep/empty"),
        lambda: tree.open("folder/deep/new", OpenMode.CREATE),
        lambda: tree.rename("file", "folder/precious"),
    ):
        with pytest.raises(StorageRefusedError, match="link"):
            refused()
    tree.remove("file")
    assert sorted(path.name for path in outside.rglob("*")) == ["deep", "empty", "file", "precious"]
    assert (outside / "precious").read_bytes() == b"precious"


def test_a_link_that_is_put_there_meanwhile_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").symlink_to(tmp_path / "precious")
    tree = FolderTree(Target(path=str(tmp_path / "tree")))
    monkeypatch.setattr(tree, "_stat", lambda _path: RemoteStat(Kind.FILE, 8, 0))
    for mode in (OpenMode.READ, OpenMode.CHANGE):
        with pytest.raises(StorageRefusedError, match="link"):
            tree.open("file", mode)


def test_a_missing_root_is_named(tmp_path: Path, sshd: Sshd) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(StorageRefusedError, match=r"no such folder.*Create it"):
        SftpTree(sshd.target(missing))
    with pytest.raises(StorageRefusedError, match=r"no such folder.*Create it"):
        FolderTree(Target(path=str(missing)))


def test_an_empty_folder_is_removed_and_no_other(tree: RemoteTree, root: Path) -> None:
    tree.remove_folder("gone")
    tree.remove_folder("gone/too")
    tree.make_folder("a")
    tree.make_folder("a/b")
    write_whole(tree, "a/b/file", b"x")
    tree.remove_folder("a/b")
    assert (root / "a/b/file").exists()
    tree.remove("a/b/file")
    tree.remove_folder("a/b")
    assert not (root / "a/b").exists()
    with pytest.raises(StorageRefusedError, match="no such folder"):
        tree.open("a/b/file", OpenMode.CREATE)
    tree.make_folder("a/b")
    (root / "a/b").rmdir()  # as another connection would
    tree.make_folder("a/b")
    assert (root / "a/b").is_dir()
    for other, make in (("file", Path.touch), ("link", lambda path: path.symlink_to(root / "a"))):
        make(root / other)
        with pytest.raises(StorageRefusedError, match="where a folder should be"):
            tree.remove_folder(other)


def test_a_folder_that_may_not_be_removed_is_named(tree: RemoteTree, root: Path) -> None:
    (root / "mounted").mkdir()
    with tempfile.TemporaryDirectory() as other:
        command = ["mount", "--bind", other, str(root / "mounted")]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("only root can mount")
        try:
            with pytest.raises((StorageError, StorageRefusedError), match="mounted"):
                tree.remove_folder("mounted")
        finally:
            subprocess.run(["umount", str(root / "mounted")], check=True)


def test_a_tree_knows_where_it_is(tmp_path: Path, sshd: Sshd) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    folder = FolderTree(Target(path=str(tmp_path / "link")))
    assert folder.local_path == (tmp_path / "real").resolve()
    remote = SftpTree(sshd.target(tmp_path / "link"))
    assert remote.root == folder.root == str(folder.local_path)
    assert remote.local_path is None
    remote.close()


def test_free_space_is_that_of_the_file_system(tree: RemoteTree, root: Path) -> None:
    space = os.statvfs(root)
    free = tree.free_space()
    assert free is not None
    assert abs(free - space.f_bavail * space.f_frsize) < 1 << 30


@pytest.mark.parametrize("umask", [0o000, 0o077])
@pytest.mark.parametrize("kind", ["folder", "sftp"])
def test_everybody_may_read_what_is_made_and_nobody_else_write_it(
    tmp_path: Path, kind: str, umask: int
) -> None:
    """A server's umask, or ours, neither opens it nor keeps a web server away."""
    root = tmp_path / "remote"
    root.mkdir()
    root.chmod(0o755)
    (root / ".left.part").touch()
    (root / ".left.part").chmod(0o600)
    before = os.umask(umask)
    try:
        with running(Sshd(tmp_path / "sshd", sftp=f"internal-sftp -u {umask:03o}")) as server:
            folder = Target(path=str(root))
            tree = FolderTree(folder) if kind == "folder" else SftpTree(server.target(folder.path))
            tree.make_folder("meta")
            write_whole(tree, "meta/f", b"new")
            with tree.open(".left.part", OpenMode.CHANGE) as file:
                file.write(0, b"more")
            tree.close()
    finally:
        os.umask(before)
    modes = {str(p.relative_to(root)): stat.S_IMODE(p.stat().st_mode) for p in root.rglob("*")}
    assert modes == {"meta": 0o755, "meta/f": 0o644, ".left.part": 0o644}


def test_a_document_that_is_too_large_is_not_read(tree: RemoteTree, root: Path) -> None:
    (root / "large").touch()
    os.truncate(root / "large", LARGEST_DOCUMENT + 1)
    assert read_whole(tree, "large") is None


def test_what_is_assembled_is_put_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    instead(monkeypatch, folder, os, fsync=synced.append)
    (tmp_path / "source").write_bytes(b"source")
    FolderTree(Target(path=str(tmp_path))).assemble("goal", [Piece("source", 0, 6)])
    assert len(synced) == 1
