"""What a run leaves for people: nothing is said that is not so.

Airflow is imported by the tests, and not by this module: see test_tasks.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from puavo_repository.prepare.run import dry_run
from puavo_repository.publish.publisher import PublishReport
from support.repository import V1, V2, Repository, name

Kept = list[tuple[str, Mapping[str, Sequence[str]]]]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    from puavo_repository_airflow import summary

    found: Kept = []
    monkeypatch.setattr(summary, "keep", lambda *said: found.append(said))
    return found


def test_a_dry_run_does_not_call_up_to_date_what_it_does_not_look_at(
    repository: Repository, kept: Kept
) -> None:
    from puavo_repository_airflow import summary

    repository.add(name(V1))
    repository.add(name(V2))
    assert repository.prepare().ok
    for path in repository.mirror.glob("meta/*.json"):
        path.unlink()
    summary.planned(dry_run(repository.settings()))
    ((_, sections),) = kept
    glance = sections[summary.GLANCE]
    assert glance == ["Nothing to read, to make or to remove", "A run writes metadata that differs"]


def test_a_mirror_that_cannot_be_looked_at_any_more_was_published_to(kept: Kept) -> None:
    from puavo_repository_airflow import summary

    def of(report: PublishReport) -> dict[str, object]:
        return {"try": 1, **summary.step(report)}

    switched = PublishReport("sftp://one", uploaded={"a.img": 5}, switched=["meta/a.json"])
    lost = {"publishing": "no answer"}
    reports = [PublishReport(f"sftp://{name}", failed=lost) for name in ("one", "two")]
    unreached = of(PublishReport("sftp://two", failed=lost))
    summary.published(reports, [[of(switched)], [unreached, {}, {}]])
    ((did, sections),) = kept
    assert did == "1 file to 1 mirror"
    unknown, why = "how it stands is not known", "publishing: no answer"
    done = ["1 file sent (5 B)", "1 metadata file changed"]
    assert sections == {"sftp://one": [unknown, *done, why], "sftp://two": [unknown, why]}
    kept.clear()
    seen = PublishReport("sftp://one", generation=3, files={})
    summary.published([seen], [[{}, {}, {}]])
    assert kept == [("0 files to 1 mirror", {"sftp://one": ["generation 3"]})]
