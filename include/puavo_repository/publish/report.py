"""What publishing to one remote did."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from puavo_repository.errors import PublishError, StorageError
from puavo_repository.progress import format_bytes
from puavo_repository.publish.plan import Plan
from puavo_repository.publish.state import RemoteState

logger = logging.getLogger(__name__)


@dataclass
class PublishReport:
    """What publishing to one remote did, or would do; the steps fill it."""

    target: str  # the remote's URL
    dry_run: bool = False
    plan: list[str] = field(default_factory=list)  # lines for people; the last one sums up
    generation: int = 0  # the one that clients see now
    uploaded: dict[str, int] = field(default_factory=dict)  # bytes of the files that travelled
    assembled: dict[str, int] = field(default_factory=dict)  # of those made there from others
    present: int = 0  # files that were there already
    switched: list[str] = field(default_factory=list)  # metadata files written or removed
    withdrawn: list[str] = field(default_factory=list)  # not described while they were replaced
    waiting_for: dict[str, list[str]] = field(default_factory=dict)  # files, by metadata file
    pruned: dict[str, int] = field(default_factory=dict)  # bytes of the files that were removed
    waiting: list[str] = field(default_factory=list)  # unnamed files whose grace is not over
    foreign: int = 0  # files there that are not ours
    failed: dict[str, str] = field(default_factory=dict)  # why, by file or step
    files: Mapping[str, str] | None = None  # sha256 of what clients see; None: nobody could look
    bytes_sent: int = 0  # given to the connections
    seconds: float = 0.0
    transient: bool = False  # whether trying again later may help some file that failed

    def saw(self, state: RemoteState) -> None:
        """Take note of what clients are told, as it was found just now."""
        self.generation, self.files = state.journal.generation, state.published()

    def planned(self, state: RemoteState, plan: Plan) -> None:
        """Take note of what is there and what is to be done."""
        self.saw(state)
        self.plan, self.present, self.foreign = plan.lines(), plan.present, plan.foreign

    def left(self, state: RemoteState, plan: Plan) -> None:
        """Take note of what is still to be done, as it was found just now."""
        self.planned(state, plan)
        if not self.dry_run:
            missing = {item.path: "is not on the remote" for item in plan.transfers}
            missing |= dict.fromkeys(plan.documents, "is not published")
            self.failed = {**missing, **plan.problems, **self.failed}

    def checked(
        self, problem: str = "not everything is published", most: int | None = None
    ) -> None:
        """Raise if something failed; the rest is done.

        Args:
            problem: What to call that.
            most: How many of the failures the error names; the others are in the log. None for all.

        Raises:
            StorageError: Trying again later may help some of it.
            PublishError: It does not help.
        """
        if not self.ok:
            failed = [f"{subject}: {why}" for subject, why in self.failed.items()]
            most = len(failed) if most is None else most
            for text in failed[most:]:
                logger.error("%s", text)
            kind = StorageError if self.transient else PublishError
            raise kind(self.target, problem, found="; ".join(failed[:most]))

    @property
    def ok(self) -> bool:
        """Whether everything asked for is done."""
        return not (self.failed or self.waiting_for)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without what clients are told of: that is in the metadata."""
        hidden = {"files", "transient"}
        return {name: value for name, value in asdict(self).items() if name not in hidden}

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        nothing = f"{self.target}: nothing could be published"
        return [
            nothing if self.files is None else self._done(),
            *(f"{subject}: {problem}" for subject, problem in self.failed.items()),
            *(f"{path} {waits}" for path, waits in self.waits().items()),
        ]

    def waits(self) -> dict[str, str]:
        """Return what each metadata file that stays as it is waits for, in words."""
        return {
            path: f"waits for {', '.join(files[:3])}" for path, files in self.waiting_for.items()
        }

    def _done(self) -> str:
        up, made = sum(self.uploaded.values()), sum(self.assembled.values())
        done = (
            f"{self.target}: generation {self.generation}, {len(self.uploaded)} uploaded "
            f"({format_bytes(up)}), {len(self.assembled)} assembled there "
            f"({format_bytes(made)}), {self.present} present, {len(self.pruned)} removed"
        )
        return f"{done}; {format_bytes(self.bytes_sent)} sent in {self.seconds:.0f} s"
