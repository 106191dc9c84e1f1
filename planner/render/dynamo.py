"""Dynamo: one DynamoGraphDeployment (`nvidia.com/v1beta1`) per deployment.

The operator tells the nodes of an instance where they find one another (ai-dynamo/dynamo, deploy/operator/internal/
dynamo, `backend_vllm.go`, `backend_sglang.go`, `backend_trtllm.go`), and requests reach Dynamo's workers through its
own runtime, not over HTTP: both kinds of flags are therefore left out. SGLang keeps its host, at which the server that
decode asks for its prefill listens (ai-dynamo/dynamo, examples/backends/sglang/deploy/disagg.yaml). All other flags of
the engines are taken as they are (docs.nvidia.com/dynamo, v1.6, Backends).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

from planner.launch.address import Address
from planner.launch.command import Process
from planner.launch.component import Component, DeploymentLaunch, Launch
from planner.launch.process import engine_process
from planner.render import kubernetes
from planner.render.given import given_flags
from planner.render.kubernetes import Manifest
from planner.render.tables import Tables
from specs.engine_table import EngineTable, default_version, engine_table, versions
from specs.errors import SpecError
from specs.launchers import launchers
from specs.plan import Role
from specs.service import Engine, Mode

MAX_COMPONENTS = 25
HTTP_PORT = 8000
NAME_LENGTH = 20
"""Longest name of a graph: Grove allows 45 characters for the names of graph, component and pod clique together."""


def files(launch: Launch, table_of: Tables) -> dict[str, str]:
    """Manifests by file name.

    Raises:
        SpecError: Dynamo cannot launch a deployment.
    """
    return {
        f"{deployment.name}.yaml": _manifest(deployment, launch, _table(deployment, table_of))
        for deployment in launch.deployments
    }


def _table(deployment: DeploymentLaunch, table_of: Tables) -> EngineTable:
    """The flags of the version in Dynamo's image where there is a table of it and no other version was asked for."""
    engine = deployment.service.engine
    table, held = table_of(engine, mode=deployment.mode), launchers().dynamo.holds[engine]
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
    dynamo = launchers().dynamo
    held = f"Dynamo {dynamo.version} holds {table.engine.value} {dynamo.holds[table.engine]}"
    notes = [f"Flags of {table.title}; {held}", *kubernetes.notes(deployment)]
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
    program = launchers().dynamo.frontend
    container = {
        "name": "main",
        "image": _image(table),
        "command": list(program.command),
        "args": [*program.words("port", HTTP_PORT), *program.words("policy", program.value("policy", "even"))],
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
        command=launchers().dynamo.workers[table.engine].command,
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
    worker = launchers().dynamo.workers[table.engine]
    if worker.has("model"):
        yield from worker.words("model", component.weights)
    if worker.has("config"):
        # The worker reads the engine's YAML file, and takes none of the server's other flags.
        for name in process.files:
            yield from worker.words("config", f"{kubernetes.CONFIG_PATH}/{name}")
        return
    # SGLang's host is also that of the server by which decode finds prefill.
    unused = frozenset[str]() if table.engine is Engine.SGLANG else frozenset({"host"})
    for given in given_flags(process, table.server, without=unused):
        yield from (given.spelling, *given.values)


def _environment(component: Component, table: EngineTable, process: Process) -> Iterator[tuple[str, str]]:
    """The engine's variables; over several nodes the operator gives each pod its own address."""
    own = table.environment.get("kv_transfer_host") if component.nodes > 1 else None
    yield from ((name, value) for name, value in process.env.items() if name != own)


def _type(component: Component) -> str:
    """Kind of a component: the phase that it computes, or a worker for whole requests."""
    return "worker" if component.role is Role.MIXED else component.role.value


def _disaggregation(component: Component, table: EngineTable) -> Sequence[str]:
    """The side of P/D that a worker is, where the engine's own flags do not say it."""
    worker = launchers().dynamo.workers[table.engine]
    if component.mode is Mode.AGGREGATED or not worker.has("disaggregation"):
        return ()
    return worker.words("disaggregation", component.role.value)


def _image(table: EngineTable) -> str:
    dynamo = launchers().dynamo
    return f"{dynamo.registry}/{dynamo.images[table.engine]}:{dynamo.version}"


def _short(name: str) -> str:
    """The name, cut and marked by a hash where Grove would refuse it."""
    if len(name) <= NAME_LENGTH:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: NAME_LENGTH - 7].rstrip('-')}-{mark}"
