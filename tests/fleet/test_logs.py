"""Logs are read once, whatever happens to them, and no address stays."""

from __future__ import annotations

import gzip
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from puavo_repository.errors import RepositoryError, SettingsError
from puavo_repository.fleet import fold, logs, requests
from puavo_repository.fleet.downloads import Downloads
from puavo_repository.fleet.store import NAME, Store
from puavo_repository.formats.names import rdiff_name
from puavo_repository.mirror.records import State
from puavo_repository.remote.target import Target
from puavo_repository.settings import Settings
from support.fleet import DAY, built, counted, line, offer, total
from support.repository import Repository
from support.servers import Sshd

OLD, NEW = built(0), built(1)
RDIFF = rdiff_name(OLD, NEW)
PATH = f"rdiffs/{RDIFF}"
SIZE, IMAGE_SIZE = 1000, 50_000


@pytest.fixture(autouse=True)
def offered(repository: Repository) -> None:
    offer(repository.mirror, {OLD: IMAGE_SIZE, NEW: IMAGE_SIZE}, {(OLD, NEW): SIZE})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "access.log"


@pytest.fixture
def chosen(repository: Repository, log: Path) -> Settings:
    return repository.settings(usage_logs=[f"{log}*"])


def here(_: str) -> Target:
    raise AssertionError("no server is named")


def read(chosen: Settings) -> logs.Folded:
    return fold.fold_logs(chosen, here)


def write(path: Path, *lines: str) -> None:
    with path.open("a") as stream:
        stream.writelines(lines)


CASES = {
    "whole": ([(200, SIZE)], 1),
    "twice": ([(200, SIZE), (200, SIZE)], 2),
    "broken off": ([(200, 400)], 0),
    "resumed": ([(200, 400), (206, 600)], 1),
    "resumed after more was sent than got": ([(200, 900), (206, 600)], 1),
    "resumed twice": ([(200, 400), (206, 100), (206, 500)], 1),
    "begun anew": ([(200, 400), (200, SIZE)], 1),
    "the rest after all of it was sent": ([(200, SIZE), (206, 50)], 1),
    "two behind one address": ([(200, 300), (200, 600), (206, 400), (206, 700)], 2),
    "in ranges": ([(206, 250)] * 4, 1),
    "one range": ([(206, SIZE)], 1),
    "nothing new": ([(200, SIZE), (416, 200), (304, 0)], 1),
    "refused": ([(403, 100), (404, 100), (500, 100), (499, 0)], 0),
}


@pytest.mark.parametrize("case", CASES)
def test_a_download_is_put_together(
    case: str, chosen: Settings, log: Path, repository: Repository
) -> None:
    answers, downloads = CASES[case]
    write(log, *(line(PATH, sent, status=status) for status, sent in answers))
    read(chosen)
    served = sum(sent for status, sent in answers if status in (200, 206))
    assert total(repository.mirror) == ({RDIFF: (downloads, served)} if served else {})


def test_other_clients_parts_are_not_put_together(
    chosen: Settings, log: Path, repository: Repository
) -> None:
    write(log, line(PATH, 400, address="192.0.2.1"), line(PATH, 600, status=206, address="::2"))
    read(chosen)
    assert total(repository.mirror) == {RDIFF: (0, 1000)}


def test_a_download_is_resumed_on_another_day(
    chosen: Settings, log: Path, repository: Repository
) -> None:
    write(log, line(PATH, 400, time="23:59:58"))
    read(chosen)
    write(log, line(PATH, 600, status=206, day=1), line(PATH, 601, status=206, day=1, address="::"))
    read(chosen)
    assert [counts[0] for counts in counted(repository.mirror).values()] == [0, 1]


