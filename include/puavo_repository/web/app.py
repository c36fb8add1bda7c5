"""The page and its JSON API as a FastAPI application; who may see them is the caller's to say."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from puavo_repository import language
from puavo_repository.errors import RepositoryError, as_storage_error
from puavo_repository.fleet.usage import Usage
from puavo_repository.mirror.records import Failure
from puavo_repository.web import forms, metrics, page, view
from puavo_repository.web.disk import Disk, Place, Reader
from puavo_repository.web.explainer import Explainer
from puavo_repository.web.model import Dag, Health, Refused, Repository, Run, Summary
from puavo_repository.web.offered import Choices, Series
from puavo_repository.web.options import Schemas

# Nothing comes from another host, and no other site may frame this.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; frame-ancestors 'self'; base-uri 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Cookie, Accept-Language",
}
REFUSED: dict[str, Any] = {
    "description": "Why not",
    "content": {"application/json": {"schema": Refused.model_json_schema()}},
}
COOKIES = "puavo_repository_language", "puavo_repository_airflow_language"
"""What was chosen on the page, and in Airflow; the page's script sets them."""
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def language_of(request: Request) -> str:
    """Return the language of a page: as chosen on it, in Airflow, or in the browser."""
    cookies = (request.cookies.get(name, "") for name in COOKIES)
    return language.choose(*cookies, accepted=request.headers.get("accept-language", ""))


async def speak(request: Request) -> None:
    """Have the rest of a request in the reader's language: a dependency of what people read."""
    language.speak(language_of(request))


async def let_in(request: Request) -> None:
    """Note that the guard has let somebody in: a dependency after those of the guard."""
    request.state.let_in = True


