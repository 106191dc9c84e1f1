"""The description of the API: FastAPI's, with the schemas of our documents and with the examples."""

import json
from typing import Any

import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from planner.server.body import JSON, YAML
from planner.server.examples import Example
from planner.server.job import ComparisonJob, JobList, PlanJob, PredictionJob, ProgressPoint
from planner.server.placement import Placement
from planner.server.problem import Problem
from planner.server.routes.health import Health, cleave_version
from planner.server.routes.knowledge import ExampleList, Names, Verdict
from specs.hardware import GpuSpec
from specs.model import ModelSpec
from specs.plan import Plan
from specs.prediction import Configuration
from specs.scenario import Scenario

DESCRIPTION = """Finds the best way to deploy large language models on GPUs, and proves how good the answer is.

Questions become jobs: `POST` answers 201 with the result if it is there within `wait_s` seconds, else 202; either way
the job can be asked for by its id from then on. Errors are problems (RFC 9457) that name the field."""

OVERRIDDEN = ("HTTPValidationError", "ValidationError")
"""FastAPI's own errors, which are problems here."""

MODELS: tuple[type[BaseModel], ...] = (
    Scenario,
    Configuration,
    Plan,
    PlanJob,
    ComparisonJob,
    PredictionJob,
    ProgressPoint,
    JobList,
    Placement,
    Problem,
    Verdict,
    ExampleList,
    Names,
    GpuSpec,
    ModelSpec,
    Health,
)


def description(app: FastAPI, examples: tuple[Example, ...]) -> dict[str, Any]:
    """The OpenAPI document of an app."""
    found = get_openapi(
        title="Cleave", version=cleave_version(), description=DESCRIPTION, routes=app.routes, tags=app.openapi_tags
    )
    _, schemas = models_json_schema(
        [(model, "validation") for model in MODELS], ref_template="#/components/schemas/{model}"
    )
    components = found.setdefault("components", {})
    of_fastapi = {name: each for name, each in components.get("schemas", {}).items() if name not in OVERRIDDEN}
    components["schemas"] = {**of_fastapi, **schemas["$defs"]}
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    components["examples"] = {
        _key(example, media_type): {
            "summary": example.title,
            "value": example.text if media_type == YAML else json.loads(json.dumps(yaml.safe_load(example.text))),
        }
        for example in examples
        for media_type in (JSON, YAML)
    }
    found["security"] = [{"token": []}, {}]
    for operations in found["paths"].values():
        for operation in operations.values():
            if JSON in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]  # FastAPI's own, of routes whose parameters are any text
            for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
                if "examples" in body:
                    kind = "configuration" if operation["operationId"] == "create_prediction" else "scenario"
                    body["examples"] = {
                        example.name: {"$ref": f"#/components/examples/{_key(example, media_type)}"}
                        for example in examples
                        if example.kind == kind
                    }
    return found


def _key(example: Example, media_type: str) -> str:
    return f"{example.kind}-{example.name}-{media_type.partition('/')[2]}"
