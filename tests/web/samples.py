"""A repository with something of everything, for what is looked at: the page in all its states."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from puavo_repository.audit.report import Finding, Severity
from puavo_repository.web import model, view
from puavo_repository.web.disk import Reader
from puavo_repository.web.model import (
    AUDIT,
    PREPARE,
    PUBLISH,
    Alerts,
    Ignored,
    Problem,
    Progress,
    Remote,
    Repository,
    Retry,
    Run,
    Space,
    Stage,
    State,
)
from web.mirrors import make_mirror

NOW = datetime.now(UTC).replace(microsecond=0)
TB = 10**12
MIRRORS = {
    "www": (State.PUBLISHING, ": 5 files (720 MB) to go", ""),
    "backup": (State.UP_TO_DATE, "", ""),
    "sftp://mirror@south.example.org/srv/mirror": (
        State.BEHIND,
        ": 5 files (720 MB) to be published",
        "",
    ),
    "school": (
        State.ROLLED_BACK,
        ": clients see generation 41 again",
        "Take the bad image out of the image directory and prepare; publishing goes on",
    ),
    "attic": (
        State.UNREACHABLE,
        "; last seen 2026-01-01 01:30 UTC",
        "See the log of the last publishing run",
    ),
    "cellar": (State.DAMAGED, ": 2 errors in the last audit", "Do what the findings say"),
    "east": (State.PAUSED, ": 1 file (4.00 GB) to be published", "Resume publishing"),
    "west": (State.UNKNOWN, ": no run has looked at it yet", ""),
}


def remote(name: str, state: State, more: str = "", remedy: str = "", **other: Any) -> Remote:
    """Return a mirror that stands so."""
    pending = [f"rdiffs/{name}-{n}.rdiff" for n in range(5)] if "file" in more else []
    facts: dict[str, Any] = {
        "configured": True,
        "generation": 42,
        "published": NOW - timedelta(hours=3),
        "verified": NOW - timedelta(hours=2),
        "checked": NOW - timedelta(hours=2),
        "audited": NOW - timedelta(days=2),
        "pending": pending,
        "pending_bytes": 720_000_000 if pending else 0,
        "address": f"https://{name.split('@')[-1].split('/')[0]}.images.example/",
        "space": Space(free=TB, days=41.0),
    }
    said = state + more
    return Remote(name=name, state=state, status=said, remedy=remedy, **(facts | other))


def sending() -> Progress:
    name = "rdiffs/puavo-os-class01-bookworm-2020-05-01-120000--2020-06-01-120000-amd64.rdiff"
    return Progress(what=name, done=34, total=100, seconds_left=125.0)


def night(state: str, **other: Any) -> Run:
    """Return a run of prepare."""
    begun = NOW - timedelta(minutes=9)
    stages = [
        Stage(name=name, state="success", seconds=2.0 + n, tasks=1, failed=0, done=1)
        for n, name in enumerate(("discover", "configure", "plan", "fingerprint"))
    ]
    if state == "running":
        found = Stage(name="diff", state=state, seconds=60, tasks=9, failed=0, done=3)
        stages.append(found.model_copy(update={"seconds_left": 130.0}))
    facts: dict[str, Any] = {
        "dag_id": PREPARE,
        "run_id": "scheduled__2026-01-02T01:30:00+00:00",
        "kind": "scheduled",
        "started": begun,
        "ended": None if state == "running" else begun + timedelta(minutes=5),
        "did": "" if state == "running" else "1 image read, 6 rdiffs made",
        "stages": stages,
    }
    return Run(state=state, **(facts | other))


def runs(state: str) -> list[Run]:
    ago = [timedelta(days=n) for n in range(14)]
    first = {"success": {}, "failed": {"error": "bad.img: this is not a squashfs image"}}.get(state)
    published = Run(
        dag_id=PUBLISH,
        run_id="asset_triggered__1",
        state="running" if state == "running" else "success",
        kind="asset_triggered",
        started=NOW - timedelta(minutes=2),
        ended=None if state == "running" else NOW - timedelta(minutes=1),
        did="" if state == "running" else "6 files to 2 mirrors",
    )
    others = [
        night(
            "success",
            run_id=f"scheduled__{n}",
            started=NOW - day,
            ended=NOW - day + timedelta(seconds=200 + 20 * n),
        )
        for n, day in enumerate(ago[1:])
    ]
    return [published, night(state, **(first or {})), *others]


PROBLEMS = [
    Problem(
        name="puavo-os-class01-bookworm-2020-07-01-120000-amd64.img",
        stage="fingerprint",
        message="This is not a squashfs image: it begins with 6e6f2069",
        remedy="Replace it, or take it out of the image directory",
        permanent=False,
        log=f"dags/{PREPARE}/runs/scheduled__2026-01-02T01:30:00+00:00/tasks/fingerprint/mapped/2",
        retry=Retry(
            dag_id=PREPARE,
            run_id="scheduled__2026-01-02T01:30:00+00:00",
            task_ids=[("fingerprint", 2)],
        ),
    ),
    Problem(
        name="school",
        stage="publish",
        message="rolled back: clients see generation 41 again",
        remedy="Take the bad image out of the image directory and prepare; publishing goes on",
        permanent=True,
    ),
]


def findings() -> model.Audit:
    found = Finding(
        severity=Severity.ERROR,
        where="cellar",
        file="rdiffs/x.rdiff",
        problem="is not what the metadata describes",
        expected="sha256 ab12",
        found="sha256 cd34",
        remedy="Audit with repair, or publish again",
    )
    return model.Audit(
        at=NOW - timedelta(days=2),
        ok=False,
        findings=[found],
        notes=["1 stray file"],
        looked_at=["local: 30 images, 150 rdiffs", "www: 30 images"],
        repaired=[],
        turn=7,
        seconds=610.0,
    )


def good(root: Path, series: int = 5, images: int = 6, **more: Any) -> Repository:
    """Return a repository on disk where all is well, in the morning."""
    if not (root / "meta").exists():
        make_mirror(root, series=series, images=images)
    found = view.repository(Reader(root).read(), runs("success"), now=NOW)
    summary = {
        "remotes": [remote(name, State.UP_TO_DATE) for name in ("www", "backup")],
        "address": "https://images.example.org",
        "schedule": "30 1 * * *",
        "next_run": NOW + timedelta(hours=11),
        "last_success": NOW - timedelta(minutes=4),
        "space": Space(free=3 * TB, days=120.0),
        "alerts": Alerts(
            ways=["e-mail", "webhook"],
            last=NOW - timedelta(days=12),
            subject="puavo_repository_prepare: failed",
            problem="",
        ),
        "changed": NOW - timedelta(hours=3),
    }
    return found.model_copy(
        update={"summary": found.summary.model_copy(update=summary | more), "runs": runs("success")}
    )


def busy(root: Path) -> Repository:
    """Return one that prepares and publishes."""
    found = good(root)
    remotes = [
        remote("www", *MIRRORS["www"], progress=sending()),
        remote("backup", State.UP_TO_DATE),
    ]
    summary = {
        "remotes": remotes,
        "status": "1 mirror is not up to date yet",
        "active": {PREPARE: "scheduled__x", PUBLISH: "asset_triggered__1"},
    }
    return found.model_copy(
        update={"summary": found.summary.model_copy(update=summary), "runs": runs("running")}
    )


def bad(root: Path) -> Repository:
    """Return one with all that can be wrong."""
    found = good(root)
    summary = {
        "ok": False,
        "status": "2 problems",
        "problems": PROBLEMS,
        "remotes": [
            remote(name, *facts, progress=sending() if name == "www" else None)
            for name, facts in MIRRORS.items()
        ]
        + [remote("old", State.UP_TO_DATE, configured=False, space=None, address="")],
        "paused": [PUBLISH],
        "schedule": "0 12 * * 0",
        "active": {AUDIT: "manual__1"},
        "audit": findings(),
        "alerts": Alerts(ways=[], last=None, subject="", problem=""),
        "ignored": [Ignored(name="puavo-os-bookworm.img", why="Its name has no class and no date")],
    }
    return found.model_copy(
        update={"summary": found.summary.model_copy(update=summary), "runs": runs("failed")}
    )


def nothing(root: Path) -> Repository:
    """Return one before its first night."""
    return view.repository(Reader(root / "missing").read(), now=NOW)


STATES = {"good": good, "busy": busy, "bad": bad, "nothing": nothing}
