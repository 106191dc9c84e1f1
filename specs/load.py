"""Reads scenarios and plans, in YAML or JSON; whatever is wrong ends in one `SpecError` with file, line and field.

YAML is read by its 1.2 core rules (`yes`, `on` and `1:30` are text, `1e3` is a number), and a document is composed to
nodes first, so that every field knows its line.
"""

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from specs.errors import SpecError
from specs.plan import PLAN_SCHEMA, Plan
from specs.prediction import CONFIGURATION_SCHEMA, Configuration
from specs.scenario import Scenario, resolve_pool
from specs.workload import resolve_workload

MAX_SCENARIO_BYTES = 1_000_000
MAX_PLAN_BYTES = 64_000_000
MAX_VALUES = 300_000
"""Values in one YAML document with its aliases expanded; a scenario of 1 MB cannot need as many."""
MAX_DEPTH = 64
MAX_LINED_CHARACTERS = 1_000_000
"""Errors of a longer JSON text have no lines, which it would have to be read a second and slower time for."""
MAX_ERRORS = 100
"""Errors of one text that are put into words; a megabyte of them would take minutes."""
STDIN = "-"

FieldPath = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = {f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")}
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False, ".nan": float("nan")}
_INFINITY = re.compile(r"([-+]?)\.inf")
MAX_DIGITS = 400
"""Longer integers are read as (infinite) floats; Python refuses to parse the longest at all."""


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario from a YAML or JSON file, or from standard input where the path is `-`.

    Relative paths of models are taken from the folder of the file.

    Raises:
        SpecError: with file, line and field where they are known.

    """
    text, file = _read(path, MAX_SCENARIO_BYTES)
    return parse_scenario(text, file)


def parse_scenario(text: str, file: str | None = None, *, model_files: bool = True) -> Scenario:
    """Read a scenario from text.

    Args:
        text: YAML or JSON.
        file: names the text in errors.
        model_files: whether a model may be the path of a file here, or is an id of the catalogue alone.

    Raises:
        SpecError: with file, line and field where they are known.

    """
    document = _Document(text, file)
    scenario = document.build(Scenario)
    return _check_names(scenario, document, model_files=model_files)


def parse_configuration(text: str, file: str | None = None, *, model_files: bool = True) -> Configuration:
    """Read a configuration from text, as `parse_scenario` does.

    Raises:
        SpecError: with file, line and field where they are known.

    """
    document = _Document(text, file)
    configuration = document.build(Configuration)
    look_up = partial(_found_model, configuration.model, document.file, files=model_files)
    return configuration.model_copy(update={"model": _at(document, ("model",), look_up)})


def parse_plan(text: str, file: str | None = None) -> Plan:
    """Read a plan from text; models of its scenario are looked up by those who use them.

    Raises:
        SpecError: with file, line and field where they are known.

    """
    return _Document(text, file).build(Plan)


def load_configuration(path: str | Path | None, changes: Mapping[str, Any] | None = None) -> Configuration:
    """Read a configuration from a YAML or JSON file, from standard input (`-`), or from `changes` alone.

    Args:
        path: of the file, or None. Relative paths of models are taken from its folder.
        changes: fields that take the place of the file's, nested as in it; those of a mapping are merged into it.

    Raises:
        SpecError: with file, line and field where they are known.

    """
    document = _Document("{}", None) if path is None else _Document(*_read(path, MAX_SCENARIO_BYTES))
    if path is None:
        document.value = {"schema": CONFIGURATION_SCHEMA}
    if changes and isinstance(document.value, dict):
        named = document.value.get("workload")
        if isinstance(named, str) and "workload" in changes:
            workload = _at(document, ("workload",), partial(resolve_workload, named))
            document.value = {**document.value, "workload": workload.model_dump(mode="json")}
        document.value = _merged(document.value, changes)
    try:
        configuration = document.build(Configuration)
        name = _at(document, ("model",), partial(_found_model, configuration.model, document.file))
    except SpecError as error:
        if path is not None:
            raise
        raise SpecError(error.message, field=error.field) from None  # there is no text whose line could be named
    return configuration.model_copy(update={"model": name})


def _merged(value: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The value with some fields replaced, down to any depth."""
    merged = dict(value)
    for key, change in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, change) if isinstance(old, dict) and isinstance(change, Mapping) else change
    return merged


