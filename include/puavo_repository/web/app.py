"""The page and its JSON API as a FastAPI application; who may see them is the caller's to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from puavo_repository.errors import RepositoryError, storage_error
from puavo_repository.storage.state import Failure
from puavo_repository.web import page, view
from puavo_repository.web.disk import Disk, Reader
from puavo_repository.web.model import Repository, Run, Series, Summary

# Nothing comes from another host, and no other site may frame this.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; frame-ancestors 'self'; base-uri 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


@dataclass(frozen=True)
class Backend:
    """What the application needs from the world around it.

    Attributes:
        mirror: Returns the mirror's folder; may raise a ``RepositoryError``.
        guard: Dependencies that refuse who may not see the repository.
        runs: Dependency that returns the last runs, newest first.
        document: Dependency, of ``dag_id`` and ``run_id`` in the query, that returns what a
            run left for people to read: ``{"plan": …}`` or ``{"report": …}``, or None.
    """

    mirror: Callable[[], Path]
    guard: Sequence[Callable[..., Any]]
    runs: Callable[..., list[Run]]
    document: Callable[..., Mapping[str, Any] | None]


class Looker:
    """Looks at the mirror; a set-up that cannot be used is shown like any other problem."""

    def __init__(self, mirror: Callable[[], Path]) -> None:
        self._mirror = mirror
        self._reader: Reader | None = None
        self._seen: tuple[Disk, list[Run]] | None = None
        self._shown: tuple[Repository, str] | None = None

    def look(self, runs: list[Run]) -> Repository:
        """Return what is to be shown now; the same object while nothing has changed."""
        seen = (self._disk(), runs)
        if self._shown is None or self._seen != seen:
            self._seen, self._shown = seen, (view.repository(seen[0], runs=runs), "")
        return self._shown[0]

    def page(self, found: Repository) -> str:
        """Return the page for what ``look`` returned, rendered once."""
        if self._shown is None or self._shown[0] is not found or not self._shown[1]:
            self._shown = found, page.render(found)
        return self._shown[1]

    def _disk(self) -> Disk:
        try:
            root = self._mirror()
            reader = self._reader
            if reader is None or reader.root != root:
                reader = self._reader = Reader(root)
            return _read(reader)
        except RepositoryError as error:
            failure = Failure.of(error.subject, "settings", error)
            return Disk(Path("?"), exists=True, failures=(failure,))


def _read(reader: Reader) -> Disk:
    try:
        return reader.read()
    except OSError as error:
        raise storage_error(reader.root, error) from error


def create_app(backend: Backend) -> FastAPI:
    """Make the application; every route of it is behind the guard."""
    app = FastAPI(
        title="Puavo repository",
        description="What a Puavo image repository offers, and what is wrong with it. Sizes are "
        "bytes, moments UTC. Send `Authorization: Bearer` with a token from `/auth/token`.",
        version="1",
        dependencies=[Depends(check) for check in backend.guard],
        # Airflow mounts this without any authentication: the description is a route of its
        # own, behind the guard.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    looker = Looker(backend.mirror)

    def now(runs: list[Run] = Depends(backend.runs)) -> Repository:
        return looker.look(runs)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def show(found: Repository = Depends(now)) -> HTMLResponse:
        return HTMLResponse(looker.page(found))

    @app.get("/runs/", response_class=HTMLResponse, include_in_schema=False)
    def show_run(
        dag_id: str = Query(),
        run_id: str = Query(),
        document: Mapping[str, Any] | None = Depends(backend.document),
    ) -> HTMLResponse:
        return HTMLResponse(page.render_run(dag_id, run_id, document))

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in _TYPES:
            raise HTTPException(404)
        return Response((page.STATIC / name).read_bytes(), media_type=_TYPES[name])

    @app.get("/api/v1/summary", tags=["monitoring"])
    def summary(found: Repository = Depends(now)) -> Summary:
        """Tell whether all is right, what is wrong, how fresh it is; small, for monitoring."""
        return found.summary

    @app.get("/api/v1/repository", tags=["repository"])
    def repository(found: Repository = Depends(now)) -> Repository:
        """Tell everything that the page shows."""
        return found

    @app.get("/api/v1/series/{name}", tags=["repository"], responses={404: {}})
    def series(name: str, found: Repository = Depends(now)) -> Series:
        """Tell of one series: its images and their rdiffs."""
        for one in found.series:
            if one.name == name:
                return one
        raise HTTPException(404, f"no series {name}")

    @app.get("/api/openapi.json", include_in_schema=False)
    def description() -> dict[str, Any]:
        return get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[..., Any]) -> Response:
        response: Response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(AnyHTTPException)
    async def refuse(request: Request, error: AnyHTTPException) -> Response:
        """Answer a person with a page, a program with JSON."""
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(
                page.render_refused(error.status_code, str(error.detail)), error.status_code
            )
        return await http_exception_handler(request, error)

    return app
