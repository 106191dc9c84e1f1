"""What each version of an engine accepts on its command line: flags, values, environment variables and YAML keys.

One table per engine and version lies in `specs/data/engines`, taken from the engine's own argument parser where that
could be run. Code names a concept ("tensor_parallel"); the table knows the flag of the version. A version with a `+` is
no release: its table extends that of a release, and it is used only where it is named.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any

from pydantic import Field

from specs.base import Spec
from specs.errors import SpecError
from specs.service import Engine, Mode

FIELD = "--engine-version"
"""Where errors about versions point."""


class FlagKind(StrEnum):
    """Kinds of value that a flag takes."""

    SWITCH = "switch"
    """None: the flag alone."""
    INT = "int"
    FLOAT = "float"
    STR = "str"
    CHOICE = "choice"
    JSON = "json"
    """An object."""
    BOOL = "bool"
    """The words true and false (YAML keys)."""


Scalar = str | int | float | bool


class Flag(Spec):
    """A flag of a command, or a key of a YAML file."""

    kind: FlagKind
    choices: tuple[str | int | float, ...] = ()
    """Accepted values of a choice."""
    aliases: tuple[str, ...] = ()
    """Other spellings, those that switch it off included."""
    many: bool = False
    """Whether several values may follow."""
    source: str | None = None
    """Where it is documented, when not at the program's own source."""

    def refusal(self, value: Scalar | Mapping[str, Any] | None) -> str | None:
        """What is accepted, where `value` is not; None where it is.

        Args:
            value: as a word of the command line, or as a YAML value; None for the flag alone.
        """
        if self.kind is FlagKind.SWITCH:
            return None if value is None else "no value"
        if value is None:
            return f"a value ({self.kind.value})"
        if self.kind is FlagKind.CHOICE:
            accepted = [str(choice) for choice in self.choices]
            return None if str(value) in accepted else f"one of {', '.join(accepted)}"
        if self.kind is FlagKind.JSON:
            return None if isinstance(value, Mapping) or _is_object(value) else "a JSON object"
        if self.kind is FlagKind.BOOL:
            return None if value in (True, False, "true", "false") else "true or false"
        patterns = {FlagKind.INT: _INTEGER, FlagKind.FLOAT: _NUMBER}
        if self.kind in patterns:
            matches = not isinstance(value, bool) and patterns[self.kind].fullmatch(str(value))
            return None if matches else {FlagKind.INT: "an integer", FlagKind.FLOAT: "a number"}[self.kind]
        return None


_INTEGER = re.compile(r"[-+]?\d+")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _is_object(text: object) -> bool:
    try:
        return isinstance(json.loads(str(text)), dict)
    except ValueError:
        return False


class Program(Spec):
    """One command: an engine's server, or a router in front of servers."""

    command: tuple[str, ...] = Field(min_length=1)
    """The words before its flags."""
    source: str
    """File and version, or page, that its flags are taken from."""
    version: str | None = None
    """Where it is not the engine's own."""
    positional: int = 0
    """Words without a flag that follow the command."""
    flags: dict[str, Flag]
    concepts: dict[str, str] = Field(default_factory=dict)
    """What Cleave sets -> the flag that sets it."""
    values: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Of a concept: Cleave's word -> the program's."""

    @cached_property
    def spellings(self) -> dict[str, str]:
        """Every accepted spelling -> the flag's main one."""
        return {spelling: name for name, flag in self.flags.items() for spelling in (name, *flag.aliases)}

    def has(self, concept: str) -> bool:
        """Whether the program can express a concept."""
        return concept in self.concepts

    def flag(self, concept: str) -> str:
        """The flag of a concept.

        Raises:
            SpecError: this version has none.
        """
        if concept not in self.concepts:
            raise SpecError(f"{' '.join(self.command)} has no flag for {concept.replace('_', ' ')}", field=FIELD)
        return self.concepts[concept]

    def value(self, concept: str, word: str) -> str:
        """The program's word for one of Cleave's.

        Raises:
            SpecError: it has none.
        """
        known = self.values.get(concept, {})
        if word not in known:
            raise SpecError(
                f"{' '.join(self.command)} has no {concept.replace('_', ' ')} {word!r}; "
                f"accepted: {', '.join(known) or 'none'}",
                field=concept,
            )
        return known[word]

    def words(self, concept: str, value: str | int | float | None = None) -> tuple[str, ...]:
        """The flag of a concept and its value.

        Raises:
            SpecError: this version does not accept it.
        """
        name = self.flag(concept)
        refusal = self.flags[name].refusal(value)
        if refusal is not None:
            raise SpecError(f"{name} takes {refusal}, got {value!r}", field=concept)
        if value is None:
            return (name,)
        return (name, value if isinstance(value, str) else str(value))


