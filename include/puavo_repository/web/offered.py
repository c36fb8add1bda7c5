"""What is on offer, as the page shows it and the API serves it: series, images, rdiffs. Pure.

And to which generations a mirror can be rolled back: the dry run of a rollback leaves a
``Generations`` for each mirror as plain values, and the page reads them.

The field descriptions are the API's documentation. All sizes are bytes, all moments are UTC.
"""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from puavo_repository.rollback.changes import Change


class Shown(BaseModel):
    """Base of everything that is shown."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", from_attributes=True, populate_by_name=True
    )


class Digests(Shown):
    """Checksums of a file, as the metadata gives them; empty where it does not."""

    cksum: str = Field(description="POSIX cksum, decimal")
    sha256: str
    sha512: str


class RdiffState(StrEnum):
    """What is known of an rdiff."""

    OFFERED = "offered"
    TOO_LARGE = "too large"
    FAILED = "failed"
    MISSING = "missing"


class Rdiff(Shown):
    """The rdiff from one image to another."""

    filename: str
    state: RdiffState = Field(description="too large: not kept; missing: not there with its size")
    source: str = Field(description="Version of the image that a client has, digits alone")
    target: str = Field(description="Version of the image that it gets")
    size: int = Field(description="Bytes; 0 where it could not be made")
    share: float = Field(description="Its size as a share of the target image")
    digests: Digests | None = Field(description="None where it is not offered")


class Image(Shown):
    """One image on offer."""

    filename: str
    version: str = Field(description="Digits alone, as clients compare it")
    built: datetime | None = Field(description="The moment that its version names")
    size: int
    present: bool = Field(description="Whether it lies in the mirror with this size")
    digests: Digests
    rdiffs: list[Rdiff] = Field(description="Rdiffs that lead to it")

    def offered_from(self, version: str) -> Rdiff | None:
        """Return the rdiff from another image to this one, where it is on offer."""
        offered = (r for r in self.rdiffs if r.state is RdiffState.OFFERED)
        return next((r for r in offered if r.source == version), None)


class Series(Shown):
    """One series on offer, oldest image first."""

    name: str
    images: list[Image]
    update: int | None = Field(description="Bytes from the last image but one; None for all of it")
    saving: float = Field(description="What that client saves, as a share of the newest image")


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
