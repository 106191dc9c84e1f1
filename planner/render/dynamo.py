"""Dynamo: one DynamoGraphDeployment (`nvidia.com/v1beta1`) per deployment.

The operator tells the nodes of an instance where they find one another (ai-dynamo/dynamo, deploy/operator/internal/
dynamo, `backend_vllm.go`, `backend_sglang.go`, `backend_trtllm.go`), and Dynamo's workers are reached through its own
runtime, not over HTTP: both kinds of flags are therefore left out. All other flags of the engines are taken as they are
(docs.nvidia.com/dynamo, v1.6, Backends: "also accepts every native argument").
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from planner.launch.address import Address
from planner.launch.command import Process
from planner.launch.component import Component, DeploymentLaunch, Launch
from planner.launch.process import engine_process
from planner.render import kubernetes
from planner.render.kubernetes import Manifest
from specs.engine_table import EngineTable, Program, default_version, engine_table, versions
from specs.errors import SpecError
from specs.plan import Role
from specs.service import Engine, Mode

RELEASE = "1.6.1"
HOLDS = {Engine.VLLM: "0.31.0", Engine.SGLANG: "0.5.21", Engine.TRTLLM: "1.3.0rc29"}
"""Engine versions in the images of that release (docs.nvidia.com/dynamo/v1.6.1/reference/compatibility)."""
MAX_COMPONENTS = 25
HTTP_PORT = 8000
NAME_LENGTH = 20
"""Longest name of a graph: Grove allows 45 characters for the names of graph, component and pod clique together."""

_IMAGES = {Engine.VLLM: "vllm-runtime", Engine.SGLANG: "sglang-runtime", Engine.TRTLLM: "tensorrtllm-runtime"}
_OPERATOR = frozenset(
    {
        "host",
        "port",
        "headless",
        "nodes",
        "node_rank",
        "master_host",
        "master_port",
        "rendezvous",
        "data_parallel_local",
        "data_parallel_address",
        "data_parallel_port",
        "data_parallel_start",
    }
)
"""Concepts that the operator sets, or that Dynamo's workers have no use for."""


def files(launch: Launch, table_of: Callable[[Engine], EngineTable]) -> dict[str, str]:
    """Manifests by file name.

    Raises:
        SpecError: Dynamo cannot launch a deployment.
    """
    return {
        f"{deployment.name}.yaml": _manifest(deployment, launch, _table(deployment.service.engine, table_of))
        for deployment in launch.deployments
    }


def _table(engine: Engine, table_of: Callable[[Engine], EngineTable]) -> EngineTable:
    """The flags of the version in Dynamo's image where there is a table of it and no other version was asked for."""
    table, held = table_of(engine), HOLDS[engine]
    unasked = table.version == default_version(engine)
    return engine_table(engine, held) if unasked and held in versions(engine) else table


def _manifest(deployment: DeploymentLaunch, launch: Launch, table: EngineTable) -> str:
    kubernetes.check_name(deployment)
    kubernetes.refuse_units(
        deployment,
        "Dynamo has no attention or FFN workers; can launch AFD: targets vllm, lws and slurm",
    )
    if len(deployment.components) + 1 > MAX_COMPONENTS:
        raise SpecError(
            f"{deployment.name}: a graph holds at most {MAX_COMPONENTS} components, the frontend included, and the "
            f"deployment has {len(deployment.components)}; can: lws",
            field=f"services.{deployment.service.name}",
        )
    counts = Counter(component.role for component in deployment.components)
    seen: Counter[Role] = Counter()
    components, configs = [_frontend(table)], list[Manifest]()
    notes = [f"Flags of {table.title}; Dynamo {RELEASE} holds {table.engine.value} {HOLDS[table.engine]}"]
    for component in deployment.components:
        seen[component.role] += 1
        kind = _type(component)
        name = f"{kind}-{seen[component.role]}" if counts[component.role] > 1 else kind
        process = engine_process(component, table, Address(host="$(POD_IP)"), config_dir=kubernetes.CONFIG_PATH)
        config = f"{component.name}-engine" if process.files else None
        if config is not None:
            configs.append(kubernetes.config_map(config, process.files))
        notes += process.notes
        components.append(_worker(name, component, launch, table, process, config))
    graph = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": _short(deployment.name)},
        "spec": {"backendFramework": table.engine.value, "components": components},
    }
    return kubernetes.manifest_text([*configs, graph], notes)


