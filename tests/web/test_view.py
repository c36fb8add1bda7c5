"""What is shown says what lies on disk, and nothing else."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from puavo_repository.audit.report import Finding, Severity
from puavo_repository.formats import metadata
from puavo_repository.formats.names import rdiff_name
from puavo_repository.mirror import under_way
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.records import Failure, WrittenRecord
from puavo_repository.mirror.under_way import UnderWay
from puavo_repository.web import model, view
from puavo_repository.web.disk import Reader
from puavo_repository.web.model import DRY_RUN, Repository, Run, Stage
from puavo_repository.web.offered import RdiffState
from puavo_repository.web.status import problem as problem_of
from web.mirrors import (
    IMAGE_SIZE,
    audited,
    edit_metadata,
    fail,
    image_names,
    make_mirror,
    too_large,
)

STRAY = Finding(Severity.WARNING, "local", "stray.bin", "is described by nothing")
FLIPPED = Finding(
    Severity.ERROR,
    "sftp://www/srv/mirror",
    "rdiffs/x.rdiff",
    "is not what the metadata describes",
    "ab",
    "cd",
    "Audit with repair, or publish again",
)
NIGHT = datetime(2026, 1, 2, 1, 30, tzinfo=UTC)


def look(root: Path, *runs: Run) -> Repository:
    return view.repository(Reader(root).read(), runs=runs)


def run(state: str, *, hours: int = 0, did: str = "", stages: list[Stage] | None = None) -> Run:
    started = NIGHT + timedelta(hours=hours)
    ended = None if state == "running" else started + timedelta(minutes=5)
    return Run(
        dag_id=model.PREPARE,
        run_id=f"at {started}",
        state=state,
        kind="scheduled",
        started=started,
        ended=ended,
        did=did,
        stages=stages or [],
    )


def test_a_good_mirror_is_right(tmp_path: Path) -> None:
    make_mirror(tmp_path, series=2, images=3, share=0.02)
    found = look(tmp_path)
    assert found.summary.ok
    assert found.summary.problems == []
    counts = (found.summary.series, found.summary.images, found.summary.rdiffs)
    assert counts == (2, 6, 12)
    assert found.summary.image_bytes == 6 * IMAGE_SIZE
    assert found.summary.update_bytes == 2 * IMAGE_SIZE * 0.02
    assert found.summary.saving == pytest.approx(0.98)
    assert [image.version for image in found.series[0].images] == [
        "20200101120000",
        "20200201120000",
        "20200301120000",
    ]
    assert found.series[0].images[0].built == datetime(2020, 1, 1, 12, tzinfo=UTC)


def test_an_image_of_two_series_is_one_image(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path, images=3)
    (path,) = mirror.meta.glob("*.json")
    (entries,) = metadata.parse(path.read_bytes()).values()
    (mirror.meta / "again.json").write_bytes(metadata.render({"again": entries}))
    found = look(tmp_path).summary
    assert (found.series, found.images, found.rdiffs) == (2, 3, 6)
    assert found.image_bytes == 3 * IMAGE_SIZE


def test_a_client_without_an_rdiff_saves_nothing(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path, images=2)

    def drop(document: Any) -> None:
        for content in document.values():
            content["images"][-1]["diffs"] = []

    edit_metadata(mirror, drop)
    found = look(tmp_path)
    assert found.series[0].update is None
    assert found.summary.saving == 0


def test_no_folder_is_a_problem_that_prepare_cures(tmp_path: Path) -> None:
    found = look(tmp_path / "missing")
    (problem,) = found.summary.problems
    assert "no such folder" in problem.message
    assert "Run prepare" in problem.remedy


def test_a_mirror_without_an_image_is_not_called_up_to_date(tmp_path: Path) -> None:
    (problem,) = look(tmp_path).summary.problems
    assert "no image yet" in problem.message
    assert "run prepare" in problem.remedy


def test_a_failure_is_named_with_its_reason_and_way_out_until_it_is_gone(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path)
    message = (
        "/images/x.img: this is not a squashfs image (found a text). Replace it by a whole one"
    )
    fail(mirror, "x.img", message)
    reader = Reader(tmp_path)
    (problem,) = view.repository(reader.read()).summary.problems
    assert problem.name == "x.img"
    assert problem.message == "this is not a squashfs image (found a text)"
    assert problem.remedy == "Replace it by a whole one"
    mirror.state.failures.remove("x.img")
    assert view.repository(reader.read()).summary.ok


def test_a_message_without_a_way_out_leads_to_the_log() -> None:
    found = problem_of(Failure("x.img", "diff", "it broke"))
    assert found.message == "it broke"
    assert "log" in found.remedy


@pytest.mark.parametrize("break_it", [Path.unlink, lambda path: os.truncate(path, 7)])
def test_a_described_file_that_is_not_there_is_a_problem(tmp_path: Path, break_it: Any) -> None:
    mirror = make_mirror(tmp_path, images=2)
    first, second = image_names(0, 2)
    break_it(tmp_path / first)
    break_it(mirror.rdiffs / rdiff_name(first, second))
    found = look(tmp_path)
    assert {problem.name for problem in found.summary.problems} == {
        first,
        rdiff_name(first, second),
    }
    assert not found.series[0].images[0].present
    assert found.series[0].images[1].rdiffs[0].state is RdiffState.MISSING
    assert found.series[0].update is None


def test_damaged_metadata_is_a_problem_and_hides_only_itself(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path, series=2)
    next(mirror.meta.glob("*.json")).write_text("{")
    found = look(tmp_path)
    assert found.summary.series == 1
    assert "cannot be read" in found.summary.problems[0].message


def test_rdiffs_that_are_not_offered_are_told_apart(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path, images=3)
    names = image_names(0, 3)
    large, failed = rdiff_name(names[0], names[2]), rdiff_name(names[1], names[2])

    def drop(document: Any) -> None:
        for content in document.values():
            content["images"][-1]["diffs"] = []

    edit_metadata(mirror, drop)
    too_large(mirror, large, IMAGE_SIZE)
    fail(mirror, failed, "it broke", "diff")
    states = [(rdiff.filename, rdiff.state) for rdiff in look(tmp_path).series[0].images[-1].rdiffs]
    assert states == [(large, RdiffState.TOO_LARGE), (failed, RdiffState.FAILED)]
    # It is there, and only not described yet.
    too_large(mirror, large, IMAGE_SIZE, identity=Identity(IMAGE_SIZE, 1))
    offered = rdiff_name(names[0], names[1])
    fail(mirror, offered, "it broke", "diff")
    too_large(mirror, offered, IMAGE_SIZE)
    _, *images = look(tmp_path).series[0].images
    assert [[rdiff.state for rdiff in image.rdiffs] for image in images] == [
        [RdiffState.OFFERED, RdiffState.OFFERED],
        [RdiffState.FAILED],
    ]


def test_a_changed_file_is_read_again_at_once(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path, images=2)
    reader = Reader(tmp_path)
    assert len(reader.read().series) == 1
    make_mirror(tmp_path, series=2, images=2)
    assert len(reader.read().series) == 2
    for path in mirror.meta.glob("*.json"):
        path.unlink()
    assert reader.read().series == {}


def test_metadata_that_is_replaced_is_parsed_again_whatever_its_time_and_size(
    tmp_path: Path,
) -> None:
    mirror = make_mirror(tmp_path, images=1)
    (path,) = mirror.meta.glob("*.json")
    reader, before = Reader(tmp_path), path.stat()
    assert "class00" in str(reader.read().series)
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes().replace(b"class00", b"class11"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert "class00" not in str(reader.read().series)


def test_what_is_prepared_is_told_and_what_is_sent_is_not(tmp_path: Path) -> None:
    make_mirror(tmp_path)
    for name, stage, left in [("a", "diff", 40.0), ("b", "diff", 90.0), ("www", "upload", 5.0)]:
        record = UnderWay(name, stage, f"{name}.rdiff", 1, 9, time.time(), left)
        under_way.records(tmp_path).put(record)
    found = look(tmp_path).summary.progress
    assert [(one.what, one.seconds_left) for one in found] == [("a.rdiff", 40.0), ("b.rdiff", 90.0)]


def test_the_last_finished_run_counts_and_dry_runs_do_not(tmp_path: Path) -> None:
    make_mirror(tmp_path)
    broken = [Stage(name="diff", state="failed", seconds=1, tasks=9, failed=2)]
    good, bad = run("success"), run("failed", hours=1, stages=broken)
    assert look(tmp_path, good).summary.ok
    (problem,) = look(tmp_path, bad, good).summary.problems
    assert "diff" in problem.message
    assert look(tmp_path, run("running", hours=2), good).summary.ok
    dry = run("success", hours=2, did=DRY_RUN).model_copy(update={"counts": False})
    assert not look(tmp_path, dry, bad).summary.ok
    assert look(tmp_path, run("success", hours=2), bad).summary.ok


def test_an_audit_s_errors_are_problems_and_its_warnings_are_shown(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path)
    assert look(tmp_path).summary.audit is None
    audited(mirror, STRAY)
    found = look(tmp_path).summary
    assert found.ok, "someone should look, but clients are led to nothing wrong"
    assert found.audit is not None
    assert [one.file for one in found.audit.findings] == ["stray.bin"]
    audited(mirror, STRAY, FLIPPED)
    found = look(tmp_path).summary
    assert not found.ok
    assert found.problems[0].name == "rdiffs/x.rdiff"
    assert found.problems[0].remedy == "Audit with repair, or publish again"
    assert "sftp://www/srv/mirror" in found.problems[0].message
    assert "expected ab, found cd" in found.problems[0].message
    audited(mirror)
    assert look(tmp_path).summary.ok, "the next audit clears it"


def test_another_record_beside_the_mirror_is_no_audit_s_report(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path)
    mirror.state.written.put(WrittenRecord("description", {}))
    used = mirror.state.written.get("description")  # kept in this process as long as it is used
    assert used is not None
    assert look(tmp_path).summary.audit is None
