"""Pieces of Kubernetes manifests that the targets share: pods, where they may run, services and config maps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from planner.launch.command import Process
from planner.launch.component import Component, DeploymentLaunch, Launch
from planner.launch.router import START_SECONDS
from planner.render.caveats import one_domain, one_phase
from planner.render.documents import yaml_text
from specs.engine_table import EngineTable
from specs.errors import SpecError
from specs.launchers import launchers
from specs.plan import UNIT_ROLES

Manifest = dict[str, Any]

PRODUCT_LABEL = "nvidia.com/gpu.product"
POOL_LABEL = "cleave/pool"
"""Label that the nodes of a pool must carry where the product alone does not tell pools apart."""
GPU_LABEL = "cleave/gpu"
"""Label with the catalogue's id of the GPUs, on nodes that Terraform makes."""
DOMAIN_LABEL = "nvidia.com/gpu.clique"
"""Label of nodes with the NVLink partition that they are in."""

COMPONENT_LABEL = "cleave/component"
ROLE_LABEL = "cleave/role"
"""Labels of pods."""

GPU_RESOURCE = "nvidia.com/gpu"
MODEL_CLAIM = "model-cache"
"""PersistentVolumeClaim with the models, which all pods of a deployment mount."""
MODEL_VOLUME = "models"
MODEL_PATH = "/model-cache"
TOKEN_SECRET = "hf-token"
CONFIG_PATH = "/etc/cleave"
"""Where a component's config map is mounted."""
SHARED_MEMORY_GIB_PER_GPU = 16
"""NCCL and the engines' processes exchange through /dev/shm, whose default of 64 MiB is too small."""


def image(table: EngineTable) -> str:
    """The engine's public image of a version."""
    return launchers().images[table.engine.value].of(table.version)


def node_selector(component: Component, launch: Launch) -> dict[str, str]:
    """Labels of the nodes that a component may run on: those of its pool.

    Raises:
        SpecError: GPUs that the `nvidia.com/gpu` resource does not count.
    """
    gpu, products = component.pool.gpu, launchers().named("product")
    if gpu.id not in products:
        raise SpecError(
            f"{component.name}: manifests ask for {GPU_RESOURCE}, and {gpu.name} is no NVIDIA GPU known by its label; "
            f"accepted: {', '.join(products)}",
            field=f"cluster.pools.{component.pool.name}.gpu",
        )
    alike = Counter(pool.gpu.id for pool in launch.pools.values())
    labels = {PRODUCT_LABEL: products[gpu.id]}
    if alike[gpu.id] > 1:
        labels[POOL_LABEL] = component.pool.name
    return labels


def container(
    component: Component,
    *,
    name: str,
    image: str,
    command: Sequence[str],
    args: Sequence[str] = (),
    env: Iterable[Manifest] = (),
    ports: Mapping[str, int],
    serves: str | None,
    config: bool = False,
    shared_memory: bool = True,
) -> Manifest:
    """The engine's container on one node of an instance.

    Args:
        component: whose.
        name: of the container.
        image: of the container.
        command: words.
        args: words that follow.
        env: variables, besides those of the model cache and the address.
        ports: by name.
        serves: name of the port whose /health says that it is ready; None where the node serves nothing.
        config: whether the component's config map is mounted.
        shared_memory: whether /dev/shm is mounted here; false where an operator does it.
    """
    mounts = [
        *([{"name": "shared-memory", "mountPath": "/dev/shm"}] if shared_memory else []),
        {"name": MODEL_VOLUME, "mountPath": MODEL_PATH},
        *([{"name": "config", "mountPath": CONFIG_PATH, "readOnly": True}] if config else []),
    ]
    found: Manifest = {
        "name": name,
        "image": image,
        "command": [literal(word) for word in command],
        **({"args": [literal(word) for word in args]} if args else {}),
        "env": [*common_env(), *env],
        **({"ports": [{"name": p, "containerPort": n} for p, n in ports.items()]} if ports else {}),
        "resources": gpu_resources(component),
        # Registering memory for RDMA needs it.
        "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
        "volumeMounts": mounts,
    }
    return {**found, **(probes(serves) if serves is not None else {})}


def script(process: Process, *, finding: Mapping[str, str] | None = None) -> str:
    """Find the addresses that a command needs, then become the command.

    Args:
        process: the command.
        finding: names to be resolved, as shell text, by the variable that gets the address. Engines bind to addresses,
            and the names of pods appear only as these are created.
    """
    lines = ["set -eu"]
    for variable, name in (finding or {}).items():
        lines += [
            f"{variable}=",
            f'while [ -z "${variable}" ]; do',
            f"  {variable}=$(getent hosts \"{name}\" | head -n 1 | cut -d ' ' -f 1) || true",
            f'  [ -n "${variable}" ] || sleep 2',
            "done",
        ]
    return "\n".join([*lines, f"exec {process.shell()}"]) + "\n"


