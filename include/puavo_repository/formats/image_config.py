"""``config/images/<distribution>.json``: which images each series offers.

Two shapes, also mixed in one file: a list of image names, or an object with ``images`` and
``extra_rdiffs`` (target image to further source images). Whatever else an operator put into
the object is carried along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from puavo_repository.errors import ConfigError
from puavo_repository.formats import jsonfile
from puavo_repository.formats.names import (
    LONGEST_IMAGE,
    LONGEST_SERIES,
    ImageName,
    distribution_of,
    is_plain_name,
)


@dataclass(frozen=True)
class SeriesConfig:
    """One series of a configuration file.

    Attributes:
        name: Also the name of its metadata file.
        images: File names in the order in which metadata lists them.
        extra_rdiffs: Target image to source images, beyond what the policy makes.
        others: Further keys of the object shape, not ours.
        as_object: Whether the file uses the object shape for it.
    """

    name: str
    images: tuple[str, ...]
    extra_rdiffs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)
    as_object: bool = False


def parse(data: bytes, path: Path) -> tuple[SeriesConfig, ...]:
    """Read a configuration file.

    Args:
        data: Its content.
        path: Its name, for error messages.

    Raises:
        ConfigError: It is not JSON, has another shape, or holds a name that is no file name.
    """
    try:
        document = jsonfile.loads(data)
    except ValueError as error:
        raise ConfigError(
            path,
            f"this is not a usable JSON file: {error}",
            remedy="Correct it, or move it away to have it made again",
        ) from error
    series = _of_type(path, "the file", document, dict, "an object {…}")
    return tuple(_parse_series(path, name, value) for name, value in series.items())


def render(series: Iterable[SeriesConfig]) -> bytes:
    """Render a configuration file, each series in its own shape."""
    return jsonfile.dumps({one.name: _render_series(one) for one in series})


def generate(
    present: Iterable[SeriesConfig], distribution: str, found: Mapping[str, tuple[str, ...]]
) -> tuple[SeriesConfig, ...]:
    """Say what a distribution's file should hold now.

    Series that discovery names get the images that were found, oldest first. Series that an
    operator named (their names follow another pattern, or belong to another distribution)
    stay as they are. One whose images are all gone goes, unless it holds ``extra_rdiffs``.

    Args:
        present: The series of the file as it is.
        distribution: Whose file it is.
        found: Discovered series of this distribution to image names, in order.
    """
    series = []
    rest = dict(found)
    for one in present:
        if distribution_of(one.name) != distribution:
            series.append(one)
            continue
        images = rest.pop(one.name, ())
        if images or one.extra_rdiffs or one.others:
            series.append(replace(one, images=images))
    series += [SeriesConfig(name, rest[name]) for name in sorted(rest)]
    return tuple(series)


def _parse_series(path: Path, name: str, value: Any) -> SeriesConfig:
    where = f"series {name}"
    if not is_plain_name(name) or len(name) > LONGEST_SERIES:
        raise ConfigError(
            path,
            f"the series name {name!r} cannot be a file name",
            expected=f"letters, digits and . _ + ~ - only, at most {LONGEST_SERIES} of them",
        )
    if isinstance(value, list):
        return SeriesConfig(name, _image_names(path, where, value))
    shapes = "a list of image names, or an object with a list of them as 'images'"
    others = dict(_of_type(path, where, value, dict, shapes))
    if "images" not in others:
        raise ConfigError(path, f"{where} has no 'images'", expected="a list of names")
    images = _image_names(path, f"'images' of {name}", others.pop("images"))
    where = f"'extra_rdiffs' of {name}"
    extra = _of_type(path, where, others.pop("extra_rdiffs", {}), dict, "an object {…}")
    extra = {
        target: _image_names(path, f"{where} for {target}", sources)
        for target, sources in zip(
            _image_names(path, where, list(extra)), extra.values(), strict=True
        )
    }
    return SeriesConfig(name, images, extra, others, as_object=True)


def _render_series(series: SeriesConfig) -> Any:
    if not series.as_object:
        return list(series.images)
    extra = {target: list(sources) for target, sources in series.extra_rdiffs.items()}
    return {
        "images": list(series.images),
        **({"extra_rdiffs": extra} if extra else {}),
        **series.others,
    }


def _image_names(path: Path, where: str, value: Any) -> tuple[str, ...]:
    names = _of_type(path, where, value, list, "a list […]")
    for name in names:
        _check_name(path, where, _of_type(path, f"an entry in {where}", name, str, 'a string "…"'))
    return tuple(names)


def _check_name(path: Path, where: str, name: str) -> None:
    if not is_plain_name(name) or ImageName.parse(name) is None:
        raise ConfigError(
            path,
            f"{where} names {name!r}, which is not the file name of an image",
            expected="<prefix>-<YYYY-MM-DD-HHMMSS>-<arch>.img, without any folder",
            remedy="Correct the name; images are looked for in IMAGE_DIR only",
        )
    if len(name) > LONGEST_IMAGE:
        raise ConfigError(
            path,
            f"{where} names {name!r}: that is too long, its rdiffs could not be published",
            expected=f"at most {LONGEST_IMAGE} bytes",
            found=f"{len(name)}",
            remedy="Give the image a shorter name",
        )


def _of_type(path: Path, where: str, value: Any, kind: type[Any], expected: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(
            path, f"{where} has the wrong type", expected=expected, found=jsonfile.type_name(value)
        )
    return value
