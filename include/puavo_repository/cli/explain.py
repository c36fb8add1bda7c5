"""``explain`` of the command: what makes an rdiff large, as tables or JSON."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puavo_repository.cli.terminal import PROGRAM, print_json, print_lines
from puavo_repository.delta import AnchorEngine, contained
from puavo_repository.delta.engine import Side
from puavo_repository.delta.work import write_rdiff
from puavo_repository.errors import SettingsError
from puavo_repository.fleet import explain as explaining
from puavo_repository.fleet.advice import advise

_DESCRIPTION = (
    "Tells which files, folders, Debian packages and causes the bytes of an rdiff come from; each "
    "table adds up to its size. Without an rdiff, that between both images is made for it."
)


def explain(asked: argparse.Namespace) -> int:
    """Return 0; what cannot be explained is raised."""
    if not 0 < asked.share <= 100:
        raise SettingsError("--share", "not a percentage", expected="more than 0, at most 100")
    with _subjects([Path(path) for path in asked.paths]) as subjects:
        found = explaining.explain(*subjects)
    if asked.json:
        advice = [one._asdict() for one in advise(found)]
        print_json({**found.to_dict(asked.share / 100), "advice": advice})
    elif asked.advice:
        print_lines(map(str, advise(found)))
    else:
        print_lines(found.lines(asked.share / 100))
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of its arguments."""
    made = argparse.ArgumentParser(
        prog=f"{PROGRAM} explain",
        usage="%(prog)s [OPTIONS] RDIFF | OLD NEW | RDIFF OLD NEW",
        description=_DESCRIPTION,
    )
    of_paths = "an rdiff of a mirror, whose images lie there as well; two images; or all three"
    made.add_argument("paths", nargs="+", metavar="FILE", help=of_paths)
    of_share = "list the largest, until they are so much of the rdiff; default %(default)s %%"
    made.add_argument("--share", metavar="PERCENT", type=float, default=90, help=of_share)
    of_advice = "only what makes it larger than it need be, and what to do"
    made.add_argument("--advice", help=of_advice, action="store_true")
    made.add_argument("--json", help="the same as JSON on stdout", action="store_true")
    return made


@contextmanager
def _subjects(paths: list[Path]) -> Iterator[tuple[Path, Path, Path]]:
    """Give the rdiff, its source and its target; the rdiff is made where two images are given."""
    if folders := [path for path in paths if path.is_dir()]:
        raise SettingsError(folders[0], "this is a folder", expected="an rdiff or an image")
    if len(paths) == 3:
        yield paths[0], paths[1], paths[2]
    elif len(paths) == 1:
        yield paths[0], *explaining.images_of(paths[0])
    elif len(paths) == 2:
        with tempfile.TemporaryDirectory(prefix="puavo-explain-") as folder:
            part = Path(folder, f"{paths[0].stem} to {paths[1].stem}")
            sides = (Side(path) for path in paths)
            doing = "while it made the rdiff between them"
            contained.call(paths[1], doing, write_rdiff, AnchorEngine(), *sides, part, None)
            yield part, paths[0], paths[1]
    else:
        problem = f"{len(paths)} files are given"
        raise SettingsError("explain", problem, expected="RDIFF, OLD NEW, or RDIFF OLD NEW")
