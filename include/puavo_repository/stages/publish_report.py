"""What publishing to one remote did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from puavo_repository.errors import PublishError
from puavo_repository.stages.prune import Pruned
from puavo_repository.stages.publish_plan import How, mega
from puavo_repository.stages.switch import Switched
from puavo_repository.stages.transfer import Placed


@dataclass
class PublishReport:
    """What publishing to one remote did, or would do.

    Attributes:
        target: The remote's URL.
        dry_run: Whether nothing was changed.
        plan: The plan, as lines for people.
        generation: The generation that clients see now.
        uploaded: Files whose bytes travelled, and their size in bytes.
        assembled: Files that the server made from others, and their size.
        present: How many files were there already.
        switched: Metadata files that were written or removed.
        withdrawn: Files that clients were not told of while they were replaced.
        held: Metadata files left as they are, and the files they wait for.
        pruned: Files that were removed, and their size.
        waiting: Files that no metadata names and whose grace is not over.
        foreign: How many files there are not ours.
        failed: What could not be done, by file or step, and why.
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
    held: dict[str, list[str]] = field(default_factory=dict)
    pruned: dict[str, int] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    foreign: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    bytes_sent: int = 0
    seconds: float = 0.0

    def placed(self, files: Iterable[Placed]) -> None:
        """Take note of files that are proven on the remote."""
        for file in files:
            into = self.assembled if file.how is How.ASSEMBLED else self.uploaded
            into[file.path] = file.size

    def took(self, done: dict[str, Any]) -> None:
        """Take note of what a task says, ``switched`` or ``pruned``, as plain values."""
        if "switched" in done:
            self.switched_to(Switched(**done["switched"]))
        if "pruned" in done:
            self.cleaned(Pruned(**done["pruned"]))

    def switched_to(self, done: Switched) -> None:
        """Take note of what clients are told now."""
        self.switched = [*done.documents, *done.dropped]
        self.withdrawn, self.held = done.withdrawn, done.held

    def cleaned(self, done: Pruned) -> None:
        """Take note of what was removed."""
        self.pruned, self.waiting = done.removed, done.waiting

    def checked(self) -> PublishReport:
        """Return the report itself if all went well.

        Raises:
            PublishError: Something failed; the rest is done.
        """
        if self.ok:
            return self
        found = "; ".join(f"{subject}: {problem}" for subject, problem in self.failed.items())
        raise PublishError(self.target, "not everything is published", found=found)

    @property
    def ok(self) -> bool:
        """Whether everything asked for is done."""
        return not (self.failed or self.held)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        up, made = sum(self.uploaded.values()), sum(self.assembled.values())
        done = (
            f"{self.target}: generation {self.generation}, {len(self.uploaded)} uploaded "
            f"({mega(up)}), {len(self.assembled)} assembled there ({mega(made)}), {self.present} "
            f"present, {len(self.pruned)} removed"
        )
        if self.seconds:  # the DAG's report is not one run's, but of many tasks
            done += f"; {mega(self.bytes_sent)} sent in {self.seconds:.0f} s"
        return [
            done,
            *(f"{subject}: {problem}" for subject, problem in self.failed.items()),
            *(f"{path} waits for {', '.join(files[:3])}" for path, files in self.held.items()),
        ]
