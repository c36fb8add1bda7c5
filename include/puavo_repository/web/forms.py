"""The pages on which a run is set up, before Airflow is asked for it: a rollback, and options."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import HTMLResponse

from puavo_repository import settings
from puavo_repository.errors import RepositoryError
from puavo_repository.web import options, page, rolling
from puavo_repository.web.model import PUBLISH, ROLLBACK, Repository
from puavo_repository.web.offered import Choices
from puavo_repository.web.options import Checked, Schemas


def routes(
    look: Callable[..., Any],
    choices: Callable[..., Choices],
    schemas: Callable[..., Schemas],
) -> APIRouter:
    """Return the routes of these pages.

    All are dependencies: ``look`` returns what the page shows, ``choices`` what the
    dry run of a rollback found (``run_id`` in the query, which may be empty), and ``schemas`` the
    fields of a DAG's form (``dag_id`` in the query), for who may start it.
    """
    router = APIRouter()

    @router.get("/rollback/", response_class=HTMLResponse)
    def roll_back(
        mirror: str,
        run_id: str = "",
        generation: int | None = None,
        series: Annotated[list[str], Query()] = [],  # noqa: B006 - FastAPI copies it
        found: Choices = Depends(choices),
        seen: Repository = Depends(look),
    ) -> HTMLResponse:
        summary = seen.summary
        if all(one.name != mirror for one in summary.remotes):
            raise HTTPException(404, "no such mirror")
        next_id = page.next_run_id(seen.runs, ROLLBACK)
        chosen = rolling.Chosen(mirror, run_id, generation, tuple(series))
        return HTMLResponse(rolling.render(summary, chosen, found, next_id))

    @router.get("/options/", response_class=HTMLResponse)
    def show_options(
        dag_id: str, form: Schemas = Depends(schemas), seen: Repository = Depends(look)
    ) -> HTMLResponse:
        next_ids = {dag_id: page.next_run_id(seen.runs, dag_id)}
        values = {"dag": dag_id, "summary": seen.summary, "next_ids": next_ids}
        return HTMLResponse(
            page.rendered("options.html", up="../", sections=options.sections(form), **values)
        )

    @router.post("/options/check")
    def check(dag_id: str, typed: dict[str, Any], form: Schemas = Depends(schemas)) -> Checked:
        return options.check(form, typed, images=dag_id != PUBLISH)

    @router.get("/options/folders", dependencies=[Depends(schemas)])
    def folders(path: str) -> list[str]:
        try:
            here = settings.load({}, images=False)
        except RepositoryError:  # the page says what is wrong with them
            return []
        return options.folders(path, [getattr(here, name) for name in settings.FOLDERS])

    return router
