"""The page of a rollback: what can be rolled back to, and what clients then see, in words. Pure.

Nothing is chosen beforehand: neither the generation nor the series, all of which are a choice too.
"""

from typing import NamedTuple

from puavo_repository.language import _, counted
from puavo_repository.rollback.changes import Change
from puavo_repository.web import page
from puavo_repository.web.model import ROLLBACK, Summary
from puavo_repository.web.offered import Choices, Generation, Generations
from puavo_repository.web.words import version

ALL = "*"  # stands for every series


class Chosen(NamedTuple):
    """What was chosen so far."""

    mirror: str
    run_id: str = ""  # of the dry run that looked at it; empty where none was asked for yet
    generation: int | None = None
    series: tuple[str, ...] = ()  # or ``ALL``


def difference(one: Change) -> str:
    """Return what a rollback of one series means for clients, as a sentence."""
    said = []
    if one.now and not one.then:
        said.append(_("the series is not offered any more"))
    elif one.then and not one.now:
        said.append(_("the series is offered again, newest %(then)s", then=version(one.then)))
    elif one.now != one.then:
        there = {"now": version(one.now), "then": version(one.then)}
        said.append(_("newest goes from %(now)s to %(then)s", **there))
    if gone := _files(one.images, one.rdiffs):
        said.append(_("not offered any more: %(files)s", files=gone))
    if again := _files(one.images_again, one.rdiffs_again):
        said.append(_("offered again: %(files)s", files=again))
    return "; ".join(said) or _("other metadata, the same files")


def _files(images: int, rdiffs: int) -> str:
    parts = [
        counted("%(num)s image", "%(num)s images", images) if images else "",
        counted("%(num)s rdiff", "%(num)s rdiffs", rdiffs) if rdiffs else "",
    ]
    return ", ".join(filter(None, parts))


def chosen(there: Generations, asked: Chosen) -> Generation | None:
    """Return the generation with the differences of the series; None where that cannot be."""
    found = next((one for one in there.generations if one.number == asked.generation), None)
    if found is None or found.current or found.problem:
        return None
    differ = [one for one in found.differences if {one.series, ALL} & {*asked.series}]
    if not differ or (ALL not in asked.series and len(differ) < len(asked.series)):
        return None
    return found.model_copy(update={"differences": differ})


def render(summary: Summary, asked: Chosen, found: Choices, next_id: str) -> str:
    """Render the page, at the step that the choices so far have led to.

    ``found`` is what the dry run found, and ``next_id`` that of the next run of the DAG.
    """
    mirror = asked.mirror
    there = next((one for one in found.mirrors if one.mirror == mirror), None)
    now = next((one for one in there.generations if one.current), None) if there else None
    seen = next((one.generation for one in summary.remotes if one.name == mirror), 0)
    return page.rendered(
        "rollback.html",
        up="../",
        summary=summary,
        dag=ROLLBACK,
        mirror=mirror,
        run_id=asked.run_id,
        failures=found.failures,
        there=there,
        now=now,
        changed=bool(now and seen and now.number != seen),
        then=chosen(there, asked) if there else None,
        series=[] if ALL in asked.series else list(asked.series),
        difference=difference,
        next_ids={ROLLBACK: next_id},
        ALL=ALL,
    )
