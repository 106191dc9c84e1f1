"""YAML and JSON whose every value knows its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from planner.check.place import Place
from specs.errors import SpecError
from specs.load import MAX_DEPTH, MAX_VALUES

Scalar = str | int | float | bool | None
_CORE = "tag:yaml.org,2002:"


@dataclass(frozen=True, eq=False)
class Node:
    """A value with its place.

    Args:
        value: a scalar, a list of nodes, or a mapping of nodes.
        place: where it stands; a value of a mapping stands at its key.
        path: how it is reached, for example `spec.replicas`.
    """

    value: Scalar | list[Node] | dict[str, Node]
    place: Place
    path: str = ""

    def get(self, *keys: str | int) -> Node | None:
        """The node under nested keys and indices, or None."""
        node: Node | None = self
        for key in keys:
            inner = node.value if node is not None else None
            if isinstance(inner, dict) and isinstance(key, str):
                node = inner.get(key)
            elif isinstance(inner, list) and isinstance(key, int):
                node = inner[key] if -len(inner) <= key < len(inner) else None
            else:
                return None
        return node

    @property
    def fields(self) -> dict[str, Node]:
        """Fields of a mapping; none of anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """Items of a list; none of anything else."""
        return self.value if isinstance(self.value, list) else []

    def text(self, *keys: str | int) -> str | None:
        """The text under nested keys, or None where there is no text."""
        node = self.get(*keys)
        return node.value if node is not None and isinstance(node.value, str) else None

    def whole(self, *keys: str | int) -> int | None:
        """The whole number under nested keys, or None where there is none."""
        node = self.get(*keys)
        return node.value if node is not None and type(node.value) is int else None

    @property
    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain for node in self.value]
        return self.value

    def walk(self) -> Iterator[Node]:
        """This node and all inside it."""
        yield self
        for inner in self.fields.values() if isinstance(self.value, dict) else self.items:
            yield from inner.walk()


@lru_cache(maxsize=512)
def read_yaml(text: str, file: str, first_line: int = 1) -> tuple[Node, ...]:
    """Documents of a YAML text, empty ones left out; `first_line`: where the text stands in its file.

    Scalars follow YAML 1.1, as Kubernetes reads them.

    Raises:
        SpecError: with file and line.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    above = first_line - 1
    try:
        _check_depth(text, loader, file, above)
        return tuple(
            _Builder(file, above).node(document, "", None)
            for document in yaml.compose_all(text, Loader=loader)
            if document is not None and not (isinstance(document, yaml.ScalarNode) and document.value == "")
        )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 + above if mark else None
        raise SpecError(f"is not YAML: {problem}", file=file, line=line) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position if isinstance(error.position, int) else 0) + 1 + above
        raise SpecError(f"is not YAML: {error.reason}", file=file, line=line) from None
    except UnicodeEncodeError:
        raise SpecError("is not YAML: it has characters that are not text", file=file) from None


@lru_cache(maxsize=512)
def read_json(text: str, file: str, first_line: int = 1) -> Node:
    """The value of a JSON text.

    Raises:
        SpecError: with file and line.
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        line = error.lineno + first_line - 1
        raise SpecError(f"is not JSON: {error.msg}", file=file, line=line) from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"is not JSON that can be read: {error}", file=file, line=first_line) from None
    # JSON is YAML once tabs between tokens are spaces; tabs inside strings are always escaped.
    documents = read_yaml(text.replace("\t", " "), file, first_line)
    if len(documents) != 1:
        raise SpecError("is not one JSON value", file=file, line=first_line)
    return documents[0]


def _check_depth(text: str, loader: Any, file: str, above: int) -> None:
    """Refuse deep nesting before nodes are composed: libyaml composes by C recursion, which deep nesting overflows."""
    if text.count("- ") + text.count("[") + text.count("{") + text.count(":") <= MAX_DEPTH:
        return
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 + above if event.start_mark else None
            raise SpecError(f"is nested deeper than {MAX_DEPTH} levels", file=file, line=line)


class _Builder:
    """Makes nodes of YAML nodes, each alias anew, and no more than `MAX_VALUES`."""

    def __init__(self, file: str, above: int) -> None:
        self.file = file
        self.above = above
        self._count = 0
        self._scalars = yaml.SafeLoader("")

    def node(self, source: yaml.Node, path: str, line: int | None, depth: int = 0) -> Node:
        here = source.start_mark.line + 1 + self.above
        place = Place(self.file, line or here)
        self._count += 1
        if self._count > MAX_VALUES:
            raise SpecError(f"has more than {MAX_VALUES:,} values with its aliases expanded", file=self.file, line=here)
        if depth > MAX_DEPTH:  # an alias inside its own anchor
            raise SpecError(f"is nested deeper than {MAX_DEPTH} levels", file=self.file, line=here)
        if isinstance(source, yaml.MappingNode) and source.tag == f"{_CORE}map":
            return Node(self._fields(source, path, depth), place, path)
        if isinstance(source, yaml.SequenceNode) and source.tag == f"{_CORE}seq":
            items = [self.node(item, f"{path}[{i}]", None, depth + 1) for i, item in enumerate(source.value)]
            return Node(items, place, path)
        if isinstance(source, yaml.ScalarNode):
            return Node(self._scalar(source, here), place, path)
        raise SpecError(
            f"has the tag {source.tag}; accepted: plain mappings, lists and scalars", file=self.file, line=here
        )

    def _fields(self, source: yaml.MappingNode, path: str, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key, item in source.value:
            line = key.start_mark.line + 1 + self.above
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError("has a key that is not text", file=self.file, line=line)
            if key.value in found:
                raise SpecError(f"has the key {key.value[:80]!r} twice", file=self.file, line=line)
            inside = f"{path}.{key.value}" if path else key.value
            found[key.value] = self.node(item, inside, line, depth + 1)
        return found

    def _scalar(self, source: yaml.ScalarNode, line: int) -> Scalar:
        if source.tag not in {f"{_CORE}{kind}" for kind in ("int", "float", "bool", "null")}:
            if source.tag.startswith(_CORE) and source.tag != f"{_CORE}binary":
                return str(source.value)
            raise SpecError(f"has the tag {source.tag}; accepted: plain scalars", file=self.file, line=line)
        try:
            value = self._scalars.construct_object(source)
        except (ValueError, yaml.YAMLError):
            raise SpecError(
                f"has a number that cannot be read: {source.value[:40]!r}", file=self.file, line=line
            ) from None
        assert value is None or isinstance(value, str | int | float | bool)
        return value
