"""What makes an rdiff larger than it need be, by the bytes that each costs. Pure.

Each byte counts once: for the first of the rules that a file falls under. What a rule names is what
the rdiff would be smaller by if those files were not in the image, or stayed as they are in the
source; what ``explain`` cannot know, such as a smaller gain of others, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from puavo_repository.fleet.explanation import Cause, Explanation, Item
from puavo_repository.language import _, counted, gettext, gettext_noop, size

_KERNEL = re.compile(
    r"(?:(?:/usr)?/lib/modules/|/boot/(?:vmlinuz|initrd\.img|config|System\.map)-)([^/]+)"
)
_FLAVOUR = re.compile(r"[\d.]+(?:-\d+)?")  # what comes before it, as 6.1.0-50 in 6.1.0-50-amd64


class Advice(NamedTuple):
    """One reason, what it costs and what to do about it."""

    name: str
    size: int  # bytes of the rdiff
    files: int
    remedy: str

    def __str__(self) -> str:
        said = {"size": size(self.size), "cause": self.name, "remedy": self.remedy}
        return counted(
            "%(size)s for %(cause)s (%(num)s file): %(remedy)s",
            "%(size)s for %(cause)s (%(num)s files): %(remedy)s",
            self.files,
            **said,
        )


class _Rule(NamedTuple):
    name: str
    cost: Callable[[Item], int]  # bytes of a file that it speaks of
    remedy: str


def _under(pattern: str) -> Callable[[Item], int]:
    match = re.compile(pattern).match
    return lambda item: item.size if match(item.name) else 0


def _same(item: Item) -> bool:
    return item.cause is Cause.PACKED


_RULES = (
    _Rule(
        gettext_noop("initramfs"),
        _under(r"/boot/initrd\.img-"),
        gettext_noop("Build it reproducibly (SOURCE_DATE_EPOCH)"),
    ),
    _Rule(
        gettext_noop("caches"),
        _under(r"/var/cache/|/var/lib/apt/lists/|/root/\.cache/|/(?:var/)?tmp/|/var/backups/"),
        gettext_noop("Empty these folders before the image is packed"),
    ),
    _Rule(
        gettext_noop("logs"),
        _under(r"/var/log/"),
        gettext_noop("Empty /var/log before the image is packed"),
    ),
    _Rule(
        gettext_noop("compiled Python"),
        _under(r".*\.pyc$"),
        gettext_noop(
            "Leave it out, or make it with python3 -m compileall --invalidation-mode "
            "unchecked-hash: by default it holds the time of its source"
        ),
    ),
    _Rule(
        gettext_noop("fragment neighbours"),
        lambda item: item.shared if _same(item) else 0,
        gettext_noop(
            "These files are the same, only other small files beside them changed: "
            "-no-fragments keeps them apart, in a larger image"
        ),
    ),
    _Rule(
        gettext_noop("other packing"),
        lambda item: item.size - item.shared if _same(item) else 0,
        gettext_noop(
            "These files are the same: pack all images of a series with one version of mksquashfs, "
            "the same compressor, block size and options"
        ),
    ),
)


def advise(found: Explanation) -> list[Advice]:
    """Return what makes an rdiff larger than it need be, what costs most first."""
    rules = (_old_kernels(found.kernels), *_RULES)
    costs: dict[_Rule, list[int]] = {rule: [] for rule in rules}
    for item in found.items:
        left = item.size if item.is_file else 0
        for rule in rules:
            if cost := min(left, rule.cost(item)):
                costs[rule].append(cost)
                left -= cost
    advice = (
        Advice(gettext(rule.name), sum(all_), len(all_), gettext(rule.remedy))
        for rule, all_ in costs.items()
    )
    return sorted((one for one in advice if one.size), key=lambda one: (-one.size, one.name))


def kernel_of(path: str) -> str:
    """Return the version of the kernel that a file belongs to, empty where to none."""
    found = _KERNEL.match(path)
    return found[1] if found else ""


def _old_kernels(kernels: Sequence[str]) -> _Rule:
    """Return the rule of all kernels but the newest of each flavour, such as ``-amd64``."""
    newest: dict[str, str] = {}
    for version in sorted(kernels, key=_order):
        newest[_FLAVOUR.sub("", version, count=1)] = version
    old = ", ".join(sorted(set(kernels) - set(newest.values()), key=_order))

    def cost(item: Item) -> int:
        kernel = kernel_of(item.name)
        return item.size if kernel and kernel not in newest.values() else 0

    remedy = _("Purge the packages of %(versions)s: a newer one is there", versions=old)
    return _Rule(gettext_noop("old kernels"), cost, remedy)


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
