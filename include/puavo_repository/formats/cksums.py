"""``CKSUMS``: one line a file of all series, as ``cksum`` prints it."""

from __future__ import annotations

from collections.abc import Iterable


def render(files: Iterable[tuple[str, str, int]]) -> bytes:
    """Render the file.

    Args:
        files: (name without folder, POSIX cksum in decimal, size in bytes), in any order; a
            file that two series share may come twice.

    Returns:
        Each file once, sorted by name.
    """
    lines = {name: f"{cksum} {size} {name}\n" for name, cksum, size in files}
    return "".join(lines[name] for name in sorted(lines)).encode()
