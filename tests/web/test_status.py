"""How the repository stands: green only where nothing is wrong, and the same words everywhere."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from puavo_repository.audit import report as audit_report
from puavo_repository.audit.report import AuditReport, Finding, Severity
from puavo_repository.mirror import published, under_way
from puavo_repository.mirror.description import publishable
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.mirror.records import AlertRecord
from puavo_repository.mirror.under_way import UnderWay
from puavo_repository.publish.publisher import Publisher
from puavo_repository.publish.run import publish_all
from puavo_repository.remote.target import Target
from puavo_repository.rollback import rollback
from puavo_repository.web import model, page, view
from puavo_repository.web.disk import Place, Reader
from puavo_repository.web.model import Dag, Progress, Repository, Run, Space, State
from puavo_repository.web.status import PATIENCE
from support import mirrors
from web.mirrors import audited, fail, image_names, make_mirror
from web.test_page import Elements
from web.test_view import NIGHT, run

WWW, OTHER = "sftp://mirror@www/srv/mirror", "sftp://mirror@other/srv/mirror"
NEXT = NIGHT + timedelta(days=1)
TOMORROW = datetime.now(UTC) + timedelta(days=1)
IDLE = Dag(dag_id=model.PREPARE, due=NEXT, succeeded=NIGHT + timedelta(minutes=5))
PAUSED = Dag(dag_id=model.PUBLISH, paused=True)
NEWEST = image_names(0, 2)[1]


def look(root: Path, *runs: Run, dags: Any = (), now: datetime | None = None) -> Repository:
    return view.repository(Reader(root).read(), runs, dags, Place(root, [WWW]), now)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Return what a mirror describes that has been published whole to one remote."""
    make_mirror(tmp_path, images=2)
    local = publishable(tmp_path).files
    found = {path: file.sha256 for path, file in local.items()}
    left(tmp_path, files=found)
    return found


def left(root: Path, address: str = WWW, generation: int = 3, **what: Any) -> None:
    published.remember(root, address, generation, **{"files": {}, "problems": {}, **what})


def publishing(state: str) -> Run:
    return run(state).model_copy(update={"dag_id": model.PUBLISH})


def shown(found: Repository) -> tuple[State, str, bool]:
    """Return how the one mirror stands; the page says it in the same words."""
    (remote,) = found.summary.remotes
    elements = Elements(page.render(found))
    assert remote.status in elements.text
    assert found.summary.status in elements.text
    good = found.summary.ok and remote.state is State.UP_TO_DATE
    assert (found.summary.status == "Everything is up to date") is good
    assert ("card good" in str(elements.found)) is good
    if found.summary.ok and not good:
        assert found.summary.status == "1 mirror is not up to date yet"
    assert (("span", {"class": "chip good"}) in elements.within("mirrors")) is good
    return remote.state, remote.status, found.summary.ok


def test_a_mirror_that_has_everything_is_up_to_date(tmp_path: Path, files: dict[str, str]) -> None:
    found = look(tmp_path, now=TOMORROW)
    assert shown(found) == (State.UP_TO_DATE, "up to date", True)
    assert found.summary.status == "Everything is up to date"
    paused = look(tmp_path, dags=[PAUSED], now=TOMORROW)
    assert shown(paused) == (State.UP_TO_DATE, "up to date", True), "nothing waits"


