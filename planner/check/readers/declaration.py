"""The declaration of Terraform variables against their values: a reader of the part of HCL that it takes.

Every variable and field of the values is declared with a type that takes it and the reverse, and the validations are
those that hold the counts together. Descriptions are for people.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from planner.check.findings import Findings
from planner.check.node import Node
from planner.check.place import Place
from planner.check.source import SourceFile

RULE = "terraform"

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|#[^\n]*|[A-Za-z_][\w.]*|\d+|<=|>=|==|[-+*/=(){}\[\],:<>]|\s+|.', re.DOTALL)
_OPEN, _CLOSE = {"{": "}", "(": ")", "[": "]"}, {"}", ")", "]"}
_TYPES = {"string": str, "number": (int, float), "bool": bool}
_VALIDATIONS = (
    "alltrue([for pool in values(var.node_pools) : pool.gpus_used <= pool.node_count * pool.gpus_per_node])",
    "alltrue([for pool in values(var.node_pools) : sum(pool.placement_groups) == pool.node_count])",
    "alltrue([for pool in values(var.node_pools) : pool.node_count <= pool.max_node_count])",
)
_DECLARED = ("node_pools", "machine_types")

Token = tuple[str, int]


def check_declaration(file: SourceFile, documents: Sequence[Node], findings: Findings) -> None:
    """Note what a declaration lacks, and what is in it that cannot be read."""
    tokens = _tokens(file)
    problem = _unbalanced(tokens)
    if problem is not None:
        findings.wrong(RULE, Place(file.name, problem), "has brackets or quotes that do not match")
        return
    variables: dict[str, list[Token]] = {}
    at = 0
    while at < len(tokens):
        word, line = tokens[at]
        if word != "variable" or at + 2 >= len(tokens) or tokens[at + 2][0] != "{":
            findings.wrong(RULE, Place(file.name, line), f"is no declaration of a variable: {word[:40]!r}")
            return
        end = _end(tokens, at + 2)
        name = tokens[at + 1][0].strip('"')
        if name in variables:
            findings.wrong(RULE, Place(file.name, line), "is declared twice", name)
        variables[name] = tokens[at + 3 : end]
        at = end + 1
    for name in _DECLARED:
        if name not in variables:
            findings.wrong(RULE, Place(file.name), "is not declared", name)
    for name in variables.keys() - set(_DECLARED):
        findings.wrong(RULE, Place(file.name, variables[name][0][1] if variables[name] else None), "is not used", name)
    for name, body in variables.items():
        _check_variable(file.name, name, body, documents, findings)


def _tokens(file: SourceFile) -> list[Token]:
    found: list[Token] = []
    line = 1
    for match in _TOKEN.finditer(file.text):
        text = match.group()
        if not text.isspace() and not text.startswith("#"):
            found.append((text, line))
        line += text.count("\n")
    return found


def _unbalanced(tokens: Sequence[Token]) -> int | None:
    """Line of a bracket or quote without its other half, or None."""
    waiting: list[Token] = []
    for word, line in tokens:
        if word in _OPEN:
            waiting.append((_OPEN[word], line))
        elif word in _CLOSE:
            if not waiting or waiting.pop()[0] != word:
                return line
        elif word == '"':
            return line
    return waiting[-1][1] if waiting else None


def _end(tokens: Sequence[Token], start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    depth = 0
    for at in range(start, len(tokens)):
        depth += (tokens[at][0] in _OPEN) - (tokens[at][0] in _CLOSE)
        if depth == 0:
            return at
    return len(tokens) - 1


def _check_variable(file: str, name: str, body: Sequence[Token], documents: Sequence[Node], findings: Findings) -> None:
    """Attributes and validations of one variable."""
    validations: list[str] = []
    types: Sequence[Token] | None = None
    nullable = True
    at = 0
    while at < len(body):
        word, line = body[at]
        following = body[at + 1][0] if at + 1 < len(body) else ""
        if word == "validation" and following == "{":
            end = _end(body, at + 1)
            validations.append(_condition(body[at + 2 : end], file, line, findings))
            at = end + 1
        elif following == "=" and word in ("description", "nullable", "type"):
            end = _value_end(body, at + 2)
            value = body[at + 2 : end]
            if word == "type":
                types = value
            elif word == "nullable":
                nullable = [text for text, _ in value] != ["false"]
            elif len(value) != 1 or not value[0][0].startswith('"'):
                findings.wrong(RULE, Place(file, line), "must be one text in quotes", word)
            at = end
        else:
            findings.wrong(RULE, Place(file, line), f"cannot be read in variable {name}: {word[:40]!r}")
            return
    first = body[0][1] if body else None
    if nullable:
        findings.wrong(RULE, Place(file, first), "must not be nullable", f"{name}.nullable")
    if types is None:
        findings.wrong(RULE, Place(file, first), "lacks its type", f"{name}.type")
    elif name == "machine_types":
        if [text for text, _ in types] != ["map", "(", "string", ")"]:
            findings.wrong(RULE, Place(file, types[0][1]), "must be map(string)", f"{name}.type")
    else:
        for document in documents:
            _check_type(types, document.get(name), file, findings)
    expected = sorted(_squeezed(text) for text in _VALIDATIONS) if name == "node_pools" else []
    if sorted(validations) != expected:
        message = "must have the validations of counts: GPUs in use, placement groups and largest number of nodes"
        findings.wrong(RULE, Place(file, first), message, f"{name}.validation")


def _squeezed(text: str) -> str:
    return " ".join(match.group() for match in _TOKEN.finditer(text) if not match.group().isspace())


def _condition(body: Sequence[Token], file: str, line: int, findings: Findings) -> str:
    """The condition of a validation, spaces aside."""
    if len(body) < 3 or [text for text, _ in body[:2]] != ["condition", "="]:
        findings.wrong(RULE, Place(file, line), "must be a condition and an error_message", "validation")
        return ""
    end = _value_end(body, 2)
    rest = [text for text, _ in body[end : end + 2]]
    message = body[end + 2 :]
    if rest != ["error_message", "="] or len(message) != 1 or not message[0][0].startswith('"'):
        findings.wrong(RULE, Place(file, line), "must be a condition and an error_message", "validation")
    return " ".join(text for text, _ in body[2:end])


def _value_end(tokens: Sequence[Token], start: int) -> int:
    """Index after a value: a word, or a call with what is in its brackets."""
    at = start + 1
    if at < len(tokens) and tokens[at][0] == "(" and start < len(tokens):
        return _end(tokens, at) + 1
    return at


def _check_type(types: Sequence[Token], value: Node | None, file: str, findings: Findings) -> None:
    """A type expression against a value."""
    if not types or value is None:
        return
    head, line = types[0]
    place = Place(file, line)
    if head in _TYPES and len(types) == 1:
        kind = _TYPES[head]
        if not isinstance(value.value, kind) or (head == "number" and isinstance(value.value, bool)):  # type: ignore[arg-type]
            findings.wrong(RULE, place, f"is declared as {head}, and its value is {value.plain!r:.60}", value.path)
        return
    if len(types) < 4 or types[1][0] != "(":
        findings.wrong(RULE, place, f"is no type: {head[:40]!r}", value.path)
        return
    inner = types[2 : _end(types, 1)]
    if head == "list" and isinstance(value.value, list):
        for item in value.items:
            _check_type(inner, item, file, findings)
    elif head == "map" and isinstance(value.value, dict):
        for item in value.fields.values():
            _check_type(inner, item, file, findings)
    elif head == "object" and isinstance(value.value, dict) and inner[0][0] == "{":
        _check_object(inner[1 : _end(inner, 0)], value, place, file, findings)
    else:
        findings.wrong(RULE, place, f"is declared as {head[:40]}, and its value is not", value.path)


def _check_object(body: Sequence[Token], value: Node, place: Place, file: str, findings: Findings) -> None:
    declared: dict[str, Sequence[Token]] = {}
    at = 0
    while at + 2 < len(body) and body[at + 1][0] == "=":
        end = _value_end(body, at + 2)
        declared[body[at][0]] = body[at + 2 : end]
        at = end
    if at < len(body):
        findings.wrong(RULE, Place(file, body[at][1]), f"is no field with a type: {body[at][0][:40]!r}", value.path)
    for name, inner in declared.items():
        if name in value.fields:
            _check_type(inner, value.fields[name], file, findings)
        else:
            findings.wrong(RULE, Place(file, inner[0][1]), "is declared, and its values lack it", name)
    for name in value.fields.keys() - declared.keys():
        findings.wrong(RULE, place, "has a value and is not declared", name)
