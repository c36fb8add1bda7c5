"""How long the page takes: 40 series of 10 images with 9 rdiffs each, 10 mirrors, 75 runs.

    PYTHONPATH=include:tests python -m benchmarks.page

A Markdown table: a whole answer by HTTP's own path through the application, without Airflow, whose
login and database come on top.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fastapi.testclient import TestClient

from puavo_repository.formats import metadata
from puavo_repository.mirror import published
from puavo_repository.web.app import create_app
from puavo_repository.web.disk import Place, Reader
from puavo_repository.web.model import Dag, Run
from web.mirrors import make_mirror
from web.test_app import choices, document, schemas
from web.test_view import run

MIRRORS = [f"sftp://mirror@host{number}/srv/mirror" for number in range(10)]
ROUNDS = 7


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        mirror = make_mirror(Path(folder, "mirror"), series=40, images=10)
        described = metadata.described_files(Reader(mirror.root).read().series)
        files = {file.path: file.sha256 for file in described}
        runs = [run("success", hours=-hour) for hour in range(75)]

        def publish() -> None:
            for remote in MIRRORS:
                published.remember(mirror.root, remote, 3, files=files, problems={}, free=5)

        def prepare() -> None:
            for path in mirror.meta.iterdir():
                os.utime(path)

        def known() -> tuple[list[Run], list[Dag]]:
            return runs, []

        publish()
        place = Place(mirror.root, MIRRORS, "https://images.example.org")
        with TestClient(create_app(lambda: place, [], known, document, choices, schemas)) as client:
            print("| the page | time |\n|---|---|")
            for what, change in {
                "first look of a process": None,
                "after a night: every metadata file is new": prepare,
                "after publishing: every mirror is new": publish,
                "nothing new": None,
            }.items():
                rounds = 1 if "first" in what else ROUNDS
                print(f"| {what} | {_seconds(client, change, rounds) * 1e3:.0f} ms |", flush=True)


def _seconds(client: TestClient, change: Callable[[], None] | None, rounds: int) -> float:
    """Return the median time of an answer, each after a change."""
    taken = []
    for _ in range(rounds):
        if change is not None:
            change()
        begun = time.perf_counter()
        answer = client.get("/")
        taken.append(time.perf_counter() - begun)
        assert "400 images" in answer.text
    return sorted(taken)[rounds // 2]


if __name__ == "__main__":
    main()