def _frontend(table: EngineTable) -> Manifest:
    container = {
        "name": "main",
        "image": _image(table),
        "command": ["python3", "-m", "dynamo.frontend"],
        "args": ["--http-port", str(HTTP_PORT), "--router-mode", "round-robin"],
        "env": kubernetes.common_env(),
        "ports": [{"name": "http", "containerPort": HTTP_PORT}],
        "volumeMounts": [{"name": kubernetes.MODEL_VOLUME, "mountPath": kubernetes.MODEL_PATH}],
    }
    cache = {"name": kubernetes.MODEL_VOLUME, "persistentVolumeClaim": {"claimName": kubernetes.MODEL_CLAIM}}
    spec = {"containers": [container], "volumes": [cache]}
    return {"name": "frontend", "type": "frontend", "replicas": 1, "podTemplate": {"spec": spec}}


def _worker(
    name: str, component: Component, launch: Launch, table: EngineTable, process: Process, config: str | None
) -> Manifest:
    _check_nodes(component)
    container = kubernetes.container(
        component,
        name="main",
        image=_image(table),
        command=["python3", "-m", f"dynamo.{table.engine.value}"],
        args=[*_arguments(component, table, process), *_disaggregation(component, table)],
        env=[{"name": key, "value": str(value)} for key, value in _environment(component, table, process)],
        ports={},
        serves=None,
        config=config is not None,
        shared_memory=False,
    )
    spec = kubernetes.pod_spec(component, launch, container, config=config, shared_memory=False)
    return {
        "name": name,
        "type": _type(component),
        "replicas": component.instances,
        **({"multinode": {"nodeCount": component.nodes}} if component.nodes > 1 else {}),
        "sharedMemorySize": kubernetes.shared_memory_size(component),
        "podTemplate": {"metadata": {"labels": kubernetes.labels(component)}, "spec": spec},
    }


def _check_nodes(component: Component) -> None:
    """Refuse what the operator cannot spread over nodes: with vLLM either one DP rank, or whole ranks on each node."""
    rank = component.plan.tp * component.plan.pp
    split = component.nodes > 1 and component.dp > 1 and component.gpus_on_node % rank
    if component.service.engine is Engine.VLLM and split:
        raise SpecError(
            f"{component.name}: Dynamo's operator spreads either one data-parallel rank of vLLM over nodes or whole "
            f"ranks, and here {component.dp} ranks of {rank} GPUs meet nodes of {component.gpus_on_node}; "
            "can: targets vllm, lws and slurm",
            field=f"services.{component.service.name}",
        )


def _arguments(component: Component, table: EngineTable, process: Process) -> Iterator[str]:
    """The engine's flags that are left to a worker."""
    if table.engine is Engine.TRTLLM:
        # Dynamo's TensorRT-LLM worker reads the engine's YAML file, and takes none of the server's other flags.
        yield from ("--model", component.weights, "--extra-engine-args")
        yield from (f"{kubernetes.CONFIG_PATH}/{name}" for name in process.files)
        return
    program = table.server
    words = [str(word) for word in process.words[len(program.command) :]]
    if table.engine is Engine.VLLM:
        yield from ("--model", words.pop(0))
    dropped = {program.concepts[concept] for concept in _OPERATOR if concept in program.concepts}
    for flag, values in _flags(words, program):
        if program.spellings.get(flag, flag) not in dropped:
            yield from (flag, *values)


def _environment(component: Component, table: EngineTable, process: Process) -> Iterator[tuple[str, str]]:
    """The engine's variables; over several nodes the operator gives each pod its own address."""
    own = table.environment.get("kv_transfer_host") if component.nodes > 1 else None
    yield from ((name, value) for name, value in process.env.items() if name != own)


def _flags(words: Sequence[str], program: Program) -> Iterator[tuple[str, list[str]]]:
    """Flags with the values that follow them."""
    flag, values = "", list[str]()
    for word in words:
        if word in program.spellings:
            if flag:
                yield flag, values
            flag, values = word, []
        else:
            values.append(word)
    if flag:
        yield flag, values


def _type(component: Component) -> str:
    """Kind of a component: the phase that it computes, or a worker for whole requests."""
    return "worker" if component.role is Role.MIXED else component.role.value


def _disaggregation(component: Component, table: EngineTable) -> Sequence[str]:
    """The side of P/D that a worker is, where the engine's own flags do not say it."""
    if table.engine is Engine.SGLANG or component.mode is Mode.AGGREGATED:
        return ()
    return ("--disaggregation-mode", component.role.value)


def _image(table: EngineTable) -> str:
    return f"nvcr.io/nvidia/ai-dynamo/{_IMAGES[table.engine]}:{RELEASE}"


def _short(name: str) -> str:
    """The name, cut and marked by a hash where Grove would refuse it."""
    if len(name) <= NAME_LENGTH:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: NAME_LENGTH - 7].rstrip('-')}-{mark}"
