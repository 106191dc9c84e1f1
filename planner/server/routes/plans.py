"""Plans: asked for, rendered to launch files, and reported on."""

import base64
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from planner.render.target import Target
from planner.server.body import JSON, Reader
from planner.server.desk import Desk, Question
from planner.server.job import JobKind
from planner.server.problem import refusal
from planner.server.routes.answers import WITH_BODY, answer, document, problems, schema
from planner.server.routes.jobs import IdempotencyKey, WaitSeconds, asked, job_answers
from planner.server.settings import Settings
from planner.server.work import FILES
from specs.base import Spec

ZIP = "application/zip"
HTML = "text/html"
PAGE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A report needs no more than what is in it, and speaks for no user of this server."""

Gap = Annotated[float, Field(gt=0, lt=1)]
TimeLimit = Annotated[float, Field(gt=0)]
DEFAULT_TIME_LIMIT_S = 60.0
DEFAULT_TIME_LIMIT = "Default: 60, or what the server allows at most where that is less."


class PlanOptions(Spec):
    """How to plan."""

    gap: Gap = Field(default=1e-3, description="Relative gap between plan and bound at which the plan is optimal.")
    time_limit_s: TimeLimit | None = Field(
        default=None, description=f"Seconds after which the best plan so far is given. {DEFAULT_TIME_LIMIT}"
    )
    formulation: Literal["columns", "piecewise"] = Field(
        default="columns", description="How batches are chosen: every whole number, or continuous."
    )
    explain: Literal["none", "binding", "what_if"] = Field(
        default="binding", description="What is explained: nothing, what binds, or also what one more GPU is worth."
    )
    alternatives: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="So many best plans that differ in mode or layout."
    )
    wait_s: WaitSeconds = Field(default=1.0, description="Seconds to wait for the end of the job.")


class FileOptions(Spec):
    """How to write launch files."""

    engine_version: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Version of the engine whose flags are used; by default the newest that fits."
    )


class RenderOptions(FileOptions):
    """What to write launch files for."""

    target: Target = Field(description="Launcher, orchestrator or provisioner.")


class ReportOptions(Spec):
    """What a report shows beside the plan."""

    comparison: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Id of a finished comparison of the same scenario."
    )


def plan_routes(desk: Desk, reader: Reader, settings: Settings) -> APIRouter:
    """The routes of plans that other kinds of jobs do not have."""
    router = APIRouter(tags=["plans"], default_response_class=Response)
    zipped = answer("The files as a ZIP archive.", {"type": "string", "format": "binary"}, ZIP)
    page = answer("The report.", {"type": "string"}, HTML)

    @router.post(
        "/v1/plans",
        operation_id="create_plan",
        summary="Find the best deployment of a scenario",
        status_code=201,
        responses={**job_answers(JobKind.PLAN), **problems(*WITH_BODY)},
        openapi_extra=document("Scenario"),
    )
    async def create(
        request: Request, options: Annotated[PlanOptions, Query()], key: IdempotencyKey = None
    ) -> Response:
        if options.formulation != "columns" and (options.alternatives or options.explain == "what_if"):
            raise refusal(422, "must be columns beside alternatives or explain=what_if", field="formulation")
        if options.alternatives and options.explain == "what_if":
            raise refusal(422, "must be none or binding beside alternatives, got what_if", field="explain")
        arguments = {
            **options.model_dump(exclude={"wait_s"}),
            "time_limit_s": time_limit_s(options.time_limit_s, settings),
            "scenario": await read_scenario(request, reader, settings),
        }
        question = Question(JobKind.PLAN, arguments)
        return await asked(desk, question, key, options.wait_s)

    @router.get(
        "/v1/plans/{job_id}/files/{target}",
        operation_id="get_plan_files",
        summary="Launch files of a plan",
        responses={200: zipped, **problems(404, 409, 422, 429, 504)},
    )
    async def files(
        request: Request, job_id: str, target: Target, options: Annotated[FileOptions, Query()]
    ) -> Response:
        plan = json.dumps((await _plan(desk, job_id)).result)
        return await _archive(desk, request, plan, target, options.engine_version)

    @router.get(
        "/v1/plans/{job_id}/report",
        operation_id="get_plan_report",
        summary="A plan as a page that a manager can read",
        responses={200: page, **problems(404, 409, 422, 429, 504)},
    )
    async def report(request: Request, job_id: str, options: Annotated[ReportOptions, Query()]) -> Response:
        plan, comparison = await _plan(desk, job_id), None
        if options.comparison is not None:
            beside = await _found(desk, JobKind.COMPARISON, options.comparison)
            if beside.scenario != plan.scenario:
                raise refusal(422, "is of another scenario; accepted: one of the plan's own", field="comparison")
            comparison = beside.result
        return await _page(desk, request, json.dumps(plan.result), comparison)

    @router.post(
        "/v1/render",
        operation_id="render_plan",
        summary="Launch files of a plan in the body",
        responses={200: zipped, **problems(*WITH_BODY)},
        openapi_extra=document("Plan", examples=False),
    )
    async def render(request: Request, options: Annotated[RenderOptions, Query()]) -> Response:
        text = await reader.text(request, settings.max_plan_bytes)
        return await _archive(desk, request, text, options.target, options.engine_version)

    @router.post(
        "/v1/report",
        operation_id="report_plan",
        summary="The report on a plan in the body",
        responses={200: page, **problems(*WITH_BODY)},
        openapi_extra=document("Plan", examples=False),
    )
    async def report_given(request: Request) -> Response:
        return await _page(desk, request, await reader.text(request, settings.max_plan_bytes), None)

    @router.post(
        "/v1/placement",
        operation_id="place_plan",
        summary="The nodes and GPUs that a plan in the body takes",
        responses={200: answer("The GPUs of each instance.", schema("Placement")), **problems(*WITH_BODY)},
        openapi_extra=document("Plan", examples=False),
    )
    async def placement(request: Request) -> Response:
        plan = await reader.text(request, settings.max_plan_bytes)
        result = await desk.call(request, FILES, "placement", {"plan": plan})
        return Response(json.dumps(result["placement"]), media_type=JSON)

    @router.get(
        "/v1/targets",
        operation_id="list_targets",
        summary="What launch files can be written for",
        responses={200: answer("Names of targets.", _NAMES), **problems()},
    )
    async def targets() -> Response:
        return Response(json.dumps({"targets": [target.value for target in Target]}), media_type=JSON)

    return router


_NAMES = {
    "type": "object",
    "required": ["targets"],
    "properties": {"targets": {"type": "array", "items": {"type": "string"}}},
}


async def read_scenario(request: Request, reader: Reader, settings: Settings) -> dict[str, Any]:
    """The scenario in a body, as plain data with every default written out."""
    scenario: dict[str, Any] = await reader.document(request, settings.max_scenario_bytes, "read_scenario")
    return scenario


def time_limit_s(asked_s: float | None, settings: Settings) -> float:
    """The time limit of a job.

    Raises:
        Refusal: it is more than the server gives.
    """
    most_s = settings.max_time_limit_s
    if asked_s is None:
        return min(DEFAULT_TIME_LIMIT_S, most_s)
    if asked_s > most_s:
        raise refusal(422, f"must be at most {most_s:g}, got {asked_s:g}", field="time_limit_s")
    return asked_s


@dataclass(frozen=True)
class _Found:
    """The result of a finished job, and the scenario that it is of."""

    result: dict[str, Any]
    scenario: dict[str, Any]


async def _found(desk: Desk, kind: JobKind, job_id: str) -> _Found:
    """A finished job.

    Raises:
        Refusal: there is no such job, or it has none.
    """
    ticket = await desk.find(kind, job_id)
    record = ticket.record
    if not record.status.finished:
        raise refusal(409, f"{kind.value} {record.id} is {record.status.value}; accepted: one that is finished")
    if record.result is None:
        raise refusal(409, f"{kind.value} {record.id} is {record.status.value} and has no result")
    return _Found(json.loads(record.result)[kind.value], json.loads(record.question)["scenario"])


async def _plan(desk: Desk, job_id: str) -> _Found:
    plan = await _found(desk, JobKind.PLAN, job_id)
    if not plan.result["services"]:
        raise refusal(409, f"plan {job_id} is {plan.result['status']}: it deploys nothing")
    return plan


async def _archive(desk: Desk, request: Request, plan: str, target: Target, engine_version: str | None) -> Response:
    arguments = {"plan": plan, "target": target.value, "engine_version": engine_version}
    result = await desk.call(request, FILES, "render", arguments)
    headers = {"Content-Disposition": f'attachment; filename="cleave-{target.value}.zip"'}
    return Response(base64.b64decode(result["zip"]), headers=headers, media_type=ZIP)


async def _page(desk: Desk, request: Request, plan: str, comparison: dict[str, Any] | None) -> Response:
    result = await desk.call(request, FILES, "report", {"plan": plan, "comparison": comparison})
    return Response(result["html"], headers={"Content-Security-Policy": PAGE_POLICY}, media_type=HTML)