def test_files_that_are_not_published_are_behind_and_a_problem_when_they_stay_so(
    tmp_path: Path, files: dict[str, str]
) -> None:
    left(tmp_path, files={path: digest for path, digest in files.items() if path != NEWEST})
    words = "1 file (4.00 GB)"
    text = f"behind: {words} to be published"
    assert shown(look(tmp_path)) == (State.BEHIND, text, True), "publish is about to start"
    assert shown(look(tmp_path, now=TOMORROW)) == (State.BEHIND, text, False)
    running = look(tmp_path, publishing("running"), now=TOMORROW)
    assert shown(running) == (State.PUBLISHING, f"publishing: {words} to go", True)
    ended = look(tmp_path, publishing("success"), now=TOMORROW)
    assert shown(ended) == (State.BEHIND, text, False)
    other = publishing("running").model_copy(update={"counts": False})
    assert shown(look(tmp_path, other, now=TOMORROW))[0] is State.BEHIND
    for named, state in ((OTHER, State.BEHIND), (f"{WWW}/", State.PUBLISHING)):
        of_one = publishing("running").model_copy(update={"mirrors": [named]})
        assert shown(look(tmp_path, of_one, now=TOMORROW))[0] is state


def test_publishing_that_is_paused_with_files_pending_is_not_green(
    tmp_path: Path, files: dict[str, str]
) -> None:
    left(tmp_path, files={path: digest for path, digest in files.items() if path != NEWEST})
    for runs in ([], [publishing("queued")]):
        found = look(tmp_path, *runs, dags=[PAUSED])
        text = "paused: 1 file (4.00 GB) to be published"
        assert shown(found) == (State.PAUSED, text, False)
        assert "Unpause" in found.summary.problems[0].remedy


def test_metadata_alone_that_is_not_published_yet_is_not_green(
    tmp_path: Path, files: dict[str, str]
) -> None:
    (document,) = Reader(tmp_path).read().documents
    size = (tmp_path / document).stat().st_size
    left(tmp_path, files=files, documents=Reader(tmp_path).read().documents)
    assert shown(look(tmp_path, now=TOMORROW))[0] is State.UP_TO_DATE
    left(tmp_path, files=files, documents={document: "what it was before"})
    text = f"1 file ({size / 1000:.2f} kB)"
    os.utime(tmp_path / "CKSUMS", (0, 0))  # it says the same as before
    assert shown(look(tmp_path)) == (State.BEHIND, f"behind: {text} to be published", True)
    found = look(tmp_path, dags=[PAUSED], now=TOMORROW)
    assert shown(found) == (State.PAUSED, f"paused: {text} to be published", False)
    assert found.summary.remotes[0].pending == [document]
    gone = {**Reader(tmp_path).read().documents, "meta/gone.json": "aa"}
    left(tmp_path, files=files, documents=gone)
    assert look(tmp_path, now=TOMORROW).summary.remotes[0].pending == ["meta/gone.json"]
    left(tmp_path, files=files)
    assert shown(look(tmp_path, now=TOMORROW))[0] is State.UP_TO_DATE, "noted by an older version"
    left(tmp_path, files=files, documents=Reader(tmp_path).read().documents)
    (tmp_path / document).write_text("{")
    assert look(tmp_path, now=TOMORROW).summary.remotes[0].state is State.UP_TO_DATE, "damaged here"


def test_a_withdrawal_is_pending_until_clients_are_told(tmp_path: Path) -> None:
    """With grace: the files themselves stay there. Then a rollback of it, and publishing again."""
    mirror, remote = tmp_path / "mirror", Target(path=str(tmp_path / "remote"))
    (tmp_path / "remote").mkdir()
    names = mirrors.make_mirror(mirror)

    def state() -> State:
        disk = Reader(mirror).read()
        (one,) = view.repository(
            disk, place=Place(mirror, [remote.url]), now=TOMORROW
        ).summary.remotes
        return one.state

    def publish() -> None:
        (done,) = publish_all(mirror, [remote], mirrors.KEEP)
        assert done.ok, done.failed

    publish()
    assert state() is State.UP_TO_DATE
    mirrors.prepare(mirror, names[:-1])
    assert state() is State.BEHIND
    publish()
    assert (tmp_path / "remote" / names[-1]).exists()
    assert state() is State.UP_TO_DATE
    mirrors.prepare(mirror, names[:-1], urlbase="https://elsewhere")
    assert state() is State.BEHIND
    publish()
    assert state() is State.UP_TO_DATE
    with Publisher(mirror, remote, mirrors.KEEP) as publisher:
        rollback.remember(mirror, remote.url, rollback.roll_back(publisher, None))
    assert state() is State.ROLLED_BACK
    assert published.known(mirror, remote.url).documents == told(tmp_path / "remote")
    publish_all(mirror, [remote], mirrors.KEEP.model_copy(update={"allow_rolled_back": True}))
    assert state() is State.UP_TO_DATE
    assert published.known(mirror, remote.url).documents == told(mirror)