class EngineTable(Spec):
    """What one version of one engine accepts."""

    engine: Engine
    version: str
    released: str
    """Date of the release, YYYY-MM-DD; empty where not known."""
    programs: dict[str, Program]
    """`server` and `router`; TensorRT-LLM also has `launcher`."""
    environment: dict[str, str] = Field(default_factory=dict)
    """What Cleave sets -> the environment variable that sets it."""
    documents: dict[str, dict[str, Flag]] = Field(default_factory=dict)
    """Keys of YAML files that the programs read, dotted where nested."""
    afd: dict[str, Scalar] = Field(default_factory=dict)
    """How AFD is launched; empty where this version cannot."""
    lacks: dict[str, str] = Field(default_factory=dict)
    """What this version cannot express, with the reason."""

    @property
    def title(self) -> str:
        """Engine and version."""
        return f"{self.engine.value} {self.version}"

    @property
    def server(self) -> Program:
        """The engine's server."""
        return self.programs["server"]

    @property
    def router(self) -> Program:
        """What stands in front of several servers.

        Raises:
            SpecError: the engine ships none.
        """
        if "router" not in self.programs:
            raise SpecError(f"{self.title} ships no router", field=FIELD)
        return self.programs["router"]

    def variable(self, concept: str) -> str:
        """The environment variable of a concept.

        Raises:
            SpecError: this version has none.
        """
        if concept not in self.environment:
            raise SpecError(f"{self.title} has no variable for {concept.replace('_', ' ')}", field=FIELD)
        return self.environment[concept]


@lru_cache(maxsize=1)
def _index() -> dict[str, dict[str, Any]]:
    index: dict[str, dict[str, Any]] = _load("index.yaml")
    return index


def versions(engine: Engine) -> tuple[str, ...]:
    """Versions with a table, oldest first; those that are no release among them."""
    return tuple(str(version) for version in _index()[engine.value]["versions"])


def is_release(version: str) -> bool:
    """Whether a version was released, candidates included: others have a `+` in their names."""
    return "+" not in version


def default_version(engine: Engine, mode: Mode = Mode.AGGREGATED) -> str:
    """The version that launch files are written for when none is named.

    AFD may need another one: vLLM's plugin pins the vLLM version it works with, for every component of the deployment.
    """
    entry = _index()[engine.value]
    afd = mode in (Mode.AFD, Mode.PREFILL_DECODE_AFD)
    return str(entry["afd"] if afd and entry.get("afd") is not None else entry["default"])


def engine_table(engine: Engine, version: str | None = None, *, mode: Mode = Mode.AGGREGATED) -> EngineTable:
    """The table of a version.

    Args:
        engine: whose.
        version: as released; None for the default.
        mode: serving mode that the default is for.

    Raises:
        SpecError: there is no table of this version; the nearest is named.
    """
    known = versions(engine)
    wanted = (version or default_version(engine, mode)).removeprefix("v")
    if wanted not in known:
        raise SpecError(
            f"no flag table for {engine.value} {wanted!r}; "
            f"nearest: {nearest_version(wanted, tuple(filter(is_release, known)))}; "
            f"accepted: {', '.join(known)}",
            field=FIELD,
        )
    return _table(engine, wanted)


@lru_cache(maxsize=32)
def _table(engine: Engine, version: str) -> EngineTable:
    content = _load(f"{engine.value}-{version}.yaml")
    base = content.pop("extends", None)
    if base is not None:
        content = _extended(_load(f"{engine.value}-{base}.yaml"), content)
    return EngineTable.model_validate(content)


def _extended(base: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """A table with the entries of another in it; an empty object empties."""
    result = dict(base)
    for key, value in content.items():
        nested = isinstance(value, dict) and value and isinstance(result.get(key), dict)
        result[key] = _extended(result[key], value) if nested else value
    return result


def nearest_version(wanted: str, known: tuple[str, ...]) -> str:
    """The known version nearest to another: by release numbers, or by spelling where it has none."""
    numbers = _numbers(wanted)
    if not numbers:
        return next(iter(difflib.get_close_matches(wanted, known, n=1, cutoff=0.0)), known[-1])

    return min(known, key=lambda version: abs(_position(_numbers(version)) - _position(numbers)))


def _position(numbers: tuple[int, ...]) -> int:
    """Versions on one line: a later number never outweighs an earlier one."""
    base = 10**9
    return sum(number * base ** (6 - place) for place, number in enumerate(numbers))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", version)[:6])


def _load(name: str) -> Any:
    import yaml

    text = resources.files("specs").joinpath("data", "engines", name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
