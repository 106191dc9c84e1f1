"""What an engine can launch: rules by engine and version, as data with their sources.

One file per engine and version lies in `specs/data/launch_rules`. A rule names what it speaks about, when it applies
and what it requires there; the planner applies it to every layout (`planner.launchable`), and no rule is in code.
"""

from __future__ import annotations

import re
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from importlib import resources
from typing import Annotated, Any

from pydantic import AfterValidator, model_validator

from specs.base import Spec
from specs.engine_table import is_release
from specs.errors import SpecError
from specs.hardware import Architecture
from specs.model import Precision
from specs.plan import Role
from specs.service import Engine, Mode, Phase

FOLDER = "launch_rules"
ENGINE_NAMES = {Engine.VLLM: "vLLM", Engine.SGLANG: "SGLang", Engine.TRTLLM: "TensorRT-LLM"}


class Subject(StrEnum):
    """What a rule speaks about."""

    MODE = "mode"
    """A serving mode as a whole."""
    WORKER = "worker"
    """A colocated worker: attention and FFN on the same GPUs."""
    UNIT = "unit"
    """An AFD unit: attention replicas and one FFN replica."""


FACTS = {
    Subject.MODE: frozenset[str](),
    Subject.WORKER: frozenset(
        {"tp", "dp", "ep", "moe_tp", "pp", "overlap", "deepep", "redundant_experts", "gpus", "rank_gpus", "node_gpus"}
    ),
    Subject.UNIT: frozenset(
        {
            "tp",
            "ep",
            "moe_tp",
            "attention_replicas",
            "attention_gpus",
            "ffn_gpus",
            "gpus",
            "microbatches",
            "redundant_experts",
            "attention_node_gpus",
            "ffn_node_gpus",
            "gpu_types",
        }
    ),
}
"""Whole numbers that a rule may compare. `redundant_experts` are the expert slots beyond the experts, `rank_gpus` the
GPUs of one attention DP rank with all its pipeline stages, `overlap` is 1 with two-batch overlap, `deepep` is 1 where
DeepEP exchanges tokens (whole experts over DP ranks, beyond one scale-up domain or with overlap), `..._node_gpus` are
GPUs of one node of the pool, `gpu_types` counts those of a unit."""

OPERATIONS = frozenset({"==", "<=", ">=", "in", "multiple_of"})

Comparison = tuple[str, str, str | int | tuple[int, ...]]
"""A fact, an operation, and a fact, a number or (for `in`) numbers."""


def _is_comparison(value: Comparison) -> Comparison:
    fact, operation, right = value
    if operation not in OPERATIONS:
        raise SpecError(f"unknown operation {operation!r}; accepted: {', '.join(sorted(OPERATIONS))}")
    if (operation == "in") != isinstance(right, tuple):
        raise SpecError(
            f"{fact} {operation} needs {'a list of numbers' if operation == 'in' else 'a fact or a number'}"
        )
    return value


class When(Spec):
    """Where a rule applies: everything that is given must hold."""

    modes: tuple[Mode, ...] | None = None
    phases: tuple[Phase, ...] | None = None
    roles: tuple[Role, ...] | None = None
    models: tuple[str, ...] | None = None
    """Patterns with * and ?, case ignored, of Hugging Face ids."""
    models_except: tuple[str, ...] | None = None
    gpus: tuple[str, ...] | None = None
    """Patterns of GPU ids; of a unit, either pool's."""
    vendors_except: tuple[str, ...] | None = None
    architectures: tuple[Architecture, ...] | None = None
    precisions: tuple[Precision, ...] | None = None
    kv_cache_dtypes: tuple[Precision, ...] | None = None
    block_fp8: bool | None = None
    """Whether the model's FP8 checkpoint has a scale for every block."""
    speculative: bool | None = None

    def about_model(self, model_id: str) -> bool:
        """Whether it applies to a model."""
        return _matches(model_id, self.models) and not (
            self.models_except is not None and _matches(model_id, self.models_except)
        )

    def about_gpu(self, gpu_id: str, vendor: str, architecture: Architecture) -> bool:
        """Whether it applies to a GPU type."""
        return (
            _matches(gpu_id, self.gpus)
            and not (self.vendors_except is not None and vendor in self.vendors_except)
            and (self.architectures is None or architecture in self.architectures)
        )