def test_bots_and_rdiffs_asked_for_in_vain_are_counted_apart(
    chosen: Settings, log: Path, repository: Repository
) -> None:
    back = rdiff_name(NEW, OLD)
    write(
        log,
        line(PATH, SIZE, agent="Mozilla/5.0 (compatible; bingbot/2.0)"),
        *[line(f"rdiffs/{back}", 150, status=404)] * 3,
        line(f"rdiffs/{back}", 150, status=404, address="::1"),
        line(f"rdiffs/{rdiff_name(built(7), NEW)}", 150, status=404),  # nobody ever had that
    )
    read(chosen)
    assert {key[1:]: count for key, count in counted(repository.mirror).items()} == {
        (RDIFF, "bot"): (0, SIZE),
        (back, "missing"): (2, 0),
    }


def rotate(log: Path) -> None:
    log.rename(log.with_name("access.log.1"))


def compress(log: Path) -> None:
    packed = log.with_name("access.log.2.gz")
    packed.write_bytes(gzip.compress(log.read_bytes()))
    log.unlink()


def copy_and_truncate(log: Path) -> None:
    shutil.copy2(log, log.with_name("access.log.1"))
    os.truncate(log, 0)


@pytest.mark.parametrize("turn", [rotate, compress, copy_and_truncate])
def test_a_log_is_read_once_wherever_it_goes(
    turn: Callable[[Path], None], chosen: Settings, log: Path, repository: Repository
) -> None:
    write(log, line(PATH, SIZE), line("index.html", 5), line(PATH, SIZE)[:-9])
    assert [read(chosen).requests, read(chosen).requests] == [1, 0]
    write(log, line(PATH, SIZE)[-9:], line(PATH, SIZE))
    turn(log)
    write(log, line(PATH, SIZE, time="12:00:01"))
    assert [read(chosen).requests, read(chosen).requests] == [3, 0]
    assert total(repository.mirror) == {RDIFF: (4, 4 * SIZE)}


