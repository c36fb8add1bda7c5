"""What a monitoring system is told, and that what is shipped for one asks for just that."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from puavo_repository.audit.report import AuditReport, Checked, error
from puavo_repository.mirror import published
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import AlertRecord
from puavo_repository.web import metrics, view
from puavo_repository.web.disk import Disk, Place, Reader
from puavo_repository.web.model import PREPARE, Dag, Repository
from support.repository import ROOT
from web.mirrors import fail, make_mirror
from web.test_view import NIGHT, run

MIRROR = "sftp://mirror@www.example.org/srv/mirror"


def read(found: Repository) -> dict[tuple[str, ...], float]:
    """Return each value by the metric's name and its labels, without the name in front."""
    text = metrics.render(found).decode()
    return {
        (sample.name.removeprefix("puavo_repository_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    make_mirror(tmp_path)
    return replace(Reader(tmp_path).read(), free=5)


def shown(disk: Disk) -> Repository:
    runs, dags = [run("failed"), run("success")], [Dag(PREPARE, succeeded=NIGHT)]
    return view.repository(
        disk, runs, dags, Place(disk.root, [MIRROR], ways=["e-mail", "webhook"]), NIGHT
    )


def test_what_is_wrong_and_what_waits_is_told(disk: Disk, tmp_path: Path) -> None:
    free = {f"2026-11-{day:02}": 150 - 10 * day for day in range(1, 9)}
    published.remotes(tmp_path).put(published.Published(quote(MIRROR, safe=""), free=free))
    disk = replace(disk, remotes=tuple(published.remotes(tmp_path)))
    disk = replace(disk, alert=AlertRecord("alert", 99.0, "a failure", 77.0, "no answer"))
    before = read(shown(disk))
    assert before["mirror_state", MIRROR, "unknown"] == 1
    assert before["mirror_state", MIRROR, "up to date"] == 0
    files = [size for path, size in disk.sizes.items() if path.endswith((".img", ".rdiff"))]
    assert before["mirror_pending_files", MIRROR] == len(files)
    assert before["mirror_pending_bytes", MIRROR] == sum(files)
    assert before["last_success_timestamp_seconds",] == NIGHT.timestamp()
    assert before["free_bytes",] == 5
    assert before["run_failed", PREPARE] == 1, "of the newest run, not the one before"
    assert "audit_timestamp_seconds" not in {name for name, *_ in before}, "not known, so not told"

    fail(Mirror(tmp_path), "bad.img", "bad.img: it is broken. Mend it")
    finding = error("meta/x.json", "is missing")
    audit = AuditReport("audit", begun=9.0, checks=(Checked("local", findings=(finding,)),))
    after = read(shown(replace(Reader(tmp_path).read(), audit=audit, free=None)))
    assert before["mirror_free_bytes", MIRROR] == 70
    assert before["mirror_days_left", MIRROR] == pytest.approx(7)
    assert ("days_left",) not in before, "it does not fill"
    assert before["alert_ways",] == 2
    assert before["alert_undelivered",] == 1
    assert before["alert_timestamp_seconds",] == 77
    assert after["ok",] == 0
    assert sum(value for key, value in after.items() if key[0] == "problems") > sum(
        value for key, value in before.items() if key[0] == "problems"
    )
    assert after["audit_timestamp_seconds",] == 9
    assert after["audit_findings", "error"] == 1
    assert after["audit_findings", "warning"] == 0
    assert ("free_bytes",) not in after


@pytest.mark.parametrize("name", ["rules.yml", "dashboard.json"])
def test_alerts_and_dashboard_ask_for_what_there_is(disk: Disk, name: str) -> None:
    audited = replace(disk, audit=AuditReport("audit", begun=9.0))
    there = {key[0] for key in read(shown(audited))}
    there |= {"mirror_published_timestamp_seconds", "next_run_timestamp_seconds"}
    there |= {"days_left", "mirror_days_left", "alert_timestamp_seconds"}
    text = (ROOT / "deploy" / "monitoring" / name).read_text()
    asked = set(re.findall(r"\bpuavo_repository_(\w+)", text))
    asked -= {"prepare", "audit"}  # names of DAGs
    assert asked
    assert asked <= there