def _matches(name: str, patterns: tuple[str, ...] | None) -> bool:
    return patterns is None or any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)


class Rule(Spec):
    """One thing that an engine cannot launch."""

    name: str
    subject: Subject
    blocks: str
    """What cannot be launched, or what it needs, in words that follow the engine's name and version."""
    when: When = When()
    require: tuple[Annotated[Comparison, AfterValidator(_is_comparison)], ...] = ()
    """One of these must hold, else the subject is blocked; none: it is blocked wherever the rule applies."""
    source: str
    """Key of the file's `sources`."""

    @model_validator(mode="after")
    def _check(self) -> Rule:
        for fact, _, right in self.require:
            for name in (fact, right):
                if isinstance(name, str) and name not in FACTS[self.subject]:
                    accepted = ", ".join(sorted(FACTS[self.subject])) or "none"
                    raise SpecError(f"unknown fact {name!r} of a {self.subject.value}; accepted: {accepted}")
        return self


class LaunchRules(Spec):
    """What one version of an engine can launch."""

    engine: Engine
    version: str
    sources: dict[str, str]
    """Pages and files with their version, by a short key."""
    rules: tuple[Rule, ...]

    @model_validator(mode="after")
    def _check(self) -> LaunchRules:
        for rule in self.rules:
            if rule.source not in self.sources:
                raise SpecError(f"rule {rule.name!r} has the unknown source {rule.source!r}", field="rules")
        if len({rule.name for rule in self.rules}) != len(self.rules):
            raise SpecError("must name each rule once", field="rules")
        return self

    @property
    def title(self) -> str:
        """Engine and version."""
        return f"{ENGINE_NAMES[self.engine]} {self.version}"

    def sentence(self, rule: Rule) -> str:
        """Whose rule, and what it blocks."""
        return f"{self.title}: {rule.blocks}"

    @cached_property
    def launches(self) -> frozenset[Mode]:
        """Modes that it launches at least for some model and GPU."""
        refused = [r.when for r in self.rules if r.subject is Subject.MODE and r.when == When(modes=r.when.modes)]
        return frozenset(mode for mode in Mode if not any(mode in (when.modes or Mode) for when in refused))


@lru_cache
def versions(engine: Engine) -> tuple[str, ...]:
    """Versions with rules, the newest first; those that are no release (`specs.engine_table.is_release`) last."""
    prefix = f"{engine.value}-"
    names = [path.name for path in resources.files("specs").joinpath("data", FOLDER).iterdir()]
    found = [name[len(prefix) : -len(".yaml")] for name in names if name.startswith(prefix) and name.endswith(".yaml")]
    return tuple(sorted(found, key=lambda version: (is_release(version), _numbers(version)), reverse=True))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def launch_rules(engine: Engine, version: str | None = None, *, mode: Mode | None = None) -> LaunchRules:
    """The rules of a version.

    Args:
        engine: whose.
        version: its name; None for the newest release that launches `mode`, or the newest of all.
        mode: serving mode that is to be launched.

    Raises:
        SpecError: there are no rules of this version; those that exist are named.
    """
    known = versions(engine)
    if version is None:
        released = filter(is_release, known)
        able = [each for each in released if mode is None or mode in _read(engine, each).launches]
        return _read(engine, able[0] if able else known[0])
    if version not in known:
        raise SpecError(f"no launch rules for {engine.value} {version!r}; accepted: {', '.join(known)}")
    return _read(engine, version)


@lru_cache
def _read(engine: Engine, version: str) -> LaunchRules:
    import yaml

    name = f"{engine.value}-{version}.yaml"
    text = resources.files("specs").joinpath("data", FOLDER, name).read_text(encoding="utf-8")
    content: Any = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return LaunchRules.model_validate(content)
