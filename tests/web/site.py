"""The page as a browser gets it, without Airflow: what it asks Airflow for is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from puavo_repository.web import page
from puavo_repository.web.app import answered, create_app
from puavo_repository.web.disk import Place
from puavo_repository.web.model import Repository
from puavo_repository.web.offered import Choices
from puavo_repository.web.options import Schemas
from web.test_app import FORM, document, known


@dataclass
class Site:
    """The page of a mirror at the place that it has in Airflow, and what becomes of its server."""

    root: Path
    asked: list[tuple[str, str, Any]] = field(default_factory=list)  # method, path, body
    refuse: int = 0  # the status that Airflow answers with
    login: str = ""  # to where something leads who asks Airflow
    answer: Response | None = None  # in the place of the page
    shown: str = ""  # the same, as a page
    port: int = 0
    remotes: Sequence[str] = ()
    choices: Choices = field(default_factory=lambda: Choices(mirrors=[], failures=[]))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/puavo-repository/"

    def show(self, found: Repository) -> None:
        """Have this shown."""
        self.shown = page.render(found)

    def app(self) -> FastAPI:
        outer = FastAPI()

        @outer.api_route("/api/v2/{path:path}", methods=["POST", "PATCH"])
        async def airflow(path: str, request: Request) -> Response:
            if self.login:
                return RedirectResponse(self.login, 302)
            body = await request.json()
            run = body.get("dag_run_id")
            again = (
                run
                and path.endswith("/dagRuns")
                and run in [one.get("dag_run_id") for *_, one in self.asked]
            )
            if status := self.refuse or (again and 409):
                return Response('{"detail": "no"}', status, media_type="application/json")
            self.asked.append((request.method, path, body))
            return Response("{}", media_type="application/json")

        @outer.middleware("http")
        async def maybe(request: Request, call_next: Any) -> Response:
            if request.url.path == "/puavo-repository/" and (self.answer or self.shown):
                return self.answer or answered(request, self.shown)
            found: Response = await call_next(request)
            return found

        def choices(run_id: str = "") -> Choices:
            return self.choices if run_id else Choices(mirrors=[], failures=[])

        def schemas(dag_id: str) -> Schemas:
            return FORM

        place = Place(self.root, self.remotes, address="https://images.example.org")
        app = create_app(lambda: place, [], known, document, choices, schemas)
        outer.mount("/puavo-repository", app)
        return outer

    @contextmanager
    def up(self) -> Iterator[None]:
        server = uvicorn.Server(uvicorn.Config(self.app(), port=self.port, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                thread.join(0.05)
            self.port = server.servers[0].sockets[0].getsockname()[1]
            yield
        finally:
            server.should_exit = True
            thread.join()
