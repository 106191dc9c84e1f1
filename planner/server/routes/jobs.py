"""What jobs of every kind have in common: list, one job, its cancellation and its events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field
from starlette.responses import StreamingResponse

from planner.server.body import JSON
from planner.server.desk import Desk, Question
from planner.server.job import MODELS, JobKind
from planner.server.routes.answers import Described, answer, problems, schema
from planner.server.ticket import Ticket
from specs.base import Spec

LONGEST_WAIT_S = 30.0
KEEP_ALIVE_S = 15.0

WaitSeconds = Annotated[float, Field(ge=0, le=LONGEST_WAIT_S)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="The same key and question give the same job.",
    ),
]
LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", pattern="^[0-9]{1,15}$", description="Number of the last progress event seen."),
]


class Waiting(Spec):
    """Parameters of a request for a job."""

    wait_s: WaitSeconds = Field(default=0.0, description="Seconds to wait for the end of the job.")


class Listing(Spec):
    """Parameters of a list."""

    limit: Annotated[int, Field(ge=1, le=100)] = Field(default=20, description="The most jobs to list.")


def job_answers(kind: JobKind) -> Described:
    """The two answers to a question."""
    of_job = schema(MODELS[kind].__name__)
    place = {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}}
    follow = {
        "get": {"operationId": f"get_{kind.value}", "parameters": {"job_id": "$response.body#/id"}},
        "cancel": {"operationId": f"cancel_{kind.value}", "parameters": {"job_id": "$response.body#/id"}},
    }
    return {
        201: {**answer("The job is finished.", of_job), "headers": place, "links": follow},
        202: {**answer("The job is queued or running.", of_job), "headers": place, "links": follow},
    }


async def asked(desk: Desk, question: Question, key: str | None, wait_s: float) -> Response:
    """Take a question and answer with its job."""
    ticket = await desk.submit(question, key)
    await desk.wait(ticket, wait_s)
    status = 201 if ticket.record.status.finished else 202
    return job_response(desk, ticket, status, {"Location": f"{question.kind.path}/{ticket.record.id}"})


def job_response(desk: Desk, ticket: Ticket, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A job as an answer."""
    return Response(json.dumps(desk.document(ticket)), status, headers=headers, media_type=JSON)


def job_routes(desk: Desk, kind: JobKind) -> APIRouter:
    """The routes of a kind."""
    router = APIRouter(prefix=kind.path, tags=[f"{kind.value}s"], default_response_class=Response)
    of_job = answer("The job.", schema(MODELS[kind].__name__))
    name = kind.value

    @router.get(
        "",
        operation_id=f"list_{name}s",
        summary=f"The last {name}s",
        responses={200: answer("The newest first.", schema("JobList")), **problems(422)},
    )
    async def newest(parameters: Annotated[Listing, Query()]) -> Response:
        jobs = await desk.newest(kind, parameters.limit)
        return Response(json.dumps({"jobs": jobs}), media_type=JSON)

    @router.get(
        "/{job_id}",
        operation_id=f"get_{name}",
        summary=f"A {name}, whatever has become of it",
        responses={200: of_job, **problems(404, 422)},
    )
    async def one(job_id: str, parameters: Annotated[Waiting, Query()]) -> Response:
        ticket = await desk.find(kind, job_id)
        await desk.wait(ticket, parameters.wait_s)
        return job_response(desk, ticket)

    @router.post(
        "/{job_id}/cancel",
        operation_id=f"cancel_{name}",
        summary=f"Cancel a {name}",
        description="A job that is finished stays as it is.",
        responses={200: of_job, **problems(403, 404)},
    )
    async def cancel(job_id: str) -> Response:
        ticket = await desk.find(kind, job_id)
        await desk.cancel(ticket)
        return job_response(desk, ticket)

    @router.get(
        "/{job_id}/events",
        operation_id=f"watch_{name}",
        summary=f"A {name} as it goes on",
        description="Server-sent events: `progress` with the data of a ProgressPoint, and `status` with id, status, "
        "finished and queue_position. The stream ends with the job.",
        responses={200: answer("Events.", {"type": "string"}, "text/event-stream"), **problems(404, 422)},
    )
    async def events(job_id: str, last: LastEventId = None) -> Response:
        ticket = await desk.find(kind, job_id)
        seen = -1 if last is None else int(last)
        return StreamingResponse(_events(desk, ticket, seen), media_type="text/event-stream")

    return router


async def _events(desk: Desk, ticket: Ticket, seen: int) -> AsyncIterator[str]:
    """The progress so far and to come, until the job or the server ends."""
    told: dict[str, Any] | None = None
    said_s = time.monotonic()
    while True:
        lines = []
        for number, point in ticket.after(seen):
            lines.append(f"event: progress\nid: {number}\ndata: {point.model_dump_json()}\n\n")
            seen = number
        document = desk.document(ticket)
        status = {name: document[name] for name in ("id", "status", "finished", "queue_position")}
        if status != told:
            lines.append(f"event: status\ndata: {json.dumps(status)}\n\n")
            told = status
        if not lines and time.monotonic() - said_s >= KEEP_ALIVE_S:
            lines.append(": keep-alive\n\n")
        if lines:
            said_s = time.monotonic()
            yield "".join(lines)
        if status["finished"] or desk.closing:
            return
        # A place in the queue moves without the job's own bell.
        await ticket.change(1.0 if status["queue_position"] is not None else KEEP_ALIVE_S)
        await asyncio.sleep(0)