def create_app(
    place: Callable[[], Place],
    guard: Sequence[Callable[..., Any]],
    known: Callable[..., tuple[list[Run], list[Dag]]],
    document: Callable[..., Mapping[str, Any]],
    choices: Callable[..., Choices],
    schemas: Callable[..., Schemas],
) -> FastAPI:
    """Make the application; every route of it is behind the guard.

    ``place`` returns which repository is shown, or raises a ``RepositoryError``. The others are
    dependencies: those of ``guard`` refuse who may not see the repository, ``known`` returns the
    last runs, newest first, and the DAGs, and ``document`` what a run (``dag_id`` and ``run_id``
    in the query) left for people to read, as ``page.render_run`` takes it; ``choices`` and
    ``schemas`` are those of ``forms.routes``.
    """
    app = FastAPI(
        title="Puavo repository",
        description="What a Puavo image repository offers, and what is wrong with it. Sizes are "
        "bytes, moments UTC. Send `Authorization: Bearer` with a token from `/auth/token`.",
        version="1",
        dependencies=[*(Depends(check) for check in guard), Depends(let_in)],
        responses={401: REFUSED, 403: REFUSED},
        # Airflow mounts this without any authentication: the description is a route of its
        # own, behind the guard.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    explainer, reader = Explainer(lambda: place().mirror), lru_cache(maxsize=1)(Reader)
    offered = view.Offered()

    def look(found: tuple[list[Run], list[Dag]] = Depends(known)) -> Repository:
        """Look at the mirror; a set-up that cannot be used is shown like any other problem."""
        try:
            here = place()
            with as_storage_error(here.mirror):
                disk = reader(here.mirror, here.images).read()
        except RepositoryError as error:
            failure = Failure.of(error.subject, "settings", error)
            here = Place(Path("?"))
            disk = Disk(here.mirror, exists=True, failures={failure.name: failure})
        return view.repository(disk, *found, here, offered=offered)

    # The others are in English.
    pages = APIRouter(dependencies=[Depends(speak)], include_in_schema=False)

    @pages.get("/", response_class=HTMLResponse)
    def show(request: Request, seen: Repository = Depends(look)) -> Response:
        return answered(request, page.render(seen))

    @pages.get("/series/{name}/", response_class=HTMLResponse)
    def show_series(name: str, request: Request, seen: Repository = Depends(look)) -> Response:
        return answered(request, page.render_series(series(name, seen), seen))

    @pages.get("/runs/", response_class=HTMLResponse)
    def show_run(dag_id: str, run_id: str, left: Any = Depends(document)) -> HTMLResponse:
        return HTMLResponse(page.render_run(dag_id, run_id, left))

    @pages.get("/rdiffs/{name}", response_class=HTMLResponse)
    def show_rdiff(name: str) -> HTMLResponse:
        status, text = explainer.answer(name)
        return HTMLResponse(text, status)

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str, v: str = "") -> Response:
        if name not in page.FILES:
            raise HTTPException(404)
        current = page.static(name) == f"static/{name}?v={v}"
        for_long = {"Cache-Control": "private, max-age=31536000, immutable"} if current else {}
        kind = _TYPES[Path(name).suffix]
        return Response(page.FILES[name], media_type=kind, headers=for_long)

    @app.get("/api/v1/summary", tags=["monitoring"])
    def summary(seen: Repository = Depends(look)) -> Summary:
        """Tell whether all is right, what is wrong, how fresh it is: always with status 200."""
        return seen.summary

    @app.get("/health", tags=["monitoring"], responses={503: {"model": Health}})
    @app.get("/api/v1/health", tags=["monitoring"], responses={503: {"model": Health}})
    def health(response: Response, seen: Repository = Depends(look)) -> Health:
        """Answer 200 where all is well, 503 with the reasons where it is not."""
        found = seen.summary
        response.status_code = 200 if found.ok else 503
        reasons = [f"{one.name}: {one.message}. {one.remedy}" for one in found.problems]
        return Health(ok=found.ok, status=found.status, reasons=reasons)

    @app.get("/api/v1/metrics", tags=["monitoring"], response_class=PlainTextResponse)
    def prometheus(seen: Repository = Depends(look)) -> Response:
        """Tell the same as metrics, in the format of Prometheus."""
        return Response(metrics.render(seen), media_type=metrics.TYPE)

    @app.get("/api/v1/repository", tags=["repository"])
    def repository(seen: Repository = Depends(look)) -> Repository:
        """Tell everything that the page shows."""
        return seen

    @app.get("/api/v1/series/{name}", tags=["repository"], responses={404: REFUSED})
    def series(name: str, seen: Repository = Depends(look)) -> Series:
        """Tell of one series: its images and their rdiffs."""
        for one in seen.series:
            if one.name == name:
                return one
        raise HTTPException(404, f"no series {name}")

    @app.get("/api/v1/generations", tags=["rollback"], responses={404: REFUSED})
    def generations(found: Choices = Depends(choices)) -> Choices:
        """Tell what a dry run of the rollback (`run_id`) found: where to, and what that changes.

        It is empty until the run has come so far.
        """
        return found

    @app.get("/api/v1/usage", tags=["usage"], responses={404: REFUSED})
    def usage(seen: Repository = Depends(look)) -> Usage:
        """Tell what clients fetch, by the logs of the servers: a year of days, and the fleet."""
        if seen.usage is None:
            raise HTTPException(404, "no log was read yet")
        return seen.usage

    @app.get("/api/openapi.json", include_in_schema=False)
    def description(request: Request) -> dict[str, Any]:
        return {**app.openapi(), "servers": [{"url": request.scope["root_path"] or "/"}]}

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[..., Any]) -> Response:
        response: Response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(AnyHTTPException)
    async def refuse(request: Request, error: AnyHTTPException) -> Response:
        """Answer a person with a page, a program with JSON."""
        if error.status_code == 401:
            error.headers = {**(error.headers or {}), "WWW-Authenticate": "Bearer"}
        if "text/html" in request.headers.get("accept", ""):
            with language.spoken(language_of(request)):
                # Airflow's own pages lie where this application is mounted.
                home = f"{request.scope['root_path'].rpartition('/')[0]}/"
                why = {"code": error.status_code, "detail": error.detail}
                inside = getattr(request.state, "let_in", False)
                text = page.rendered("refused.html", home=home, inside=inside, **why)
            return HTMLResponse(text, error.status_code, error.headers)
        return await http_exception_handler(request, error)

    pages.include_router(forms.routes(look, choices, schemas))
    app.include_router(pages)
    app.add_middleware(head_as_get)
    return app


def answered(request: Request, text: str) -> Response:
    """Answer with a page, or that it is the one that was sent before: pages that are open ask."""
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    if request.headers.get("if-none-match", "").removeprefix("W/") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return HTMLResponse(text, headers={"ETag": tag})


def head_as_get(app: ASGIApp) -> ASGIApp:
    """Answer HEAD like GET; the server leaves the body out."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        head = scope.get("method") == "HEAD"
        await app({**scope, "method": "GET"} if head else scope, receive, send)

    return answer
