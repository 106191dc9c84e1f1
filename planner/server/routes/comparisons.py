"""Comparisons of the serving modes."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from planner.server.body import Reader
from planner.server.desk import Desk, Question
from planner.server.job import JobKind
from planner.server.routes.answers import WITH_BODY, document, problems
from planner.server.routes.jobs import IdempotencyKey, WaitSeconds, asked, job_answers
from planner.server.routes.plans import DEFAULT_TIME_LIMIT, Gap, TimeLimit, read_scenario, time_limit_s
from planner.server.settings import Settings
from specs.base import Spec


class ComparisonOptions(Spec):
    """How to compare."""

    gap: Gap = Field(default=1e-3, description="Relative gap between plan and bound at which a plan is optimal.")
    time_limit_s: TimeLimit | None = Field(
        default=None, description=f"Seconds for all modes and curves together. {DEFAULT_TIME_LIMIT}"
    )
    pareto: bool = Field(default=True, description="Whether to find throughput per GPU against speed per user.")
    wait_s: WaitSeconds = Field(default=1.0, description="Seconds to wait for the end of the job.")


def comparison_routes(desk: Desk, reader: Reader, settings: Settings) -> APIRouter:
    """The route that asks for one."""
    router = APIRouter(tags=["comparisons"], default_response_class=Response)

    @router.post(
        "/v1/comparisons",
        operation_id="create_comparison",
        summary="Set the best plan of every serving mode side by side",
        status_code=201,
        responses={**job_answers(JobKind.COMPARISON), **problems(*WITH_BODY)},
        openapi_extra=document("Scenario"),
    )
    async def create(
        request: Request, options: Annotated[ComparisonOptions, Query()], key: IdempotencyKey = None
    ) -> Response:
        arguments = {
            **options.model_dump(exclude={"wait_s"}),
            "time_limit_s": time_limit_s(options.time_limit_s, settings),
            "scenario": await read_scenario(request, reader, settings),
        }
        question = Question(JobKind.COMPARISON, arguments)
        return await asked(desk, question, key, options.wait_s)

    return router