def test_metadata_of_others_on_a_mirror_is_no_business_of_ours(tmp_path: Path) -> None:
    """Also where somebody else copied ours there: it does not lie there as what we wrote."""
    mirror, remote = tmp_path / "mirror", tmp_path / "remote"
    mirrors.make_mirror(mirror)
    shutil.copytree(mirror, remote)
    (remote / "meta" / "theirs.json").write_text('{"theirs": {"images": []}}')
    target = Target(path=str(remote))
    (done,) = publish_all(mirror, [target], mirrors.KEEP)
    assert done.ok, done.failed
    assert published.known(mirror, target.url).documents == told(mirror)


def told(root: Path) -> dict[str, str]:
    """Return the sha256 of a mirror's metadata, by path."""
    found = (path for path in (root / "meta").glob("*.json"))
    return {f"meta/{path.name}": sha256(path.read_bytes()).hexdigest() for path in found}


def test_what_failed_is_one_problem_for_its_record_and_its_run(tmp_path: Path) -> None:
    fail(make_mirror(tmp_path, images=1), "bad.img", "bad.img: it is broken. Mend it")
    task: Any = {"task_id": "fingerprint", "map_index": 0, "log": "its log"}
    failed = [model.FailedTask(label=name, **task) for name in ("bad.img", "worse.img")]
    for count, names in ((1, ["bad.img"]), (2, ["bad.img", model.PREPARE])):
        night = run("failed").model_copy(update={"failed": failed[:count]})
        assert [one.name for one in look(tmp_path, night).summary.problems] == names


def test_a_rollback_is_not_green(tmp_path: Path, files: dict[str, str]) -> None:
    left(tmp_path, files=files, restored=1)
    found = look(tmp_path)
    assert shown(found) == (
        State.ROLLED_BACK,
        "rolled back: clients see generation 1 again",
        False,
    )
    assert found.summary.status == "1 problem"
    left(tmp_path, files=files, restored=1, series=1)
    text = "rolled back: clients see generation 1 of 1 series again"
    assert shown(look(tmp_path)) == (State.ROLLED_BACK, text, False)
    left(tmp_path, generation=4, files=files)
    assert shown(look(tmp_path))[0] is State.UP_TO_DATE


@pytest.mark.parametrize("where", [WWW, "sftp://mirror@www:22/srv/mirror/"])
def test_a_mirror_with_audit_errors_is_damaged(
    tmp_path: Path, files: dict[str, str], where: str
) -> None:
    stray = Finding(Severity.WARNING, where, "stray.bin", "is described by nothing")
    flipped = Finding(Severity.ERROR, where, "rdiffs/x.rdiff", "is wrong", remedy="Repair it")
    audited(Mirror(tmp_path), stray)
    assert shown(look(tmp_path))[0] is State.UP_TO_DATE
    audited(Mirror(tmp_path), stray, flipped)
    found = look(tmp_path)
    assert shown(found) == (State.DAMAGED, "damaged: 1 error in the last audit", False)
    assert [one.remedy for one in found.summary.problems] == ["Repair it"]
    elsewhere = replace(flipped, where=OTHER)
    audited(Mirror(tmp_path), elsewhere)
    assert look(tmp_path).summary.remotes[0].state is State.UP_TO_DATE


