"""Structural schemas of Kubernetes custom resources, with unknown fields refused.

The subset of OpenAPI v3 that custom resource definitions may use. Unlike a cluster, which drops an unknown field
without a word, a field that the schema does not name is a violation, unless `x-kubernetes-preserve-unknown-fields`
keeps it.
CEL rules (`x-kubernetes-validations`) are not evaluated.
Source: kubernetes.io, "Extend the Kubernetes API with CustomResourceDefinitions", Specifying a structural schema.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from planner.check.node import Node

Problem = tuple[Node, str]
Schema = Mapping[str, Any]

_RANGES = {"int32": 2**31, "int64": 2**63}


def problems(node: Node, schema: Schema) -> Iterator[Problem]:
    """Everything in a value that breaks a schema, with where it stands."""
    value = node.value
    if value is None:
        if not schema.get("nullable"):
            yield node, f"must be {_accepted(schema)}, got nothing"
        return
    if schema.get("x-kubernetes-int-or-string"):
        if type(value) is not int and not isinstance(value, str):
            yield node, f"must be a whole number or text, got {_short(value)}"
            return
    elif "type" in schema and not _is(value, schema["type"]):
        yield node, f"must be {_accepted(schema)}, got {_short(value)}"
        return
    yield from _choices(node, schema)
    if isinstance(value, dict):
        yield from _mapping(node, schema)
    elif isinstance(value, list):
        yield from _list(node, schema)
    elif isinstance(value, str):
        yield from _text(node, value, schema)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(node, value, schema)


def _choices(node: Node, schema: Schema) -> Iterator[Problem]:
    """`enum`, and the junctors, which never name fields of their own."""
    if "enum" in schema and node.plain not in schema["enum"]:
        accepted = ", ".join(map(str, schema["enum"]))
        near = difflib.get_close_matches(str(node.plain), [str(choice) for choice in schema["enum"]], n=1)
        yield node, f"must be one of {accepted}, got {_short(node.value)}" + (f"; nearest is {near[0]}" if near else "")
    for part in schema.get("allOf", ()):
        yield from problems(node, _open(part))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            holding = sum(not any(problems(node, _open(part))) for part in schema[word])
            if holding != 1 and not (word == "anyOf" and holding):
                yield node, f"fits {holding} of the alternatives that its schema lists under {word}"
    if "not" in schema and not any(problems(node, _open(schema["not"]))):
        yield node, "is what its schema excludes"


def _open(schema: Schema) -> Schema:
    """A schema inside a junctor constrains; which fields there are is said outside it."""
    return {**schema, "x-kubernetes-preserve-unknown-fields": True}


def _mapping(node: Node, schema: Schema) -> Iterator[Problem]:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    extra = schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in node.fields:
            yield node, f"lacks the field {name}, which is required"
    if len(node.fields) < schema.get("minProperties", 0):
        yield node, f"must have at least {schema['minProperties']} fields"
    if len(node.fields) > schema.get("maxProperties", len(node.fields)):
        yield node, f"must have at most {schema['maxProperties']} fields"
    for name, inner in node.fields.items():
        if name in properties:
            yield from problems(inner, properties[name])
        elif isinstance(extra, Mapping):
            yield from problems(inner, extra)
        elif extra is not True and not schema.get("x-kubernetes-preserve-unknown-fields"):
            near = difflib.get_close_matches(name, properties, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield inner, f"is no field of its schema{hint} (accepted: {', '.join(sorted(properties)) or 'none'})"


def _list(node: Node, schema: Schema) -> Iterator[Problem]:
    if len(node.items) < schema.get("minItems", 0):
        yield node, f"must have at least {schema['minItems']} items"
    if len(node.items) > schema.get("maxItems", len(node.items)):
        yield node, f"must have at most {schema['maxItems']} items"
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys", ())
    seen: set[str] = set()
    for item in node.items:
        if kind in ("map", "set"):
            identity = repr([item.get(key).plain if item.get(key) else None for key in keys] if keys else item.plain)  # type: ignore[union-attr]
            if identity in seen:
                yield item, f"is there twice; {', '.join(keys) or 'every item'} must be its own"
            seen.add(identity)
        if "items" in schema:
            yield from problems(item, schema["items"])


def _text(node: Node, value: str, schema: Schema) -> Iterator[Problem]:
    if len(value) < schema.get("minLength", 0):
        yield node, f"must have at least {schema['minLength']} characters"
    if len(value) > schema.get("maxLength", len(value)):
        yield node, f"must have at most {schema['maxLength']} characters"
    pattern = _pattern(schema["pattern"]) if "pattern" in schema else None
    if pattern is not None and len(value) <= 1000 and not pattern.search(value):
        yield node, f"must match {schema['pattern']}, got {_short(value)}"


def _number(node: Node, value: float, schema: Schema) -> Iterator[Problem]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and (value < least or (schema.get("exclusiveMinimum") and value == least)):
        yield node, f"must be at least {least}, got {_short(value)}"
    if most is not None and (value > most or (schema.get("exclusiveMaximum") and value == most)):
        yield node, f"must be at most {most}, got {_short(value)}"
    bound = _RANGES.get(schema.get("format", ""))
    if bound is not None and not -bound <= value < bound:
        yield node, f"must fit {schema['format']}, got {_short(value)}"
    step = schema.get("multipleOf")
    if step and value % step:
        yield node, f"must be a multiple of {step}, got {_short(value)}"


@cache
def _pattern(text: str) -> re.Pattern[str] | None:
    """A pattern, or None where it is beyond Python's syntax."""
    try:
        return re.compile(text)
    except re.error:
        return None


def _is(value: object, kind: str) -> bool:
    """Whether a value is of an OpenAPI type; a boolean is no number, and 1.0 is an integer."""
    if kind == "integer":
        return type(value) is int or (isinstance(value, float) and value.is_integer())
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, {"string": str, "boolean": bool, "array": list, "object": dict}[kind])


_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text (a number goes in quotes)",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


def _accepted(schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "a whole number or text"
    return _WORDS.get(str(schema.get("type")), "a value")


def _short(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
