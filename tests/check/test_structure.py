"""The validator of structural schemas against `jsonschema`, which shares no code with it."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.check.node import read_json
from planner.check.structure import problems

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]+$"},
        "count": {"type": "integer", "minimum": 0, "maximum": 7},
        "share": {"type": "number", "minimum": 0},
        "on": {"type": "boolean"},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "items": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "integer"}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 2},
        "either": {"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 1}]},
        "inner": {"type": "object", "properties": {"deep": {"type": "integer"}}},
    },
}
NAMED: dict[str, Any] = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["n"],
    "items": {"type": "object", "properties": {"n": {"type": "string"}}},
}
_SCALARS = st.none() | st.booleans() | st.integers(-2, 9) | st.floats(-1, 9) | st.text("abz1", max_size=6)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*SCHEMA["properties"], "deep", "other"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused, as JSON Schema says it."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


@given(st.dictionaries(st.sampled_from([*SCHEMA["properties"], "other"]), _VALUES, max_size=6))
def test_the_verdict_is_that_of_jsonschema(value: dict[str, Any]) -> None:
    found = list(problems(read_json(json.dumps(value), "f.json"), SCHEMA))
    valid = jsonschema.Draft202012Validator(_closed(SCHEMA)).is_valid(value)
    assert (found == []) == valid, [message for _, message in found]


@pytest.mark.parametrize(
    ("value", "schema", "good"),
    [
        (4, {"x-kubernetes-int-or-string": True}, True),
        ("4Gi", {"x-kubernetes-int-or-string": True}, True),
        (4.5, {"x-kubernetes-int-or-string": True}, False),
        (None, {"type": "string", "nullable": True}, True),
        (None, {"type": "string"}, False),
        ({"x": 1}, {"type": "object", "x-kubernetes-preserve-unknown-fields": True}, True),
        ({"x": 1}, {"type": "object"}, False),
        (2**31, {"type": "integer", "format": "int32"}, False),
        (2**31, {"type": "integer", "format": "int64"}, True),
        ([{"n": "a"}, {"n": "a"}], NAMED, False),
        ([{"n": "a"}, {"n": "b"}], NAMED, True),
        (True, {"type": "integer"}, False),
    ],
)  # fmt: skip
def test_what_kubernetes_adds(value: Any, schema: dict[str, Any], good: bool) -> None:
    found = list(problems(read_json(json.dumps(value), "f.json"), schema))
    assert (found == []) == good


def test_an_unknown_field_names_the_nearest() -> None:
    node = read_json('{\n"name": "a",\n"cuont": 1}', "f.json")
    ((where, message),) = problems(node, SCHEMA)
    assert where.place.line == 3
    assert "count" in message
