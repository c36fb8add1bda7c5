"""How many cores this process may keep busy: what its affinity and its control groups leave it.

A container or a service with a limit of two cores sees all cores of its machine. Who starts a
thread for each is stopped by the kernel for most of the time, and holds memory for all of them.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUP, _TOP = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cores() -> int:
    """Return the number of cores; a share of one counts as one."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, _limits())]))


def _limits() -> Iterator[float]:
    """Yield the cores that this process' control group, and each one around it, allows.

    See cgroups(7). A container may see its own group as the root of all, under whatever path.
    """
    with suppress(OSError):
        for _, kinds, path in (line.split(":", 2) for line in _GROUP.read_text().splitlines()):
            if not kinds:  # version 2
                top, names = _TOP, ["cpu.max"]
            elif "cpu" in kinds.split(","):
                top, names = _TOP / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            folder = top / path.lstrip("/")
            for one in (folder, *folder.parents):
                with suppress(OSError, ValueError, ZeroDivisionError):
                    quota, period = " ".join((one / name).read_text() for name in names).split()
                    if (limit := float(quota) / float(period)) > 0:  # "max" is none, and so is -1
                        yield limit