def test_a_mirror_out_of_reach_says_since_when(tmp_path: Path, files: dict[str, str]) -> None:
    at = datetime.fromtimestamp(published.known(tmp_path, WWW).checked or 0, UTC)
    text = f"unreachable; last seen {at:%Y-%m-%d %H:%M} UTC"
    left(tmp_path, files=None, problems={"connecting": "no answer. Start it"})
    found = look(tmp_path)
    assert shown(found) == (State.UNREACHABLE, text, False)
    (problem,) = found.summary.problems
    assert problem.remedy == "Start it"
    left(tmp_path, files=None)
    assert shown(look(tmp_path)) == (State.UNREACHABLE, text, False), "with no reason at hand too"


def test_a_mirror_says_where_clients_find_it_what_room_it_has_and_how_far_it_is(
    tmp_path: Path, files: dict[str, str]
) -> None:
    left(tmp_path, files=files, free=5)
    sent = UnderWay(quote(WWW, safe=""), "upload", NEWEST, 3, 9, time.time(), 4.0)
    under_way.records(tmp_path).put(sent)
    audit = AuditReport("audit", begun=99.0, at={WWW: 77.0})
    audit_report.records(tmp_path).put(audit)
    disk = Reader(tmp_path).read()
    (one,) = view.repository(disk, place=Place(tmp_path, [WWW], "https://images")).summary.remotes
    assert one.address == "https://images"
    assert one.audited == datetime.fromtimestamp(77, UTC), "by an audit that looked at it"
    assert one.space == Space(free=5, days=None)
    assert one.progress == Progress(what=NEWEST, done=3, total=9, seconds_left=4.0)
    several = Place(tmp_path, [WWW, OTHER], "https://www/images")
    found = {one.name: one for one in view.repository(disk, place=several).summary.remotes}
    assert {name: one.address for name, one in found.items()} == {
        WWW: "https://www/images",
        OTHER: "",
    }, "of several it is known of the one that clients use"
    other = found[OTHER]
    assert (other.progress, other.space, other.audited) == (None, None, None)


def test_who_cannot_be_told_is_a_problem_until_a_message_goes_out(
    tmp_path: Path, files: dict[str, str]
) -> None:
    alerts = Mirror(tmp_path).state.alerts

    def told(*ways: str) -> Repository:
        place = Place(tmp_path, [WWW], ways=ways)
        dags = [Dag(model.ALERT, loaded=False)]  # the test of it is no problem
        return view.repository(Reader(tmp_path).read(), dags=dags, place=place, now=TOMORROW)

    alerts.put(AlertRecord("alert", 99.0, "prepare: failed", 77.0, "e-mail: no answer"))
    found = told("e-mail").summary
    (problem,) = found.problems
    assert problem.message == "A message could not be sent: e-mail: no answer"
    assert found.alerts is not None
    assert found.alerts.last == datetime.fromtimestamp(77, UTC)
    assert told().summary.ok, "nobody wants to be told"
    alerts.put(AlertRecord("alert", 100.0, "prepare: failed", 100.0))
    assert told("e-mail").summary.ok


def test_last_published_is_when_clients_got_it_not_when_it_was_prepared(
    tmp_path: Path, files: dict[str, str]
) -> None:
    at = look(tmp_path).summary.changed
    assert at is not None
    os.utime(tmp_path / "CKSUMS", (at.timestamp() + 500, at.timestamp() + 500))
    left(tmp_path, OTHER, files=files)
    assert look(tmp_path).summary.changed == at


def test_a_mirror_that_no_run_has_looked_at_is_unknown(tmp_path: Path) -> None:
    make_mirror(tmp_path, images=2)
    text = "unknown: no run has looked at it yet"
    assert shown(look(tmp_path)) == (State.UNKNOWN, text, True), "publish is about to start"
    assert shown(look(tmp_path, now=TOMORROW)) == (State.UNKNOWN, text, False)


def test_what_is_wrong_with_a_mirror_is_a_problem_even_where_it_has_everything(
    tmp_path: Path, files: dict[str, str]
) -> None:
    left(tmp_path, files=files, problems={"removing": "too much would go. Allow it"})
    text = "behind: the last run could not do everything"
    assert shown(look(tmp_path)) == (State.BEHIND, text, False)


