"""What must be installed on the machine beside Python packages."""

from __future__ import annotations

import os
import shutil

from puavo_repository.errors import SettingsError


def check() -> None:
    """Make sure that everything is there, before hours of work rather than after.

    Raises:
        SettingsError: Something is missing; the text names the Debian package.
    """
    from puavo_repository.delta import librsync  # slow to load, and only needed for work

    unsquashfs()
    librsync.library()


def unsquashfs() -> str:
    """Return where the program lies that reads single files out of an image.

    Raises:
        SettingsError: It is missing.
    """
    found = shutil.which("unsquashfs", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
    if found is None:
        raise SettingsError(
            "unsquashfs",
            "this program is missing",
            remedy="Install the Debian package squashfs-tools",
        )
    return found
