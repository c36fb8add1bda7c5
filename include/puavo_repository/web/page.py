"""The page as HTML. Pure.

Everything is escaped by the template engine, and nothing comes from elsewhere. What is long (the
images and rdiffs of a series) has a page of its own, which the script fetches when somebody opens
it; so the page stays small, however large the repository is.
"""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from puavo_repository import language
from puavo_repository.errors import printable
from puavo_repository.fleet.advice import advise
from puavo_repository.fleet.explanation import VIEWS, Explanation
from puavo_repository.formats.names import image_name
from puavo_repository.language import gettext, ngettext, percent, size
from puavo_repository.web import figures, model, status, words
from puavo_repository.web.model import Problem, Repository, Run
from puavo_repository.web.offered import RdiffState, Series
from puavo_repository.web.words import seconds, version

REFRESH = 10.0  # seconds between two looks of a page that is open
SOON = 2.5  # the same while something runs
RUNS, PROBLEMS = 8, 50  # shown at first sight, and at most
STATIC = Path(__file__).with_name("static")
_TIME = Markup('<time datetime="{at}" data-show="{show}">{text}</time>')
_WHEN = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d UTC)")  # as ``words.when`` has them


FILES = {path.name: path.read_bytes() for path in STATIC.iterdir()}


def static(name: str) -> str:
    """Return the address of a static file: another content has another address."""
    return f"static/{name}?v={zlib.crc32(FILES[name]):08x}"


def moment(at: datetime | None, show: str = "ago") -> Markup:
    """Render a moment; the page's script says how long ago that is, or the ``clock`` here."""
    if at is None:
        return Markup()
    text = f"{at:%H:%M} UTC" if show == "clock" else words.when(at)
    return _TIME.format(at=at.isoformat(timespec="seconds"), show=show, text=text)


def told(sentence: str) -> Markup:
    """Render a sentence; the page's script shows its moments in the reader's own time."""
    parts = _WHEN.split(sentence)
    for index in range(1, len(parts), 2):
        with suppress(ValueError):  # it is somebody's text that looks like one
            at = datetime.strptime(parts[index], "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
            parts[index] = moment(at, "moment")
    return Markup("").join(parts)


def rhythm(cron: str, near: datetime | None) -> tuple[str, datetime] | None:
    """Return whether a schedule is of every day or week, and one of its moments.

    None where it is another one, which is best shown as it is.
    """
    found = re.fullmatch(r"(\d+) (\d+) \* \* (\*|\d)", cron)
    if found is None:
        return None
    minute, hour, weekday = found.groups()
    at = (near or datetime.now(UTC)).replace(hour=int(hour), minute=int(minute), second=0)
    if weekday == "*":
        return "day", at
    return "week", at + timedelta(days=(int(weekday) - 1 - at.weekday()) % 7)


def next_run_id(runs: Sequence[Run], dag_id: str) -> str:
    """Return the id of the run that comes after the newest one that the page shows.

    Who presses a button twice, or in two windows, asks for the same run twice: Airflow refuses the
    second. The form of an id is Airflow's, and its length stays bounded.
    """
    last = next((run.run_id for run in runs if run.dag_id == dag_id), "none")
    found = re.fullmatch(r"page__(\d+)__after_(.*)", last)
    number, first = (int(found[1]), found[2]) if found else (0, last)
    return f"page__{number + 1}__after_{re.sub(r'[^A-Za-z0-9_.~:+-]', '-', first)[:150]}"


def client_lines(series: str, address: str) -> dict[str, str]:
    """Return what makes clients use a series: keys of puavo-conf, and their values as JSON.

    From Puavo OS (``parts/core/puavo-conf/definitions/puavo-image.json``): servers are host names
    with spaces between, asked by https; URLs are a JSON array. Puavo Web takes texts alone.
    """
    parts = urlsplit(address)
    server = (parts.netloc + parts.path).rstrip("/")
    urls = json.dumps([f"{address.rstrip('/')}/meta/{series}.json"])
    return {
        "puavo.image.servers": json.dumps(server),
        "puavo.image.series.urls": json.dumps(urls),
    }


def key(text: str) -> str:
    """Return what is short and the same for the same text: part of an element's id."""
    return f"{zlib.crc32(text.encode()):08x}"


def matrix(series: Series) -> dict[str, Any]:
    """Return what a client on each image of a series fetches to reach a target.

    That is, the ``targets`` that rdiffs lead to, the ``rdiffs`` by the versions of source and
    target, and the ``strangers`` among the sources: versions from outside the series.
    """
    targets = [image for image in series.images if image.rdiffs]
    rdiffs = {(r.source, r.target): r for image in targets for r in image.rdiffs}
    versions = {image.version for image in series.images}
    strangers = dict.fromkeys(source for source, _ in rdiffs if source not in versions)
    return {"targets": targets, "rdiffs": rdiffs, "strangers": list(strangers)}


def troubled(series: Series, problems: Sequence[Problem]) -> bool:
    """Tell whether something is wrong with a series."""
    rdiffs = [rdiff for image in series.images for rdiff in image.rdiffs]
    wrong = {RdiffState.FAILED, RdiffState.MISSING}
    names = {f"meta/{series.name}.json", *(image.filename for image in series.images)}
    names |= {rdiff.filename for rdiff in rdiffs}
    return any(rdiff.state in wrong for rdiff in rdiffs) or any(
        problem.name.removeprefix("rdiffs/") in names for problem in problems
    )


def of_image(name: str) -> str:
    """Render the version in an image's name."""
    return version(image_name(name).number)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
    extensions=["jinja2.ext.i18n"],
)
_ENVIRONMENT.install_gettext_callables(gettext, ngettext, newstyle=True)  # type: ignore[attr-defined]
_FILTERS = (
    figures.heat,
    figures.timeline,
    key,
    matrix,
    moment,
    of_image,
    percent,
    rhythm,
    seconds,
    size,
    told,
    troubled,
    version,
)
_ENVIRONMENT.filters |= {one.__name__: one for one in _FILTERS} | {"translated": gettext}
_ENVIRONMENT.globals |= {
    "figures": figures,
    "language": language,
    "model": model,
    "PROBLEMS": PROBLEMS,
    "refresh": lambda active: min(SOON, REFRESH) if active else REFRESH,
    "RUNS": RUNS,
    "static": static,
    "UP_TO_DATE": status.UP_TO_DATE,
}


