"""The command, imported once, for ``forks``."""

from puavo_repository import prepare
from puavo_repository.audit import audit
from puavo_repository.cli import main, mirrors
from puavo_repository.publish import run
from puavo_repository.rollback import rollback

__all__ = ["audit", "main", "mirrors", "prepare", "rollback", "run"]


def warm_up() -> None:
    """Nothing more is needed."""


def in_child() -> None:
    """Nothing more is needed."""