def load_plan(path: str | Path) -> Plan:
    """Read a plan from a JSON or YAML file, or from standard input where the path is `-`.

    Raises:
        SpecError: with file, line and field where they are known.

    """
    return parse_plan(*_read(path, MAX_PLAN_BYTES))


def load(path: str | Path) -> Scenario | Plan:
    """Read whichever of the two the file holds, by its `schema`; without one it is taken for a scenario.

    Raises:
        SpecError: with file, line and field where they are known.

    """
    text, file = _read(path, MAX_PLAN_BYTES)
    document = _Document(text, file)
    if isinstance(document.value, dict) and document.value.get("schema") == PLAN_SCHEMA:
        return document.build(Plan)
    return _check_names(document.build(Scenario), document)


@contextmanager
def errors_in(path: str | Path) -> Iterator[None]:
    """Add file and line to errors that speak of a field of the file, but were found after it had been read.

    Raises:
        SpecError: the one from inside, with file and line where they are known.

    """
    try:
        yield
    except SpecError as error:
        if error.file is not None or error.field is None:
            raise
        file = "<stdin>" if str(path) == STDIN else str(path)
        line = None
        if str(path) != STDIN:
            # The file may have changed or gone since; the error stands without a line then.
            with suppress(SpecError):
                line = _Document(*_read(path, MAX_PLAN_BYTES)).line(_field_path(error.field))
        raise SpecError(error.message, field=error.field, file=file, line=line) from None


def _field_path(field: str) -> FieldPath:
    """Keys and indices of a dotted field: services[0].workload -> ("services", 0, "workload")."""
    return tuple(int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", field))


def build(kind: type[M], value: object) -> M:
    """Validate plain data (from an API, say) as a model, with the errors of a file.

    Raises:
        SpecError: with the field, and no line.

    """
    return _validate(kind, value, lambda message, path: SpecError(message, field=_dotted(path)))


def _read(path: str | Path, max_bytes: int) -> tuple[str, str]:
    """Text of a file and its name in errors."""
    file = "<stdin>" if str(path) == STDIN else str(path)
    try:
        if str(path) == STDIN:
            data = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with Path(path).open("rb") as stream:
                data = stream.read(max_bytes + 1)
    except FileNotFoundError:
        raise SpecError("no such file; accepted: a YAML or JSON file, or - for standard input", file=file) from None
    except IsADirectoryError:
        raise SpecError("is a directory; accepted: a YAML or JSON file, or - for standard input", file=file) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise SpecError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=file) from None
    if len(data) > max_bytes:
        raise SpecError(f"is larger than {max_bytes // 1_000_000} MB, the most that is accepted", file=file)
    try:
        return data.decode("utf-8-sig"), file
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError("is not UTF-8 text; accepted: a YAML or JSON file", file=file, line=line) from None


class _Document:
    """A parsed text: its value, and the line of each of its fields.

    Args:
        text: YAML or JSON.
        file: its name in errors.

    Raises:
        SpecError: the text is neither, or has a mapping with one key twice, a foreign tag or too much in it.

    """

    def __init__(self, text: str, file: str | None) -> None:
        self.text = text
        self.file = file
        self.value: Any = None
        self._lines: dict[FieldPath, int] | None = None
        if text.lstrip().startswith("{"):
            # JSON is read without lines, which are looked up only when an error needs them. What is not JSON is left
            # to the YAML reader, which says what is wrong and where.
            with suppress(ValueError, RecursionError):
                self.value = json.loads(text, object_pairs_hook=_distinct)
        if self.value is None:
            self.value, self._lines = _read_yaml(text, file)

    def line(self, path: FieldPath) -> int | None:
        """Line of a field, or of the nearest thing around it that is there."""
        if self._lines is None:
            self._lines = {}
            if len(self.text) <= MAX_LINED_CHARACTERS:
                with suppress(SpecError):
                    self._lines = _read_yaml(self.text, self.file)[1]
        for end in range(len(path), -1, -1):
            if path[:end] in self._lines:
                return self._lines[path[:end]]
        return None

    def error(self, message: str, path: FieldPath) -> SpecError:
        """Return the error of a field."""
        return SpecError(message, field=_dotted(path), file=self.file, line=self.line(path))

    def build(self, kind: type[M]) -> M:
        """Validate the value as a model."""
        return _validate(kind, self.value, self.error)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("one key twice")
    return found


