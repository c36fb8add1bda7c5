"""To which generations a mirror can be rolled back, as a dry run of the rollback found them. Pure.

Such a run leaves a ``Generations`` for each mirror as plain values, and the page reads them.
"""

from datetime import datetime

from pydantic import Field

from puavo_repository.rollback.changes import Change
from puavo_repository.web.offered import Shown


class Generation(Shown):
    """One generation that is kept."""

    number: int
    at: datetime | None = Field(description="When it was published; None where that is not kept")
    current: bool = Field(description="Whether clients see it now")
    problem: str = Field(description="Why it cannot be rolled back to; empty where it can")
    differences: list[Change] = Field(description="By series; those that stay are not there")


class Generations(Shown):
    """What a mirror can be rolled back to, the current generation first."""

    mirror: str = Field(description="Its address, as the summary has it")
    generations: list[Generation]
    more: int = Field(default=0, description="How many older ones are kept that are not shown")


class Choices(Shown):
    """What a dry run of the rollback found."""

    mirrors: list[Generations] = Field(description="Empty until the run has come so far")
    failures: list[str] = Field(description="Why a mirror could not be looked at")