def test_a_mirror_that_is_not_published_to_any_more_does_not_count(
    tmp_path: Path, files: dict[str, str]
) -> None:
    left(tmp_path, OTHER, files={}, problems={"connecting": "no answer"})
    found = look(tmp_path, now=TOMORROW)
    assert [(one.name, one.configured) for one in found.summary.remotes] == [
        (WWW, True),
        (OTHER, False),
    ]
    assert found.summary.ok
    assert "not configured" in Elements(page.render(found)).text
    nothing_configured = view.repository(Reader(tmp_path).read(), now=TOMORROW)
    assert not nothing_configured.summary.ok, "then all that were published to count"


def test_a_green_page_gets_old_when_the_schedule_is_not_kept(
    tmp_path: Path, files: dict[str, str]
) -> None:
    good = run("success")

    def problem(now: datetime, *runs: Run, dag: Dag = IDLE) -> str:
        found = look(tmp_path, *runs, dags=[dag], now=now)
        assert found.summary.ok is not bool(found.summary.problems)
        return " ".join(one.message for one in found.summary.problems)

    assert problem(NEXT + PATIENCE, good) == ""
    late = NEXT + PATIENCE + timedelta(seconds=1)
    said = problem(late, good)
    assert "No run has started that was due 2026-01-03 01:30 UTC" in said
    assert "the last good run ended 2026-01-02 01:35 UTC" in said
    paused = IDLE._replace(paused=True)
    assert problem(NEXT, good, dag=paused) == ""
    assert "It is paused, and a run was due" in problem(late, good, dag=paused)
    hangs = run("running", hours=1)
    assert problem(NEXT, hangs, good) == ""
    assert "A run has not ended, and the next one was due" in problem(late, hangs, good)
    by_hand = IDLE._replace(due=None)
    assert problem(late, good, dag=by_hand) == "", "it has no schedule"
    broken = by_hand._replace(loaded=False)
    assert "cannot load" in problem(NIGHT, good, dag=broken)


def test_a_run_that_waits_and_waits_is_a_problem(tmp_path: Path, files: dict[str, str]) -> None:
    waiting = run("queued").model_copy(update={"queued": NIGHT, "started": None, "ended": None})
    dag = Dag(dag_id=model.PREPARE)

    def problems(now: datetime, *runs: Run, paused: bool = False) -> list[str]:
        dags = [dag._replace(paused=paused)]
        return [one.message for one in look(tmp_path, *runs, dags=dags, now=now).summary.problems]

    assert problems(NIGHT + PATIENCE, waiting) == []
    late = NIGHT + PATIENCE + timedelta(seconds=1)
    assert problems(late, waiting) == ["A run waits to start since 2026-01-02 01:30 UTC"]
    assert problems(late, waiting, run("running")) == [], "one after another"
    (said,) = problems(NIGHT, waiting, paused=True)
    assert "It is paused, and a run waits to start" in said
    text = Elements(page.render(look(tmp_path, waiting, now=NIGHT))).text
    assert "scheduled, waiting to start" in text


def test_runs_that_say_nothing_of_the_repository_do_not_turn_it_red(
    tmp_path: Path, files: dict[str, str]
) -> None:
    said = "/other: there is no such folder"
    own = run("failed", hours=2).model_copy(update={"counts": False, "error": said})
    found = look(tmp_path, own, run("success"))
    assert found.summary.ok
    assert said in Elements(page.render(found)).text, "the run itself says it"
    bad = run("failed", hours=1).model_copy(update={"error": "/srv: there is no such folder"})
    found = look(tmp_path, own, bad)
    assert "/srv: there is no such folder" in found.summary.problems[0].message
    assert not look(tmp_path, own.model_copy(update={"state": "success"}), bad).summary.ok
