"""Answers as OpenAPI describes them. Schemas are referred to by name, and `planner.server.openapi` adds them."""

from typing import Any

from planner.server.body import JSON, YAML
from planner.server.problem import MEDIA_TYPE

Described = dict[int | str, dict[str, Any]]

MEANINGS = {
    400: "The body is not JSON, or not UTF-8.",
    401: "The token is missing or wrong.",
    403: "Another web site asked.",
    404: "There is nothing of this name.",
    408: "The body did not arrive in time.",
    409: "The job is not finished, or has no plan.",
    413: "The body is too large.",
    415: "The body is of another media type.",
    421: "The header Host names no host of this server.",
    422: "The document or a parameter is refused; `field` and `line` say where.",
    429: "Too many jobs wait already.",
    500: "A defect of the server.",
    503: "The store or the workers are away, or too many requests are being answered.",
    504: "It took longer than the server allows.",
}
_RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}

ANY = (401, 421, 500, 503)
"""What any request may meet."""
WITH_BODY = (400, 403, 408, 413, 415, 422, 429, 504)
"""What a request with a document may meet."""


def schema(name: str) -> dict[str, str]:
    """A reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def problems(*codes: int) -> Described:
    """Problems that a route may answer with, beside those of any."""
    described: Described = {}
    for code in sorted({*codes, *ANY}):
        described[code] = {"description": MEANINGS[code], "content": {MEDIA_TYPE: {"schema": schema("Problem")}}}
        if code in (429, 503):
            described[code]["headers"] = _RETRY
    return described


def answer(description: str, schema_of: dict[str, Any], media_type: str = JSON) -> dict[str, Any]:
    """One good answer."""
    return {"description": description, "content": {media_type: {"schema": schema_of}}}


def document(name: str, *, examples: bool = True) -> dict[str, Any]:
    """The body of a request: a document in JSON or YAML."""
    json_body: dict[str, Any] = {"schema": schema(name)}
    yaml_body: dict[str, Any] = {"schema": {"type": "string"}}
    if examples:  # filled in by `planner.server.openapi` from the folder of examples
        json_body["examples"] = yaml_body["examples"] = {}
    return {"requestBody": {"required": True, "content": {JSON: json_body, YAML: yaml_body}}}
