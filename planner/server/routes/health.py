"""Whether the server works, and its figures."""

import json
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from planner.server.body import JSON
from planner.server.desk import Desk
from planner.server.metrics import Metrics
from planner.server.problem import refusal
from planner.server.routes.answers import answer, problems, schema
from specs.base import Spec


class Health(Spec):
    """That the server works."""

    status: str
    version: str
    workers: int
    """Processes that are ready."""
    busy: int
    """Of these, at work."""
    queued: int
    """Jobs that wait."""


def cleave_version() -> str:
    """Version of this package."""
    try:
        return version("cleave")
    except PackageNotFoundError:
        return "unknown"


def health_routes(desk: Desk, metrics: Metrics) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["server"], default_response_class=Response)

    @router.get(
        "/healthz",
        operation_id="get_health",
        summary="Whether the server works",
        responses={200: answer("It does.", schema("Health")), **problems()},
        openapi_extra={"security": []},
    )
    async def health() -> Response:
        trouble = await desk.check()
        if trouble is not None:
            raise refusal(503, trouble, headers={"Retry-After": "5"})
        crew = desk.crew
        queued = sum(len(lane) for lane in crew.lanes.values())
        state = {"status": "ok", "version": cleave_version()}
        return Response(
            json.dumps({**state, "workers": crew.alive, "busy": crew.busy, "queued": queued}), media_type=JSON
        )

    @router.head("/healthz", include_in_schema=False)
    async def health_alone() -> Response:
        return await health()

    @router.get(
        "/metrics",
        operation_id="get_metrics",
        summary="Figures for Prometheus",
        responses={200: answer("Text format.", {"type": "string"}, "text/plain"), **problems()},
    )
    async def figures() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
