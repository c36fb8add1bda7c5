"""Compiled code: in bounded memory, and on machines where it cannot be kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from llvmlite import binding as llvm
from numba.core import codegen

import puavo_repository
from delta.pairs import noise
from puavo_repository import compiled

_MEASURE = """
import re, sys, threading
from pathlib import Path
from puavo_repository.delta import AnchorEngine

from puavo_repository.delta.engine import Side

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

most, total = 0, 0
def look(block):
    global most, total
    total += len(block)
    most = max(most, anonymous())

small = Side(Path(sys.argv[0]))
AnchorEngine().delta(small, small, look)
for name in ("target", "source"):
    AnchorEngine(threads=2).delta(Side(Path("source")), Side(Path(name)), look)
print(most, total)
"""

_PROVE = """
from pathlib import Path
from puavo_repository import compiled
from puavo_repository.delta.work import prove
assert not compiled._CACHE, compiled._CACHE
prove(Path("source"), Path("target"), Path("rdiff"))
"""


def test_the_memory_of_a_pair_is_within_its_budget(tmp_path: Path) -> None:
    size = 256 << 20
    (tmp_path / "source").write_bytes(noise(1, size))
    (tmp_path / "target").write_bytes(noise(2, size // 2) + noise(1, size // 2))
    (tmp_path / "script").write_text(_MEASURE)
    done = subprocess.run(
        [sys.executable, "script"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(puavo_repository.__file__).parent.parent)},
        capture_output=True,
        check=True,
        timeout=120,
    )
    most, total = (int(word) for word in done.stdout.split())
    assert total > size // 2
    assert most < 200e6


def test_without_a_writable_cache_folder_it_still_works(tmp_path: Path) -> None:
    package = tmp_path / "include" / "puavo_repository"
    original = Path(puavo_repository.__file__).parent
    shutil.copytree(original, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__pycache__").write_text("no folder can be made here, not even by root")
    data = noise(1, 100_000)
    (tmp_path / "source").write_bytes(data)
    (tmp_path / "target").write_bytes(data[50_000:])
    (tmp_path / "rdiff").write_bytes(bytes.fromhex("72730236 4a c350 c350 00"))
    done = subprocess.run(
        [sys.executable, "-c", _PROVE],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(package.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/dev/null",
            "NUMBA_CACHE_DIR": "/dev/null/cache",
        },
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def commands_of(rdiff: Path, kept: Path, *before: str) -> dict[str, int]:
    """Read an rdiff with compiled code; return what of that is kept, and its size."""
    code = "import pathlib; from puavo_repository.formats.rdiff import commands; "
    code += f"assert len(list(commands(pathlib.Path({str(rdiff)!r})))) == 1"
    include = str(Path(puavo_repository.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": include, "NUMBA_CACHE_DIR": str(kept)}
    command = [*before, sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return {path.name: path.stat().st_size for path in kept.rglob("*.nb?")}


def test_kept_code_that_a_power_cut_left_half_is_compiled_anew(tmp_path: Path) -> None:
    rdiff, kept = tmp_path / "rdiff", tmp_path / "kept"
    rdiff.write_bytes(bytes.fromhex("72730236 45 00 10 00"))
    whole = commands_of(rdiff, kept)
    assert {Path(name).suffix for name in whole} == {".nbi", ".nbc"}
    for name, size in whole.items():
        for left in (0, size // 2):
            (path,) = kept.rglob(name)
            os.truncate(path, left)
            assert commands_of(rdiff, kept) == whole


def test_code_that_cannot_be_kept_is_used_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "rdiff").write_bytes(bytes.fromhex("72730236 45 00 10 00"))
    (tmp_path / "kept").mkdir()
    full = "prlimit", "--fsize=100"  # bytes of a file, in the place of a full disk
    assert commands_of(tmp_path / "rdiff", tmp_path / "kept", *full) == {}


@pytest.mark.parametrize(("mode", "kept"), [(0o700, True), (0o777, False), (0o775, False)])
def test_code_is_kept_only_where_nobody_else_could_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, kept: bool
) -> None:
    monkeypatch.setattr(compiled, "_bases", lambda: [tmp_path])
    folder = tmp_path / f"kernels-{compiled._key()}"
    folder.mkdir()
    folder.chmod(mode)
    assert compiled._cache_folder() == (str(folder) if kept else "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_no_code_is_kept_in_a_folder_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_bases", lambda: [tmp_path])
    folder = tmp_path / f"kernels-{compiled._key()}"
    folder.mkdir(0o700)
    os.chown(folder, 1234, 0)
    assert compiled._cache_folder() == ""


@pytest.mark.parametrize(
    ("where", "differs"),
    [(llvm, "get_host_cpu_name"), (codegen, "get_host_cpu_features"), (numba, "__version__")],
)
def test_machines_that_share_a_folder_do_not_share_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, differs: str
) -> None:
    """Numba counts the files of a function: two machines that compile at once would mix theirs."""
    monkeypatch.setattr(compiled, "_bases", lambda: [tmp_path])
    here = compiled._cache_folder()
    assert compiled._cache_folder() == here
    monkeypatch.setattr(where, differs, lambda: "another")
    assert compiled._cache_folder() not in {here, ""}
