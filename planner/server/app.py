"""The server put together."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from planner.server.body import Reader
from planner.server.crew import Crew
from planner.server.database import StoreError
from planner.server.desk import Desk
from planner.server.examples import read_examples
from planner.server.gate import Gate
from planner.server.job import JobKind
from planner.server.metrics import Metrics
from planner.server.openapi import description
from planner.server.problem import Fault, Problem, Refusal
from planner.server.routes import page
from planner.server.routes.comparisons import comparison_routes
from planner.server.routes.health import health_routes
from planner.server.routes.jobs import job_routes
from planner.server.routes.knowledge import knowledge_routes
from planner.server.routes.plans import plan_routes
from planner.server.routes.predictions import prediction_routes
from planner.server.settings import Settings
from planner.server.store import Store
from specs.errors import SpecError

LOG = logging.getLogger("cleave.server")
METHODS = ("GET", "HEAD", "POST")
"""All that any route here answers to."""


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application; its workers start and end with its lifespan. `app.state.desk` is its desk."""
    metrics = Metrics()
    crew = Crew(settings, lambda reason: metrics.replaced.labels(reason).inc())
    desk = Desk(Store(settings.store), crew, settings, metrics)
    metrics.watch(crew)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await desk.start()
        try:
            yield
        finally:
            await desk.stop()

    # The usual pages of documentation fetch their scripts from elsewhere, and this server works offline.
    app = FastAPI(
        title="Cleave", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False, openapi_url=None
    )
    app.state.desk = desk
    examples = read_examples(settings.examples)
    reader = Reader(settings.body_limit_s, desk)
    app.include_router(plan_routes(desk, reader, settings))
    app.include_router(comparison_routes(desk, reader, settings))
    app.include_router(prediction_routes(desk, reader, settings))
    for kind in JobKind:
        app.include_router(job_routes(desk, kind))
    app.include_router(knowledge_routes(reader, settings, examples))
    app.include_router(health_routes(desk, metrics))
    if page.FOLDER.is_dir():
        app.include_router(page.page_routes())
        app.mount("/web", page.Assets(directory=page.FOLDER))
    # The description is open to all, and what is in the folder need not be.
    _describe(app, description(app, examples if settings.token is None else ()))
    _answer_errors(app)
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    return app


def _describe(app: FastAPI, document: dict[str, Any]) -> None:
    """Serve the description."""
    app.openapi = lambda: document  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return document


def _answer_errors(app: FastAPI) -> None:
    """Make a problem of whatever goes wrong."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return error.problem.response(error.headers)

    @app.exception_handler(SpecError)
    async def bad_input(request: Request, error: SpecError) -> Response:
        return Problem.of_input(error).response()

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, error: RequestValidationError) -> Response:
        errors = tuple(
            Fault(detail=_plain(each), field=".".join(str(part) for part in each["loc"][1:]) or None)
            for each in error.errors()[:100]
        )
        first = errors[0]
        several = errors if len(errors) > 1 else None
        return Problem.of(422, first.detail, field=first.field, errors=several).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        details = {
            404: f"there is nothing at {request.url.path[:200]}; /openapi.json lists what there is",
            405: f"{request.method[:20]} is not for {request.url.path[:200]}; /openapi.json lists what is",
        }
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(app, request))
        problem = Problem.of(error.status_code, details.get(error.status_code, str(error.detail)))
        return problem.response(headers)

    @app.exception_handler(StoreError)
    async def store_away(request: Request, error: StoreError) -> Response:
        LOG.error("the store: %s", error)
        return Problem.of(503, "the store cannot be reached; ask again later").response({"Retry-After": "5"})

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return Problem.of(500, "internal error; the log of the server says more").response()


def _methods(app: FastAPI, request: Request) -> list[str]:
    """What may be done with a path, by all of its routes."""
    allowed = set()
    for method in METHODS:
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in app.routes):
            allowed.add(method)
    return sorted(allowed)


def _plain(error: dict[str, Any]) -> str:
    """A message of pydantic in our words."""
    if error["type"] == "missing":
        return "is required"
    if error["type"] == "extra_forbidden":
        return "unknown parameter; /openapi.json lists those that are accepted"
    text = str(error["msg"])
    text = (
        text.replace("Input should be", "must be", 1) if text.startswith("Input should be") else f"is refused: {text}"
    )
    given = str(error.get("input"))
    return f"{text}, got {given[:100].encode('utf-8', 'backslashreplace').decode()!r}"