def gpu_resources(component: Component) -> Manifest:
    """The GPUs that one instance takes on each of its nodes."""
    gpus = {GPU_RESOURCE: str(component.gpus_on_node)}
    return {"limits": gpus, "requests": dict(gpus)}


def field_env(name: str, path: str) -> Manifest:
    """A variable with a field of the pod itself."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def common_env() -> list[Manifest]:
    """Where models are kept, the token to fetch them, and the pod's own address."""
    return [
        field_env("POD_IP", "status.podIP"),
        {"name": "HF_HOME", "value": MODEL_PATH},
        {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": TOKEN_SECRET, "key": "HF_TOKEN", "optional": True}},
        },
    ]


def probes(port: str) -> Manifest:
    """A long start, then readiness and liveness of a server."""
    health = {"httpGet": {"path": "/health", "port": port, "scheme": "HTTP"}}
    return {
        "startupProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": START_SECONDS // 10},
        "readinessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**health, "periodSeconds": 30, "timeoutSeconds": 10, "failureThreshold": 10},
    }


def shared_memory_size(component: Component) -> str:
    """Size of /dev/shm."""
    return f"{SHARED_MEMORY_GIB_PER_GPU * component.gpus_on_node}Gi"


def volumes(component: Component, *, config: str | None = None, shared_memory: bool = True) -> list[Manifest]:
    """What `container` mounts.

    Args:
        component: whose.
        config: name of its config map, where it has one.
        shared_memory: as in `container`.
    """
    shared = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory_size(component)}}
    return [
        *([shared] if shared_memory else []),
        {"name": MODEL_VOLUME, "persistentVolumeClaim": {"claimName": MODEL_CLAIM}},
        *([{"name": "config", "configMap": {"name": config}}] if config is not None else []),
    ]


def placed(component: Component, launch: Launch) -> Manifest:
    """Fields of a pod that say where it may run."""
    return {
        "nodeSelector": node_selector(component, launch),
        "tolerations": [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}],
    }


def pod_spec(
    component: Component, launch: Launch, engine: Manifest, *, config: str | None = None, shared_memory: bool = True
) -> Manifest:
    """The pod of one node of an instance."""
    mounted = volumes(component, config=config, shared_memory=shared_memory)
    return {**placed(component, launch), "containers": [engine], "volumes": mounted}


def labels(component: Component) -> dict[str, str]:
    """Labels of a component's pods."""
    return {COMPONENT_LABEL: component.name, ROLE_LABEL: component.role.value}


def config_map(name: str, files: Mapping[str, str]) -> Manifest:
    """Files that pods mount."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(files)}


def service(name: str, selector: Mapping[str, str], port: int) -> Manifest:
    """A stable address in front of pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": dict(selector), "ports": [{"name": "http", "port": port, "targetPort": port}]},
    }


def notes(deployment: DeploymentLaunch) -> list[str]:
    """What manifests of a deployment leave to whoever applies them."""
    names = launchers()
    found = list(one_phase(deployment))
    for component in deployment.components:
        gpu = component.pool.gpu
        if gpu.id in names.gpus and "product" in names.gpus[gpu.id].unconfirmed:
            found.append(f"Not confirmed: nodes with {gpu.name} have {PRODUCT_LABEL}={names.gpus[gpu.id].product}")
        found += one_domain(deployment, component, f"use pod affinity with the topology key {DOMAIN_LABEL}")
    return found


def manifest_text(documents: Iterable[Manifest], notes: Iterable[str] = ()) -> str:
    """Documents as one YAML file, under comments with what whoever applies it has to know."""
    comments = [f"# {line}\n" for note in dict.fromkeys(notes) for line in note.splitlines()]
    return "".join(comments) + yaml_text(documents)


def literal(word: str) -> str:
    """A word of `command` or `args` that reaches the process as it stands.

    Kubernetes expands `$(NAME)` in both, whoever wrote it, and reads `$$` as one dollar; `$((...))` of a shell is
    neither.
    """
    return re.sub(r"\$\$+|\$(?=\([A-Za-z_][\w.-]*\))", lambda found: found[0] * 2, word)


def check_name(deployment: DeploymentLaunch) -> None:
    """Refuse a name that objects cannot have.

    Raises:
        SpecError: it begins with a digit, which names of Services must not.
    """
    if deployment.name[0].isdigit():
        raise SpecError(
            f"{deployment.name!r} begins with a digit, and names of Kubernetes Services begin with a letter; accepted: "
            "another name of the service",
            field=f"services.{deployment.service.name}.name",
        )


def refuse_units(deployment: DeploymentLaunch, reason: str) -> None:
    """Refuse an AFD deployment.

    Raises:
        SpecError: it is one.
    """
    for component in deployment.components:
        if component.role in UNIT_ROLES:
            raise SpecError(f"{component.name}: {reason}", field=f"services.{deployment.service.name}")
