"""Predictions of one configuration."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from planner.server.body import Reader
from planner.server.desk import Desk, Question
from planner.server.job import JobKind
from planner.server.routes.answers import WITH_BODY, document, problems
from planner.server.routes.jobs import IdempotencyKey, WaitSeconds, asked, job_answers
from planner.server.settings import Settings
from specs.base import Spec


class PredictionOptions(Spec):
    """How to predict."""

    wait_s: WaitSeconds = Field(default=10.0, description="Seconds to wait for the end of the job.")


def prediction_routes(desk: Desk, reader: Reader, settings: Settings) -> APIRouter:
    """The route that asks for one."""
    router = APIRouter(tags=["predictions"], default_response_class=Response)

    @router.post(
        "/v1/predictions",
        operation_id="create_prediction",
        summary="Say what one configuration reaches",
        status_code=201,
        responses={**job_answers(JobKind.PREDICTION), **problems(*WITH_BODY)},
        openapi_extra=document("Configuration"),
    )
    async def create(
        request: Request, options: Annotated[PredictionOptions, Query()], key: IdempotencyKey = None
    ) -> Response:
        configuration = await reader.document(request, settings.max_scenario_bytes, "read_configuration")
        question = Question(JobKind.PREDICTION, {"configuration": configuration})
        return await asked(desk, question, key, options.wait_s)

    return router
