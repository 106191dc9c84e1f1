"""KServe: one LLMInferenceService (`serving.kserve.io/v1alpha2`) per deployment.

KServe merges the service with presets (kserve/kserve, `config/llmisvcconfig`), whose container is `main`; the commands
here replace theirs. Over several nodes it makes groups of data / dataLocal pods, or of as many pods as there are
pipeline stages, and refuses both at once (validation of `LLMInferenceService` in pkg/apis/serving).
"""

from __future__ import annotations

import re
from dataclasses import replace

from planner.launch.address import Address, Ports
from planner.launch.component import Component, DeploymentLaunch, Launch
from planner.launch.process import engine_process
from planner.render import kubernetes
from planner.render.kubernetes import Manifest
from planner.render.tables import Tables
from specs.engine_table import EngineTable
from specs.errors import SpecError
from specs.plan import Role
from specs.service import Engine

SERVICE_PORT = 8000
BEHIND_PROXY = 8001
"""Where the engine listens in decode pods of P/D, whose routing sidecar has the service port (presets
`config-llm-decode-template` and `config-llm-decode-worker-data-parallel`)."""

_HUGGING_FACE_ID = re.compile(r"[\w.-]+/[\w.-]+")


def files(launch: Launch, table_of: Tables) -> dict[str, str]:
    """Manifests by file name, one per deployment.

    Raises:
        SpecError: the engine is not vLLM, or KServe cannot express a component.
    """
    return {
        f"{deployment.name}.yaml": _manifest(
            deployment, launch, table_of(deployment.service.engine, mode=deployment.mode)
        )
        for deployment in launch.deployments
    }


def _manifest(deployment: DeploymentLaunch, launch: Launch, table: EngineTable) -> str:
    _check(deployment)
    prefill = deployment.of(Role.PREFILL)
    others = tuple(component for component in deployment.components if component.role is not Role.PREFILL)
    for side in (prefill, others):
        if len(side) > 1:
            raise SpecError(
                f"{deployment.name}: an LLMInferenceService has one layout of prefill and one of decode workers, and "
                f"the plan has {', '.join(component.name for component in side)}; can: targets dynamo, llm-d and lws",
                field=f"services.{deployment.service.name}",
            )
    main, *rest = (*others, *prefill)
    notes = kubernetes.notes(deployment)
    model = deployment.service.model
    service = {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": deployment.name},
        "spec": {
            "model": {"uri": f"hf://{model}", "name": model},
            # Engines fetch the model themselves, into the claim that all pods share.
            "storageInitializer": {"enabled": False},
            **_workload(main, launch, table, notes, proxied=bool(rest)),
            **({"prefill": _workload(rest[0], launch, table, notes, proxied=False)} if rest else {}),
            "router": {"route": {}, "gateway": {}, "scheduler": {}},
        },
    }
    return kubernetes.manifest_text([service], notes)


def _check(deployment: DeploymentLaunch) -> None:
    kubernetes.check_name(deployment)
    service = deployment.service
    if service.engine is not Engine.VLLM:
        raise SpecError(
            f"{deployment.name}: KServe's presets and routing sidecar are vLLM's, and the service's engine is "
            f"{service.engine.value}; can: targets dynamo and lws",
            field=f"services.{service.name}.engine",
        )
    if not _HUGGING_FACE_ID.fullmatch(service.model):
        raise SpecError(
            f"{service.model!r} has no URI that KServe accepts; accepted: a Hugging Face id; can: targets dynamo, "
            "llm-d and lws",
            field=f"services.{service.name}.model",
        )
    kubernetes.refuse_units(
        deployment, "KServe has prefill and decode workers alone; can launch AFD: targets vllm, lws and slurm"
    )


def _workload(component: Component, launch: Launch, table: EngineTable, notes: list[str], *, proxied: bool) -> Manifest:
    """Replicas of one layout; `notes` gets what has to be said about them."""
    port = BEHIND_PROXY if proxied else SERVICE_PORT
    workload: Manifest = {
        "replicas": component.instances,
        "parallelism": _parallelism(component),
        "template": _pod(component, launch, table, port, notes, worker=False),
    }
    if component.nodes > 1:
        workload["worker"] = _pod(component, launch, table, port, notes, worker=True)
    return workload


def _parallelism(component: Component) -> Manifest:
    """Degrees, from which KServe takes the size of a group."""
    plan, nodes = component.plan, component.nodes
    if plan.pp > 1 and component.dp > 1:
        raise _unfit(component, "pipeline stages beside data-parallel ranks")
    degrees: Manifest = {"tensor": plan.tp}
    if component.dp > 1:
        if component.dp % nodes:
            raise _unfit(component, f"{component.dp} data-parallel ranks over {nodes} nodes")
        degrees |= {"data": component.dp, "dataLocal": component.dp // nodes}
    elif nodes > 1 and plan.pp != nodes:
        raise _unfit(component, f"{plan.pp} pipeline stages of {plan.tp} GPUs over {nodes} nodes")
    elif plan.pp > 1:
        degrees["pipeline"] = plan.pp
    if plan.ep > 1:
        degrees["expert"] = True
    return degrees


def _unfit(component: Component, what: str) -> SpecError:
    return SpecError(
        f"{component.name}: KServe has no groups of {what}; can: targets dynamo and lws",
        field=f"services.{component.service.name}",
    )


def _pod(
    component: Component, launch: Launch, table: EngineTable, port: int, notes: list[str], *, worker: bool
) -> Manifest:
    process = engine_process(
        component,
        table,
        Address(
            node_rank="$LWS_WORKER_INDEX" if worker else "0",
            leader="$LEADER_HOST" if worker else "$POD_IP",
            ports=replace(Ports(), http=port),
            host="$POD_IP",
            follower=worker,
        ),
        config_dir=kubernetes.CONFIG_PATH,
    )
    notes += process.notes
    finding = {"LEADER_HOST": "$LWS_LEADER_ADDRESS"} if worker else {}
    container = kubernetes.container(
        component,
        name="main",
        image=kubernetes.image(table),
        command=["/bin/bash", "-c"],
        args=[kubernetes.script(process, finding=finding)],
        # The presets point it at a volume of the pod's own.
        env=[{"name": "HF_HUB_CACHE", "value": f"{kubernetes.MODEL_PATH}/hub"}],
        ports={} if worker else {"http": port},
        serves=None if worker else "http",
    )
    # The presets are for images without root.
    container["securityContext"] |= {"runAsNonRoot": False, "readOnlyRootFilesystem": False}
    return kubernetes.pod_spec(component, launch, container)
