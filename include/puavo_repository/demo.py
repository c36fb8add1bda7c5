"""Small images to try the repository with: ``python -m puavo_repository.demo FOLDER``.

Real squashfs, packed as Puavo packs its images, with the names of the old README: four images
of one series, each a small change to the one before, and one of another series.
"""

import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from puavo_repository.mirror import files

_SERIES = {
    "puavo-os-amxa-buster": (
        "2021-04-13-192449",
        "2021-04-13-193910",
        "2022-01-17-120001",
        "2022-01-20-173248",
    ),
    "puavo-os-free-buster": ("2022-02-04-140532",),
}
_FILES, _FILE_SIZE = 48, 256 << 10  # files of an image, bytes of each
_CHANGED = 3  # files that differ from one image to the next


def make_demo_images(folder: Path) -> list[Path]:
    """Make the images that are not there yet; return all of them."""
    images = []
    for prefix, versions in _SERIES.items():
        contents = {f"usr/lib/{n:02}.bin": _content(prefix, n, 0) for n in range(_FILES)}
        for number, version in enumerate(versions):
            for changed in range(_CHANGED if number else 0):
                name = (number * _CHANGED + changed) * 7 % _FILES
                contents[f"usr/lib/{name:02}.bin"] = _content(prefix, name, number)
            contents["usr/share/puavo-conf/definitions/demo.json"] = (
                f'{{"puavo.demo.version": {{"default": "{version}", "typehint": "string"}}}}\n'
            ).encode()
            images.append(folder / f"{prefix}-{version}-amd64.img")
            if not images[-1].exists():
                make_image(images[-1], contents)
    return images


def make_image(path: Path, contents: Mapping[str, bytes], *, compression: str = "lzo") -> None:
    """Pack files, content by relative path, into a squashfs image; the same give the same bytes."""
    with (
        tempfile.TemporaryDirectory(prefix="puavo-demo-") as folder,
        files.part_of(path) as part,
    ):
        for name, content in contents.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        command = ["mksquashfs", folder, str(part), "-noappend", "-no-progress", "-quiet"]
        command += ["-comp", compression, "-all-root", "-no-xattrs", "-no-sparse"]
        command += ["-mkfs-time", "0", "-all-time", "0"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        files.rename_into_place(part, path)


def _content(prefix: str, number: int, version: int) -> bytes:
    """Return bytes that compress by half, as programs do."""
    noise = random.Random(f"{prefix} {number} {version}")  # noqa: S311 - no secret
    block = noise.randbytes(_FILE_SIZE // 2)
    return b"".join(block[at : at + 32] + bytes(32) for at in range(0, len(block), 32))


if __name__ == "__main__":
    for image in make_demo_images(Path(sys.argv[1])):
        sys.stdout.write(f"{image}\n")
