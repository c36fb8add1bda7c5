"""What publishing to one remote did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from puavo_repository.errors import PublishError
from puavo_repository.progress import format_bytes
from puavo_repository.publish.clean import Removed
from puavo_repository.publish.plan import How, Plan
from puavo_repository.publish.state import RemoteState
from puavo_repository.publish.switch import Switched
from puavo_repository.publish.transfer import Transferred


@dataclass
class PublishReport:
    """What publishing to one remote did, or would do.

    Attributes:
        target: The remote's URL.
        dry_run: Whether nothing was changed.
        plan: The plan, as lines for people; the last one sums up.
        generation: The generation that clients see now.
        uploaded: Files whose bytes travelled, and their size in bytes.
        assembled: Files that the server made from others, and their size.
        present: How many files were there already.
        switched: Metadata files that were written or removed.
        withdrawn: Files that clients were not told of while they were replaced.
        waiting_for: Metadata files left as they are, and the files they wait for.
        pruned: Files that were removed, and their size.
        waiting: Files that no metadata names and whose grace is not over.
        foreign: How many files there are not ours.
        failed: What could not be done, by file or step, and why.
        files: What its clients are told of, sha256 by path; None where nobody could look.
        bytes_sent: Bytes given to the connections.
        seconds: Time it took.
    """

    target: str
    dry_run: bool = False
    plan: list[str] = field(default_factory=list)
    generation: int = 0
    uploaded: dict[str, int] = field(default_factory=dict)
    assembled: dict[str, int] = field(default_factory=dict)
    present: int = 0
    switched: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    waiting_for: dict[str, list[str]] = field(default_factory=dict)
    pruned: dict[str, int] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    foreign: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    files: Mapping[str, str] | None = None
    bytes_sent: int = 0
    seconds: float = 0.0

    def transferred(self, file: Transferred) -> None:
        """Take note of a file that is proven on the remote."""
        into = self.assembled if file.how is How.ASSEMBLED else self.uploaded
        into[file.item.path] = file.item.size

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

    def switched_to(self, done: Switched) -> None:
        """Take note of what clients are told now."""
        self.switched = [*done.documents, *done.dropped]
        self.withdrawn, self.waiting_for = done.withdrawn, done.waiting_for

    def cleaned(self, done: Removed) -> None:
        """Take note of what was removed."""
        self.pruned, self.waiting = done.removed, done.waiting

    def checked(self) -> None:
        """Raise if something failed; the rest is done.

        Raises:
            PublishError: That is so.
        """
        if not self.ok:
            found = "; ".join(f"{subject}: {problem}" for subject, problem in self.failed.items())
            raise PublishError(self.target, "not everything is published", found=found)

    @property
    def ok(self) -> bool:
        """Whether everything asked for is done."""
        return not (self.failed or self.waiting_for)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without what clients are told of: that is in the metadata."""
        return {name: value for name, value in asdict(self).items() if name != "files"}

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        return [
            self._done()
            if self.files is not None
            else f"{self.target}: nothing could be published",
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
