"""The page as HTML. Everything is escaped by the template engine; nothing comes from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from puavo_repository.progress import count, format_bytes
from puavo_repository.web import figures, model, status, words
from puavo_repository.web.model import Image, Rdiff, Repository, Series

REFRESH = 10  # seconds between two looks of a page that is open
STATIC = Path(__file__).with_name("static")
STAGES = (  # of prepare
    "discover",
    "configure",
    "dry_run",
    "plan",
    "fingerprint",
    "pairs",
    "diff",
    "describe",
    "report",
)


def moment(at: datetime | None) -> Markup:
    """Render a moment; the page's script says how long ago that is."""
    if at is None:
        return Markup("never")
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(timespec="seconds"), words.when(at)
    )


def matrix(series: Series) -> dict[str, Any]:
    """Arrange the rdiffs of a series: what a client on each image fetches to reach a target.

    Returns:
        ``targets``, the images that rdiffs lead to; ``rows``, pairs of an image and its cells;
        ``strangers``, pairs of a version from outside the series and its cells. A cell is None
        where there is no rdiff.
    """
    targets = [image for image in series.images if image.rdiffs]
    cells = {(r.source, r.target): r for image in targets for r in image.rdiffs}
    versions = {image.version for image in series.images}
    strangers = dict.fromkeys(source for source, _ in cells if source not in versions)

    def row(source: str) -> list[tuple[Image, Rdiff | None]]:
        return [(target, cells.get((source, target.version))) for target in targets]

    return {
        "targets": targets,
        "rows": [(image, row(image.version)) for image in reversed(series.images)],
        "strangers": [(source, row(source)) for source in strangers],
    }


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_ENVIRONMENT.filters |= {
    "size": format_bytes,
    "count": count,
    "version": words.version,
    "percent": words.percent,
    "moment": moment,
    "seconds": words.seconds,
    "heat": figures.heat,
    "matrix": matrix,
    "timeline": figures.timeline,
}
_ENVIRONMENT.globals |= {
    "figures": figures,
    "model": model,
    "status": status,
    "refresh": lambda: REFRESH,
}


def render(found: Repository) -> str:
    """Render the page."""
    prepares = [run for run in found.runs if run.dag_id == model.PREPARE]
    others = [stage.name for run in prepares for stage in run.stages]
    stages = list(dict.fromkeys((*STAGES, *others)))
    return _ENVIRONMENT.get_template("page.html").render(
        up="",
        summary=found.summary,
        series=found.series,
        runs=found.runs,
        latest=next((run for run in prepares if run.counts), None),
        sizes=figures.sizes_over_time(found.series),
        savings=figures.savings(found.series),
        durations=figures.durations(prepares, stages),
        stages=stages,
    )


def render_run(dag_id: str, run_id: str, document: Mapping[str, Any] | None) -> str:
    """Render what a run did, or what a dry run would do.

    Args:
        dag_id: The DAG.
        run_id: The run.
        document: Its ``summary`` (``did`` in a few words, and ``sections`` of a title and lines
            each) and its ``failure`` texts; None where there is nothing yet.
    """
    found = document or {}
    return _ENVIRONMENT.get_template("run.html").render(
        up="../",
        dag_id=dag_id,
        run_id=run_id,
        summary=found.get("summary") or {"did": "", "sections": []},
        failures=found.get("failure", []),
    )


def render_refused(code: int, detail: str) -> str:
    """Render what somebody sees who may not see the page."""
    return _ENVIRONMENT.get_template("refused.html").render(code=code, detail=detail)