def rendered(template: str, **values: Any) -> str:
    """Render a template."""
    return _ENVIRONMENT.get_template(template).render(values)


def render(found: Repository) -> str:
    """Render the page."""
    prepares = [run for run in found.runs if run.dag_id == model.PREPARE]
    # In their order, as the run that came furthest had them.
    furthest = sorted(prepares, key=lambda run: len(run.stages), reverse=True)
    stages = list(dict.fromkeys(stage.name for run in furthest for stage in run.stages))
    return rendered(
        "page.html",
        up="",
        summary=found.summary,
        series=found.series,
        runs=found.runs,
        next_ids={dag_id: next_run_id(found.runs, dag_id) for dag_id in model.DAGS},
        latest=next((run for run in prepares if run.counts), None),
        sizes=figures.sizes_over_time(found.series),
        durations=figures.durations(prepares, stages),
        usage=found.usage,
        fetched=figures.fetched(found.usage),
        stages=stages,
    )


def render_series(one: Series, found: Repository) -> str:
    """Render all that is known of a series: its images, and its rdiffs."""
    return rendered(
        "one_series.html", up="../../", one=one, address=found.summary.address, lines=client_lines
    )


def render_run(dag_id: str, run_id: str, document: Mapping[str, Any]) -> str:
    """Render what a run did, or what a dry run would do.

    The document has its ``summary`` (``did`` in a few words, and ``sections`` of a title and lines
    each) and its ``failure`` texts; neither where there is nothing yet.
    """
    return rendered(
        "run.html",
        up="../",
        dag_id=dag_id,
        run_id=run_id,
        summary=document.get("summary") or {"did": "", "sections": []},
        failures=document.get("failure", []),
    )


def render_explanation(name: str, found: Explanation | str) -> str:
    """Render why an rdiff is so large, or in words why that is not known."""
    problem = found if isinstance(found, str) else ""
    return rendered(
        "explanation.html",
        up="../",
        name=printable(name),
        problem=problem,
        found=found,
        views=list(VIEWS),
        advice=advise(found) if isinstance(found, Explanation) else [],
    )
