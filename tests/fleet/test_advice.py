"""What made an rdiff larger than it need be is named with its bytes, each once."""

from __future__ import annotations

from puavo_repository.fleet.advice import advise
from puavo_repository.fleet.explanation import Cause, Explanation, Item


def advice(*items: Item, kernels: tuple[str, ...] = ()) -> dict[str, int]:
    size = sum(item.size for item in items)
    found = advise(Explanation("r", "a", "b", size, 1000, items, kernels))
    assert sorted(found, key=lambda one: -one.size) == found
    return {one.name: one.size for one in found}


def new(path: str, size: int) -> Item:
    return Item(path, size, Cause.NEW)


def test_only_what_was_no_need_counts_and_each_byte_once() -> None:
    assert advice(
        new("/usr/bin/new", 1000),
        new("/var/cache/apt/pkgcache.bin", 1),
        new("/var/cache/a.pyc", 2),  # of both kinds: the first counts
        new("/var/log/dpkg.log", 10),
        new("/usr/lib/python3/x.pyc", 20),
        new("/boot/initrd.img-6.1.0-9-amd64", 40),
        Item("/etc/same", 100, Cause.PACKED, shared=70),
        Item("/etc/changed", 500, Cause.CHANGED, shared=500),
        Item("inode table", 900, Cause.TABLES),
        kernels=("6.1.0-9-amd64",),
    ) == {
        "caches": 3,
        "logs": 10,
        "compiled Python": 20,
        "initramfs": 40,
        "fragment neighbours": 70,
        "other packing": 30,
    }


def test_the_newest_kernel_of_each_flavour_is_no_old_one() -> None:
    kernels = ("6.1.0-9-amd64", "6.1.0-50-amd64", "6.1.0-9-rt-amd64", "5.10.0-1-amd64")
    items = [new(f"/usr/lib/modules/{version}/x.ko", 1) for version in kernels]
    items.append(new("/boot/vmlinuz-6.1.0-9-amd64", 4))
    assert advice(*items, kernels=kernels) == {"old kernels": 6}
    assert advice(*items[:1], kernels=kernels[:1]) == {}
