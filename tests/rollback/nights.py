"""Nights to go back to."""

from __future__ import annotations

from pathlib import Path

from puavo_repository.publish.publisher import Publisher
from puavo_repository.remote.target import Target
from puavo_repository.rollback import rollback
from support.mirrors import KEEP, add_image, documents, image, publish


def nights(mirror: Path, target: Target, remote: Path, count: int) -> list[dict[str, bytes]]:
    """Publish some nights with a new image each; return what clients saw after each."""
    names = [image(1), image(2)]
    seen = []
    for night in range(count):
        if night:
            names = add_image(mirror, names, keep=3, seed=night)
        assert publish(mirror, target, KEEP).ok
        seen.append(documents(remote))
    return seen


def roll_back(mirror: Path, target: Target, to: int | None = None, *series: str) -> int:
    """Roll clients back; return the generation that they see then."""
    with Publisher(mirror, target, KEEP) as publisher:
        return rollback.roll_back(publisher, to, series).generation
