"""What is known by name: the catalogue and the examples; and whether a text is a scenario."""

import json
from enum import StrEnum
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from planner.server.body import JSON, PLAIN, YAML, Reader
from planner.server.examples import Example
from planner.server.problem import Fault, refusal
from planner.server.routes.answers import answer, problems, schema
from planner.server.settings import Settings
from specs import catalog
from specs.base import Spec
from specs.errors import SpecError
from specs.scenario import Scenario


class CatalogKind(StrEnum):
    """Kinds of entries."""

    GPUS = "gpus"
    MODELS = "models"
    WORKLOADS = "workloads"


IDS = {
    CatalogKind.GPUS: catalog.gpu_ids,
    CatalogKind.MODELS: catalog.model_ids,
    CatalogKind.WORKLOADS: catalog.workload_ids,
}


class Verdict(Spec):
    """Whether a text is a scenario."""

    valid: bool
    errors: tuple[Fault, ...] = ()
    """What is wrong, in the order of the text."""
    scenario: Scenario | None = None
    """The scenario with every default written out."""


class ExampleList(Spec):
    """Scenarios and configurations to begin with."""

    examples: tuple[Example, ...]


class Names(Spec):
    """Everything in the catalogue, by id."""

    gpus: tuple[str, ...]
    models: tuple[str, ...]
    workloads: tuple[str, ...]


def knowledge_routes(reader: Reader, settings: Settings, examples: tuple[Example, ...]) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1", default_response_class=Response)

    @router.post(
        "/scenarios/validate",
        tags=["scenarios"],
        operation_id="validate_scenario",
        summary="Say whether a text is a scenario, and what is wrong with it where",
        responses={200: answer("The verdict.", schema("Verdict")), **problems(400, 403, 408, 413, 415, 429, 504)},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {name: {"schema": {"type": "string"}} for name in (*PLAIN, YAML)} | {JSON: {"schema": {}}},
            }
        },
    )
    async def validate(request: Request) -> Response:
        verdict = await reader.document(request, settings.max_scenario_bytes, "judge", plain=True)
        return Response(json.dumps(verdict), media_type=JSON)

    @router.get(
        "/catalog",
        tags=["catalogue"],
        operation_id="list_catalog",
        summary="Names of all GPUs, models and workloads",
        responses={200: answer("Ids by kind.", schema("Names")), **problems()},
    )
    async def everything() -> Response:
        names = await run_sync(lambda: {kind.value: IDS[kind]() for kind in CatalogKind})
        return Response(json.dumps(names), media_type=JSON)

    @router.get(
        "/catalog/{kind}",
        tags=["catalogue"],
        operation_id="list_catalog_kind",
        summary="All entries of one kind",
        responses={200: answer("Entries by id.", {"type": "object"}), **problems(422)},
    )
    async def entries(kind: CatalogKind) -> Response:
        found = await run_sync(lambda: {name: _entry(kind, name) for name in IDS[kind]()})
        return Response(json.dumps(found), media_type=JSON)

    @router.get(
        "/catalog/{kind}/{name:path}",
        tags=["catalogue"],
        operation_id="get_catalog_entry",
        summary="One entry by id or alias, with the sources of its figures",
        responses={200: answer("The entry.", _ENTRY), **problems(404, 422)},
    )
    async def entry(kind: CatalogKind, name: str) -> Response:
        try:
            found = await run_sync(_entry, kind, name)
        except SpecError as error:
            raise refusal(404, error.message, field="name") from None
        return Response(json.dumps(found), media_type=JSON)

    @router.get(
        "/examples",
        tags=["scenarios"],
        operation_id="list_examples",
        summary="Scenarios and configurations to begin with",
        responses={200: answer("The examples; none where the server has none.", schema("ExampleList")), **problems()},
    )
    async def listed() -> Response:
        return Response(ExampleList(examples=examples).model_dump_json(), media_type=JSON)

    return router


_ENTRY = {"anyOf": [schema("GpuSpec"), schema("ModelSpec"), {"type": "object"}]}


def _entry(kind: CatalogKind, name: str) -> dict[str, Any]:
    match kind:
        case CatalogKind.GPUS:
            found: BaseModel = catalog.gpu(name)
        case CatalogKind.MODELS:
            found = catalog.model(name, files=False)
        case CatalogKind.WORKLOADS:
            return dict(catalog.workload(name))
    return found.model_dump(mode="json", by_alias=True)