def _read_yaml(text: str, file: str | None) -> tuple[Any, dict[FieldPath, int]]:
    """Value and lines of a YAML text."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_size(yaml.parse(text, Loader=loader), file)
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(
            f"is neither YAML nor JSON: {problem}", file=file, line=mark.line + 1 if mark else None
        ) from None
    except yaml.reader.ReaderError as error:
        at = error.position if isinstance(error.position, int) else 0
        line = text.count("\n", 0, at) + 1
        raise SpecError(f"is neither YAML nor JSON: {error.reason}", file=file, line=line) from None
    except UnicodeEncodeError:  # lone surrogates
        raise SpecError("is neither YAML nor JSON: it has characters that are not text", file=file) from None
    if node is None:
        raise SpecError("is empty; accepted: a mapping of fields", file=file)
    reader = _NodeReader(file)
    return reader.value(node, ()), reader.lines


def _check_size(events: Iterable[yaml.Event], file: str | None) -> None:
    """Refuse what is nested deep or long before nodes are composed.

    libyaml composes by C recursion, which deep nesting overflows, and nodes take far more memory than their text.
    """
    depth = 0
    for count, event in enumerate(events):
        if count > 2 * MAX_VALUES:
            raise SpecError(f"has more than {MAX_VALUES:,} values", file=file)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else None
            raise SpecError(f"is nested deeper than {MAX_DEPTH} levels", file=file, line=line)


class _NodeReader:
    """Turns YAML nodes into plain values and remembers the line of each."""

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.lines: dict[FieldPath, int] = {}
        self._count = 0

    def value(self, node: yaml.Node, path: FieldPath, line: int | None = None) -> Any:
        """Value of a node; `line` is that of its key, where it has one."""
        self.lines[path] = line or node.start_mark.line + 1
        self._count += 1
        if self._count > MAX_VALUES:
            raise self._error(f"has more than {MAX_VALUES:,} values with its aliases expanded", node)
        if len(path) > MAX_DEPTH:
            raise self._error(f"is nested deeper than {MAX_DEPTH} levels", node)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALAR_TAGS:
            return node.value if node.style else _plain_scalar(node.value)
        raise self._error(f"has the tag {node.tag}; accepted: plain mappings, lists, numbers and text", node)

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error("has a key that is not text", key)
            if key.value in found:
                first = self.lines[(*path, key.value)]
                raise self._error(f"{_short(key.value)} is given twice (first on line {first})", key)
            found[key.value] = self.value(item, (*path, key.value), key.start_mark.line + 1)
        return found

    def _error(self, message: str, node: yaml.Node) -> SpecError:
        return SpecError(message, file=self.file, line=node.start_mark.line + 1)


def _plain_scalar(text: str) -> Any:
    """Value of an unquoted scalar by the core schema of YAML 1.2."""
    lower = text.lower()
    if lower in _WORDS:
        return _WORDS[lower]
    if _INTEGER.fullmatch(text):
        if text[:2] in ("0x", "0o"):
            return int(text, 0)
        return int(text) if len(text) <= MAX_DIGITS and not text.endswith("_") and "__" not in text else float("inf")
    if _FLOAT.fullmatch(text):
        return float(text)
    infinity = _INFINITY.fullmatch(lower)
    return float(f"{infinity[1]}inf") if infinity else text


def _validate(kind: type[M], value: object, error_at: Callable[[str, FieldPath], SpecError]) -> M:
    """Validate, and say the first of what is wrong in the order of the document."""
    if not isinstance(value, dict):
        raise error_at(f"must be a mapping of the fields {', '.join(_names([kind]))}, got {_short(value)}", ())
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        invalid = error
    found = _plain_errors(kind, value, invalid)
    errors = [error_at(message, path) for path, message in found.items()]
    errors.sort(key=lambda error: (error.field != "schema", error.line or 0))  # under another schema, all is wrong
    first, more = errors[0], len(errors) - 1
    if not more:
        raise first
    at_least = "at least " if invalid.error_count() > MAX_ERRORS else ""
    raise SpecError(
        f"{first.message} (and {at_least}{more} more)",
        field=first.field,
        file=first.file,
        line=first.line,
        parts=tuple(errors),
    )


def _plain_errors(kind: type[BaseModel], value: object, invalid: ValidationError) -> dict[FieldPath, str]:
    """Messages by field. Those of a field's alternatives are joined, and a misspelt field is not also missing."""
    accepted: dict[FieldPath, list[str]] = {}
    inputs: dict[FieldPath, object] = {}
    whole: dict[FieldPath, str] = {}
    missing: dict[FieldPath, None] = {}
    misspelt: set[FieldPath] = set()
    errors = invalid.errors(include_url=False)[:MAX_ERRORS]
    locations = [_path(error["loc"], value, is_missing=error["type"] == "missing") for error in errors]
    for error, path in zip(errors, locations, strict=True):
        if error["type"] == "missing":
            missing[path] = None
        elif error["type"] == "extra_forbidden":
            names = _names(_models(kind, path[:-1]))
            near = difflib.get_close_matches(str(path[-1]), names, n=3, cutoff=0.5)
            misspelt.update((*path[:-1], name) for name in near[:1])
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            whole[path] = f"unknown field{hint} (accepted: {', '.join(names)})"
        elif error["type"] == "too_short" and any(inner[: len(path)] == path for inner in locations if inner != path):
            continue  # pydantic does not count the items that are wrong themselves
        elif error["type"] == "value_error":
            cause = error["ctx"]["error"]
            if isinstance(cause, SpecError):
                whole[path + _parsed(cause.field)] = cause.message
            else:
                whole[path] = str(cause)
        else:
            accepted.setdefault(path, []).append(_accepted(error, _names(_models(kind, path))))
            inputs[path] = error["input"]
    for path, alternatives in accepted.items():
        whole[path] = f"must be {' or '.join(dict.fromkeys(alternatives))}, got {_short(inputs[path])}"
    whole.update({path: "is required" for path in missing if path not in misspelt})
    return whole