def test_a_log_that_is_emptied_while_it_is_read_is_read_again(
    chosen: Settings, log: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(log, *[line(PATH, SIZE)] * 30)
    taken, emptied = Downloads.take, list[Path]()

    def take(self: Downloads, request: object) -> None:
        if not emptied:
            emptied.append(log)
            copy_and_truncate(log)
            write(log, *[line(PATH, SIZE, time="12:00:01")] * 60)  # beyond where it is read
        taken(self, request)  # type: ignore[arg-type]

    monkeypatch.setattr(Downloads, "take", take)
    monkeypatch.setattr(requests, "BLOCK", 256)
    read(chosen)
    read(chosen)
    assert total(repository.mirror) == {RDIFF: (90, 90 * SIZE)}


def test_a_fold_that_is_killed_counts_nothing_twice(
    chosen: Settings, log: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(log, line(PATH, SIZE), line(PATH, 400))
    moved = Store.move

    def move(self: Store, *place: object) -> None:
        moved(self, *place)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "move", move)
        with pytest.raises(KeyboardInterrupt):
            read(chosen)
    assert counted(repository.mirror) == {}
    read(chosen)
    assert total(repository.mirror) == {RDIFF: (1, SIZE + 400)}


def test_no_address_and_no_hash_of_one_stays(
    chosen: Settings, log: Path, repository: Repository
) -> None:
    addresses = [f"198.51.100.{number}" for number in range(50)]
    write(log, *(line(PATH, 400, address=address) for address in addresses))
    read(chosen)
    store = State(repository.mirror).folder / NAME
    with Store(repository.mirror) as opened:
        ((state,),) = opened.rows("SELECT state FROM open_days")
    secrets = re.findall(r"\b[0-9a-f]{16,}\b", state)
    assert len(set(secrets)) == 51
    before = store.read_bytes()
    assert sum(secret.encode() in before for secret in secrets) > 90  # some at a page's edge
    write(log, line(PATH, SIZE, day=1))
    read(chosen)
    kept = store.read_bytes()
    assert not any(secret.encode() in kept for secret in secrets)
    assert not any(address.encode() in kept for address in addresses)
    with Store(repository.mirror) as opened:
        assert opened.rows("SELECT * FROM clients") == [(str(DAY), 50)]
        assert len(opened.rows("SELECT day, file, bytes FROM unfinished")) == 50


def test_lines_that_are_late_count_on_their_own_day(
    chosen: Settings, log: Path, repository: Repository
) -> None:
    write(
        log, line(PATH, 1000), line(PATH, 1000, day=1), line(PATH, 1000), line(PATH, 1, day=99999)
    )
    read(chosen)
    days = {day: count for (day, _, _), count in counted(repository.mirror).items()}
    assert days == {str(DAY): (2, 2000), str(DAY + timedelta(1)): (1, 1000)}


def test_a_damaged_archive_is_read_up_to_there(
    chosen: Settings, log: Path, repository: Repository
) -> None:
    others = random.Random(1).randbytes(3 << 20).hex("\n", 40)
    text = line(PATH, SIZE) * 2 + others + "\n" + line(PATH, SIZE, time="13:00:00")
    packed = gzip.compress(text.encode(), 1)
    log.with_name("access.log.3.gz").write_bytes(packed[: len(packed) * 9 // 10])
    log.with_name("access.log.4.gz").write_bytes(packed[:12])
    log.with_name("access.log.5.xz").write_bytes(b"\xfd7zXZ\0")
    (log.parent / "access.log.folder").mkdir()
    write(log, "{}\n", f'{{"request": "GET /{PATH} HTTP/1.1"}}\n')
    notes = " ".join(read(chosen).notes)
    assert total(repository.mirror) == {RDIFF: (2, 2 * SIZE)}
    assert "access.log.3.gz: read up to where it is damaged" in notes
    assert "access.log.4.gz" in notes
    assert "compressed with xz" in notes
    assert f"{log}: 1 lines name files like ours and cannot be read. Expected" in notes
    log.with_name("access.log.3.gz").write_bytes(packed)
    read(chosen)
    assert total(repository.mirror) == {RDIFF: (3, 3 * SIZE)}


def test_what_cannot_be_read_is_named_and_holds_back_nothing_else(
    chosen: Settings, log: Path, repository: Repository
) -> None:
    write(log, line(PATH, SIZE))
    several = [f"{log.parent}/other.log", "/nowhere/access.log", f"{log}"]
    with pytest.raises(RepositoryError, match=r"other\.log.*Correct the path.*nowhere.*no such"):
        read(chosen.model_copy(update={"usage_logs": several}))
    assert total(repository.mirror) == {RDIFF: (1, SIZE)}
    store = State(repository.mirror).folder / NAME
    store.write_bytes(b"this is no database" * 100)
    with pytest.raises(RepositoryError, match=r"usage\.sqlite.*not a database.*move"):
        read(chosen)


def test_a_store_of_a_newer_version_is_refused_and_not_held(
    chosen: Settings, log: Path, repository: Repository
) -> None:
    write(log, line(PATH, SIZE))
    read(chosen)
    path = State(repository.mirror).folder / NAME
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    refused = Store(repository.mirror)
    with pytest.raises(RepositoryError, match="newer version"):
        refused.__enter__()
    with closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")


def test_a_log_of_a_server_is_read_over_its_sftp(
    repository: Repository, log: Path, sshd: Sshd
) -> None:
    write(log, *[line(PATH, SIZE)] * 5000)
    compress(log)
    write(log, line(PATH, SIZE, day=1))
    target = sshd.target("/elsewhere")
    chosen = repository.settings(usage_logs=[f"web-server:{log}*"])
    done = [fold.fold_logs(chosen, {"web-server": target}.__getitem__) for _ in range(2)]
    assert [one.requests for one in done] == [5001, 0]
    assert total(repository.mirror) == {RDIFF: (5001, 5001 * SIZE)}


def test_a_set_up_without_logs_says_what_to_set(repository: Repository) -> None:
    with pytest.raises(SettingsError, match="USAGE_LOGS: no log is named"):
        fold.check_set_up(repository.settings())
