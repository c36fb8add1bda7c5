"""``CKSUMS``: one line a file of all series, as ``cksum`` prints it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from puavo_repository.formats.metadata import DescribedFile, Document, described_files

_LINE = re.compile(rb"[0-9]* [0-9]+ [^ /]+")


def render(documents: Iterable[Document]) -> bytes:
    """Render the file.

    Args:
        documents: The metadata of all series; they may share files.

    Returns:
        A line a file, each once, sorted by name.
    """
    files = (file for document in documents for file in described_files(document))
    lines = {file.name: _line(file) for file in files}
    return "".join(lines[name] for name in sorted(lines)).encode()


def is_one(content: bytes) -> bool:
    """Tell whether this reads like such a file, ours or the old system's."""
    return all(_LINE.fullmatch(line) for line in content.splitlines())


def _line(file: DescribedFile) -> str:
    return f"{file.digests.get('cksum', '')} {file.size} {file.name}\n"
