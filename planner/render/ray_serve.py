"""Ray Serve LLM: a Serve config file with one application per deployment, on vLLM.

Engine arguments are those of the vLLM command that every other target starts, less what Ray sets itself: where the
parts of an instance are, and where it listens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from planner.launch.address import Address
from planner.launch.command import Process
from planner.launch.component import Component, DeploymentLaunch, Launch
from planner.launch.process import engine_process
from planner.render.caveats import one_domain, one_phase
from planner.render.documents import yaml_text
from planner.render.given import given_flags
from planner.render.tables import Tables
from specs.engine_table import EngineTable, FlagKind, Program
from specs.errors import SpecError
from specs.launchers import launchers
from specs.plan import Role
from specs.service import Engine, Mode

_MODES = frozenset({Mode.AGGREGATED, Mode.PREFILL_DECODE})


def files(launch: Launch, table_of: Tables) -> dict[str, str]:
    """The Serve config file of a launch.

    Args:
        launch: what is launched.
        table_of: flags of an engine.

    Raises:
        SpecError: a service uses another engine or a mode that Ray Serve LLM does not have, a deployment has several
            layouts of one role, or Ray does not know a GPU type.
    """
    for deployment in launch.deployments:
        _check(deployment)
    table = table_of(Engine.VLLM)
    single = len(launch.deployments) == 1
    processes = {component.name: engine_process(component, table, Address()) for component in launch.components}
    applications = [_application(deployment, table, processes, single=single) for deployment in launch.deployments]
    notes = dict.fromkeys(note for process in processes.values() for note in process.notes)
    for deployment in launch.deployments:
        notes |= dict.fromkeys(one_phase(deployment))
        for component in deployment.components:
            notes |= dict.fromkeys(one_domain(deployment, component, "Ray knows nodes and GPU types alone"))
    steps = f'On a Ray cluster with "ray[llm]" and vLLM {table.version}: serve deploy serve.yaml'
    return {
        "serve.yaml": yaml_text([{"applications": applications}]),
        "README.txt": "\n".join([steps, *notes]) + "\n",
    }


def _check(deployment: DeploymentLaunch) -> None:
    """Refuse what Ray Serve LLM cannot serve."""
    engine, name = deployment.service.engine, deployment.name
    if engine is not Engine.VLLM:
        raise SpecError(
            f"Ray Serve LLM runs vLLM, and {name} uses {engine.value}; accepted: engine vllm, or --to {engine.value}",
            field="--to",
        )
    if deployment.mode not in _MODES:
        raise SpecError(
            f"Ray Serve LLM has no attention-FFN disaggregation, the mode of {name}; accepted: --to vllm", field="--to"
        )
    for role in Role:
        if len(deployment.of(role)) > 1:
            raise SpecError(
                f"{name} has {len(deployment.of(role))} layouts of role {role.value}, and an application of Ray Serve "
                "LLM has one; accepted: --to vllm",
                field="--to",
            )
    for component in deployment.components:
        _check_component(component)


def _check_component(component: Component) -> None:
    gpu, known = component.pool.gpu.id, launchers().named("ray")
    if gpu not in known:
        raise SpecError(
            f"Ray knows no accelerator type for {gpu}, the GPUs of {component.name}; accepted: "
            f"{', '.join(known)}, or --to vllm",
            field="--to",
        )
    rank_gpus = component.plan.tp * component.plan.pp
    if component.dp > 1 and rank_gpus > component.pool.gpus_per_node:
        raise SpecError(
            f"Ray keeps the {rank_gpus} GPUs of a data-parallel rank of {component.name} on one node, which has "
            f"{component.pool.gpus_per_node}; accepted: --to vllm",
            field="--to",
        )


def _application(
    deployment: DeploymentLaunch, table: EngineTable, processes: Mapping[str, Process], *, single: bool
) -> dict[str, Any]:
    """One application, with an OpenAI-compatible endpoint of its own."""
    configs = {
        component.role: _config(component, engine_arguments(processes[component.name], table.server))
        for component in deployment.components
    }
    args: dict[str, Any]
    if deployment.mode is Mode.PREFILL_DECODE and len(configs) > 1:
        builder = "build_pd_openai_app"
        args = {"prefill_config": configs[Role.PREFILL], "decode_config": configs[Role.DECODE]}
    else:
        (config,) = configs.values()
        data_parallel = "data_parallel_size" in config["engine_kwargs"]
        builder = "build_dp_openai_app" if data_parallel else "build_openai_app"
        args = {"llm_config": config} if data_parallel else {"llm_configs": [config]}
    return {
        "name": deployment.name,
        "route_prefix": "/" if single else f"/{deployment.name}",
        "import_path": f"ray.serve.llm:{builder}",
        "args": args,
    }


def _config(component: Component, arguments: dict[str, Any]) -> dict[str, Any]:
    """The `LLMConfig` of one component.

    With data parallelism a Serve replica is one rank, `num_replicas` counts groups of ranks, and Ray keeps each rank on
    one node; without it a replica is an instance.
    """
    rank_gpus = component.instance_gpus // component.dp
    one_node = component.dp > 1 or component.nodes == 1
    return {
        "model_loading_config": {"model_id": component.service.model, "model_source": component.weights},
        "accelerator_type": launchers().named("ray")[component.pool.gpu.id],
        "engine_kwargs": arguments,
        "placement_group_config": {
            "bundles": [{"CPU": 1, "GPU": 1} for _ in range(rank_gpus)],
            "strategy": "STRICT_PACK" if one_node else "PACK",
        },
        "deployment_config": {"num_replicas": component.instances},
    }


def engine_arguments(process: Process, program: Program) -> dict[str, Any]:
    """The engine arguments of a server's command, by the names that vLLM gives them in Python.

    vLLM makes its flags from these names: dashes for underscores. Flags that Ray sets itself are left out.
    """
    arguments: dict[str, Any] = {}
    for given in given_flags(process, program, without=frozenset({"host"})):
        kind = program.flags[given.flag].kind
        value: object = given.values[0] if given.values else not given.spelling.startswith("--no-")
        arguments[given.flag.removeprefix("--").replace("-", "_")] = _value(value, kind)
    return arguments


def _value(value: object, kind: FlagKind) -> Any:
    """A word as the value of an engine argument."""
    readers: Mapping[FlagKind, Callable[[str], Any]] = {
        FlagKind.INT: int,
        FlagKind.FLOAT: float,
        FlagKind.JSON: json.loads,
    }
    return readers[kind](value) if isinstance(value, str) and kind in readers else value