def _accepted(error: Any, fields: list[str]) -> str:
    """Say what would have been accepted, in words that follow `must be`."""
    context = error.get("ctx", {})
    kind = error["type"]
    if kind in ("enum", "literal_error"):
        choices = re.findall(r"'([^']*)'", context["expected"])
        near = difflib.get_close_matches(str(error["input"]), choices, n=1) if len(choices) > 1 else []
        return str(context["expected"]) + (f" (did you mean {near[0]}?)" if near else "")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"a mapping of the fields {', '.join(fields)}" if fields else "a mapping"
    template = _ACCEPTED.get(kind)
    if template is None:
        return f"valid ({error['msg'][0].lower()}{error['msg'][1:]})"
    return template.format(**context)


_ACCEPTED = {
    "greater_than": "greater than {gt:,.10g}",
    "greater_than_equal": "at least {ge:,.10g}",
    "less_than": "less than {lt:,.10g}",
    "less_than_equal": "at most {le:,.10g}",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (a number goes in quotes)",
    "string_pattern_mismatch": "lower-case letters, digits and hyphens, a letter or digit first and last, 63 at most",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "tuple_type": "a list",
    "list_type": "a list",
}


def _path(location: tuple[str | int, ...], value: Any, *, is_missing: bool) -> FieldPath:
    """Give the location of an error without the names that pydantic adds for the alternatives of a union."""
    path: list[str | int] = []
    for part in location:
        match value:
            case dict() if part in value:
                value = value[part]
            case [*items] if isinstance(part, int) and part < len(items):
                value = items[part]
            case _:
                continue
        path.append(part)
    return (*path, location[-1]) if is_missing else tuple(path)


