"""How many cores this process may keep busy: what its affinity and its control groups leave it.

A container or a service with a limit of two cores sees all cores of its machine. Who starts a
thread for each is stopped by the kernel for most of the time, and holds memory for all of them.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROCESS = Path("/proc/self")


def cores() -> int:
    """Return the number of cores; a share of one counts as one."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, _limits())]))


def _limits() -> Iterator[float]:
    """Yield the cores that this process' control group, and each one around it, allows."""
    for folder, top in _groups():
        while folder.is_relative_to(top):
            with suppress(OSError, ValueError, ZeroDivisionError):
                if (folder / "cpu.max").exists():  # version 2
                    quota, period = (folder / "cpu.max").read_text().split()
                else:
                    names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
                    quota, period = ((folder / name).read_text() for name in names)
                if (limit := float(quota) / float(period)) > 0:  # "max" is none, and so is -1
                    yield limit
            folder = folder.parent


def _groups() -> Iterator[tuple[Path, Path]]:
    """Yield the folders of this process' control groups that limit cores, and their mount points.

    See cgroups(7) and proc(5). A container may see its own group as the root of all.
    """
    with suppress(OSError):
        named = [line.split(":", 2)[1:] for line in (_PROCESS / "cgroup").read_text().splitlines()]
        own = dict(named)
        for line in (_PROCESS / "mountinfo").read_text().splitlines():
            mount, system = (half.split() for half in line.split(" - "))
            options = system[-1].split(",")
            if system[0] == "cgroup2":
                group = own.get("")
            elif system[0] == "cgroup" and "cpu" in options:
                group = next((own[key] for key in own if "cpu" in key.split(",")), None)
            else:
                continue
            root, top = Path(mount[3]), Path(mount[4])
            if group is not None:
                inside = Path(group).is_relative_to(root)
                yield (top / Path(group).relative_to(root) if inside else top), top
