"""The door of rendering: a plan and a target in, files out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import PurePosixPath

from planner.launch.component import Launch, launch
from planner.render.tables import Tables
from planner.render.target import Target
from specs.engine_table import EngineTable, engine_table
from specs.errors import SpecError
from specs.plan import Plan
from specs.service import Engine, Mode

_MODULES: dict[Target, str] = {
    Target.VLLM: "scripts",
    Target.SGLANG: "scripts",
    Target.TRTLLM: "scripts",
    Target.DYNAMO: "dynamo",
    Target.LLM_D: "llm_d",
    Target.LWS: "lws",
    Target.KSERVE: "kserve",
    Target.SLURM: "slurm",
    Target.RAY: "ray_serve",
    Target.SKYPILOT: "skypilot",
    Target.TERRAFORM: "terraform",
}
"""Module of this package whose `files` renders a target; one is imported at a time."""

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def render(plan: Plan, target: Target, *, engine_version: str | None = None) -> dict[str, str]:
    """The launch files of a plan by relative path.

    Args:
        plan: a plan that was found, with its scenario.
        target: what the files are for.
        engine_version: whose flags to use; by default the newest version that can launch the mode of each deployment.

    Raises:
        SpecError: nothing to launch, an engine version without a table, or a mode that the engine or the target cannot
            launch; the message says which can.
    """
    wanted = launch(plan)
    if engine_version is not None:
        engines = sorted({deployment.service.engine for deployment in wanted.deployments})
        if len(engines) > 1:
            raise SpecError(
                f"names a version of one engine, and the plan uses {', '.join(engines)}; accepted: leave it out",
                field="--engine-version",
            )
    files = _files(target)(wanted, _tables(engine_version))
    return {_checked(path): text for path, text in files.items()}


def _tables(version: str | None) -> Tables:
    """The tables of one version, or of each engine's default for a mode."""

    def table_of(engine: Engine, *, mode: Mode = Mode.AGGREGATED) -> EngineTable:
        return engine_table(engine, version, mode=mode)

    return table_of


def _files(target: Target) -> Callable[[Launch, Tables], Mapping[str, str]]:
    """The function that renders a target."""
    module = import_module(f"planner.render.{_MODULES[target]}")
    if target in (Target.VLLM, Target.SGLANG, Target.TRTLLM):
        return partial(module.files, engine=Engine(target.value))
    files: Callable[[Launch, Tables], Mapping[str, str]] = module.files
    return files


def _checked(path: str) -> str:
    """The path, if it lies inside the folder that it is written to (a defect of ours if not)."""
    parts = PurePosixPath(path).parts
    if not parts or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"{path!r} is no relative path of plain names")
    return path