def _models(annotation: Any, path: FieldPath) -> list[type[BaseModel]]:
    """Models that a field may hold."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _models(get_args(annotation)[0], path)
    if origin in (Union, UnionType):
        return [found for member in get_args(annotation) for found in _models(member, path)]
    if origin in (tuple, list, dict):
        return [found for member in get_args(annotation) for found in _models(member, path[1:])] if path else []
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return []
    if not path:
        return [annotation]
    for name, field in annotation.model_fields.items():
        if path[0] == (field.alias or name):
            return _models(field.annotation, path[1:])
    return []


def _names(models: Iterable[type[BaseModel]]) -> list[str]:
    """Names of the fields of models, as a document spells them."""
    return list(dict.fromkeys(field.alias or name for model in models for name, field in model.model_fields.items()))


def _check_names(scenario: Scenario, document: _Document, *, model_files: bool = True) -> Scenario:
    """Look every GPU, model and workload up in the catalogue; return the scenario with its model paths resolved."""
    for p, pool in enumerate(scenario.cluster.pools):
        _at(document, ("cluster", "pools", p), partial(resolve_pool, pool))
    services = []
    for s, service in enumerate(scenario.services):
        look_up = partial(_found_model, service.model, document.file, files=model_files)
        name = _at(document, ("services", s, "model"), look_up)
        _at(document, ("services", s, "workload"), partial(resolve_workload, service.workload))
        services.append(service.model_copy(update={"model": name}))
    return scenario.model_copy(update={"services": tuple(services)})


T = TypeVar("T")


def _at(document: _Document, path: FieldPath, look_up: Callable[[], T]) -> T:
    """Run a look-up; its error gets the place in the document."""
    try:
        return look_up()
    except SpecError as error:
        inside = path[:-1] if error.field in ("model", "workload") else path
        # An error inside a config.json keeps its own place, in the message.
        message = str(error) if error.file else error.message
        where = path if error.file else inside + _parsed(error.field)
        raise document.error(message, where) from error


def _found_model(name: str, file: str | None, *, files: bool = True) -> str:
    """Give the name, or the path from here, of a model that the catalogue can read.

    What starts with a dot or ends in `.json` is a path from the folder of the scenario; any other name is looked up in
    the catalogue first, then in that folder.
    """
    # Imported here: a plan needs no catalogue.
    from specs import catalog

    if not files:
        catalog.model(name, files=False)
        return name
    folder = Path(file).parent if file else Path()
    beside = str(folder / Path(name).expanduser())
    if name.startswith((".", "~")) or name.endswith(".json"):
        catalog.model(beside)
        return beside
    try:
        catalog.model(name)
    except SpecError:
        if not (Path(beside) / "config.json").is_file():
            raise
        catalog.model(beside)
        return beside
    return name


def _dotted(path: FieldPath) -> str | None:
    """`services[0].slo` of ("services", 0, "slo"); None for the whole document."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return _cut(text) or None


def _parsed(field: str | None) -> FieldPath:
    """Inverse of `_dotted`, for the fields that validators name."""
    return tuple(int(index) if index else name for index, name in re.findall(r"\[(\d+)\]|([^.\[\]]+)", field or ""))


def _short(value: object) -> str:
    """Write a value as a message quotes it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, int) and value.bit_length() > MAX_DIGITS:
        return "a number of more than 100 digits"
    return _cut(repr(value))


def _cut(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()  # what JSON escapes may not be printable
    return text if len(text) <= 100 else f"{text[:100]}..."
