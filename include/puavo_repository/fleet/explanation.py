"""What an rdiff's bytes are, as data: by cause, package of Debian, folder and file. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from puavo_repository.language import _, counted, gettext, gettext_noop

_DEPTH = 3  # levels of the folders that are told of


class Cause(StrEnum):
    """Why bytes are in an rdiff."""

    NEW = gettext_noop("new file")
    CHANGED = gettext_noop("changed content")
    # Its fragment has other neighbours, say.
    PACKED = gettext_noop("same content, packed differently")
    TABLES = gettext_noop("tables")  # of inodes, folders, …
    PADDING = gettext_noop("padding")  # or a part that nothing refers to
    COMMANDS = gettext_noop("commands of the rdiff")


class Item(NamedTuple):
    """What has some bytes of an rdiff: a file by its path in the image, or a part of no file."""

    name: str
    size: int  # bytes of the rdiff
    cause: Cause
    package: str = ""  # of Debian; empty for what is of none
    shared: int = 0  # of its bytes, those in a fragment block

    @property
    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.name.startswith("/")

    @property
    def group(self) -> str:
        """Its package."""
        other = gettext("(no package)") if self.is_file else f"({gettext(self.cause)})"
        return self.package or other

    @property
    def folder(self) -> str:
        """Its folder, of at most three levels."""
        if not self.is_file:
            return f"({gettext(self.cause)})"
        return "/".join(self.name.split("/")[:-1][: _DEPTH + 1]) or "/"


VIEWS: Mapping[str, Callable[[Item], str]] = {
    gettext_noop("cause"): lambda item: gettext(item.cause),
    gettext_noop("package"): lambda item: item.group,
    gettext_noop("folder"): lambda item: item.folder,
    gettext_noop("file"): lambda item: item.name,
}


class Row(NamedTuple):
    """One line of a view."""

    name: str
    size: int
    items: tuple[Item, ...]

    def note(self, view: str) -> str:
        """Return what else there is to say of it."""
        one = self.items[0]
        if view == "file" and len(self.items) == 1:
            return ", ".join(filter(None, (gettext(one.cause), one.package))) if one.is_file else ""
        files = sum(item.is_file for item in self.items)
        return counted("%(num)s file", "%(num)s files", files) if one.is_file else ""


@dataclass(frozen=True)
class Explanation:
    """An rdiff's bytes; those of all items are its size."""

    rdiff: str
    source: str
    target: str
    size: int
    target_size: int
    items: Sequence[Item]
    kernels: Sequence[str] = ()  # versions of those in the target

    def rows(self, view: str, share: float = 1.0, most: int | None = None) -> list[Row]:
        """Return the groups of a view, largest first, until they are so much of the whole.

        At most so many, where that is given.
        One more row has the others, so that all of them are the size of the rdiff.
        """
        groups: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            groups[VIEWS[view](item)].append(item)
        rows = [
            Row(name, sum(i.size for i in group), tuple(group)) for name, group in groups.items()
        ]
        rows.sort(key=lambda row: (-row.size, row.name))
        share = 1.0 if view == "cause" else share
        shown, reached = 0, 0
        while shown < len(rows[:most]) and reached < share * self.size:
            reached += rows[shown].size
            shown += 1
        others = tuple(item for row in rows[shown:] for item in row.items)
        if others:
            name = _("(%(number)s others)", number=len(rows) - shown)
            return [*rows[:shown], Row(name, self.size - reached, others)]
        return rows

    def to_dict(self, share: float) -> dict[str, Any]:
        """Return plain values, for a program; each view adds up to ``size``."""
        return {
            "rdiff": self.rdiff,
            "source": self.source,
            "target": self.target,
            "size": self.size,
            "target_size": self.target_size,
            "by": {view: list(map(_plain, self.rows(view, share))) for view in VIEWS},
        }

    def lines(self, share: float) -> Iterator[str]:
        """Yield the views as tables for people."""
        part = self.size / self.target_size if self.target_size else 0
        yield f"{self.rdiff}: {self.size:,} bytes, {part:.1%} of {self.target}"
        for view in VIEWS:
            yield ""
            yield f"by {view}"
            for row in self.rows(view, share):
                note = row.note(view)
                line = f"{row.size:>15,} {row.size / self.size:>6.1%}  {row.name}"
                yield f"{line}: {note}" if note else line


def _plain(row: Row) -> dict[str, Any]:
    values: dict[str, Any] = {"name": row.name, "size": row.size, "count": len(row.items)}
    if len(row.items) == 1:
        values |= {"cause": row.items[0].cause.value, "package": row.items[0].package}
    return values
