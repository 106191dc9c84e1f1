"""llm-d: values of the modelservice Helm chart, and of the InferencePool chart that routes to its pods.

The chart (llm-d-incubation/llm-d-modelservice v0.4.0, `values.yaml` and `templates/_helpers.tpl`) makes one set of
decode pods and one of prefill pods. All pods of an instance over several nodes get one template, and the endpoint
picker sends requests to every one of them: each node therefore serves its own data-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.launch.address import Address, Ports
from planner.launch.command import Process
from planner.launch.component import Component, DeploymentLaunch, Launch
from planner.launch.process import engine_process
from planner.launch.settings import DISAGGREGATED_MODES
from planner.render import kubernetes
from planner.render.documents import yaml_text
from planner.render.kubernetes import Manifest
from planner.render.tables import Tables
from specs.engine_table import EngineTable
from specs.errors import SpecError
from specs.plan import Role
from specs.service import Engine

CHART = "v0.4.0"
"""Of llm-d-modelservice."""
SCHEDULER = "v0.5.0"
"""Of llm-d-inference-scheduler, the endpoint picker (llm-d/llm-d, guides/pd-disaggregation/gaie-pd/values.yaml)."""
SERVICE_PORT = 8000
BEHIND_PROXY = 8200
"""Where the engine listens in decode pods of P/D, whose routing sidecar has the service port."""

_PICKER = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: prefill-header-handler
  - type: prefill-filter
  - type: decode-filter
  - type: queue-scorer
  - type: pd-profile-handler
    parameters: {threshold: 0}
schedulingProfiles:
  - name: prefill
    plugins: [{pluginRef: prefill-filter}, {pluginRef: queue-scorer, weight: 1.0}]
  - name: decode
    plugins: [{pluginRef: decode-filter}, {pluginRef: queue-scorer, weight: 1.0}]
"""
"""Every request is prefilled and decoded by different pods, the least loaded of each."""


def files(launch: Launch, table_of: Tables) -> dict[str, str]:
    """Values by file name, one folder per deployment, and the commands that install them.

    Raises:
        SpecError: the engine is not vLLM, or the chart cannot express a component.
    """
    found, commands, notes = dict[str, str](), list[str](), list[str]()
    for deployment in launch.deployments:
        _check(deployment)
        notes += kubernetes.notes(deployment)
        table = table_of(deployment.service.engine, mode=deployment.mode)
        pairs = _pairs(deployment)
        for number, pair in enumerate(pairs, start=1):
            stem = "modelservice" if len(pairs) == 1 else f"modelservice-{number}"
            release = deployment.name if len(pairs) == 1 else f"{deployment.name}-{number}"
            values, said = _values(release, deployment, pair, launch, table)
            found[f"{deployment.name}/{stem}.yaml"] = yaml_text([values])
            notes += said
            commands.append(
                f"helm upgrade --install {release} llm-d-modelservice/llm-d-modelservice --version {CHART} \\\n"
                f"  -f {deployment.name}/{stem}.yaml"
            )
        found[f"{deployment.name}/inferencepool.yaml"] = yaml_text([_pool(deployment)])
        commands.append(
            f"helm upgrade --install {deployment.name}-pool \\\n"
            "  oci://registry.k8s.io/gateway-api-inference-extension/charts/inferencepool \\\n"
            f'  --version "$GAIE_VERSION" -f {deployment.name}/inferencepool.yaml'
        )
    found["README.txt"] = _readme(commands, notes)
    return found


def _check(deployment: DeploymentLaunch) -> None:
    kubernetes.check_name(deployment)
    service = deployment.service
    if service.engine is not Engine.VLLM:
        raise SpecError(
            f"{deployment.name}: llm-d's modelservice chart launches vLLM, and the service's engine is "
            f"{service.engine.value}; can: targets dynamo and lws",
            field=f"services.{service.name}.engine",
        )
    kubernetes.refuse_units(
        deployment, "llm-d has prefill and decode pods alone; can launch AFD: targets vllm, lws and slurm"
    )


Pair = tuple[Component | None, Component | None]
"""Prefill and decode (or mixed) component of one release."""


def _pairs(deployment: DeploymentLaunch) -> list[Pair]:
    """Components by release: a release has one of each side."""
    prefill = [c for c in deployment.components if c.role is Role.PREFILL]
    decode = [c for c in deployment.components if c.role is not Role.PREFILL]

    def at(side: Sequence[Component], index: int) -> Component | None:
        return side[index] if index < len(side) else None

    return [(at(prefill, i), at(decode, i)) for i in range(max(len(prefill), len(decode)))]


def _values(
    release: str, deployment: DeploymentLaunch, pair: Pair, launch: Launch, table: EngineTable
) -> tuple[Manifest, list[str]]:
    """Values of one release, and what has to be said about them."""
    proxied = deployment.mode in DISAGGREGATED_MODES
    several = any(component is not None and component.nodes > 1 for component in pair)
    sides, notes = dict[str, Manifest](), list[str]()
    for name, component in zip(("prefill", "decode"), pair, strict=True):
        if component is None:
            sides[name] = {"create": False, "replicas": 0}
            continue
        port = BEHIND_PROXY if proxied and name == "decode" else SERVICE_PORT
        process = _process(component, table, port)
        notes += process.notes
        sides[name] = _side(component, launch, table, process, port)
    values = {
        "fullnameOverride": release,
        "multinode": several,
        "modelArtifacts": {
            "name": deployment.service.model,
            "uri": f"hf://{deployment.service.model}",
            "authSecretName": "",
            "labels": _labels(deployment),
        },
        "routing": {
            "servicePort": SERVICE_PORT,
            "proxy": {"enabled": proxied, "targetPort": BEHIND_PROXY, "connector": "nixlv2", "secure": False},
        },
        "decode": sides["decode"],
        "prefill": sides["prefill"],
    }
    return values, notes


def _process(component: Component, table: EngineTable, port: int) -> Process:
    """The command of every node of an instance."""
    rank = component.plan.tp * component.plan.pp
    if component.nodes > 1 and component.gpus_on_node % rank:
        raise SpecError(
            f"{component.name}: all pods of a group of llm-d serve requests, and a data-parallel rank of {rank} GPUs "
            f"here spans nodes of {component.gpus_on_node}; can: targets dynamo, lws and kserve",
            field=f"services.{component.service.name}",
        )
    several = component.nodes > 1
    process = engine_process(
        component,
        table,
        Address(
            node_rank="$LWS_WORKER_INDEX" if several else "0",
            leader="$LEADER_HOST" if several else "$POD_IP",
            ports=replace(Ports(), http=port),
            host="$POD_IP",
            follower=True if several else None,
        ),
        config_dir=kubernetes.CONFIG_PATH,
    )
    if not several:
        return process
    # vLLM docs, Data Parallel Deployment, Hybrid Load Balancing.
    headless, serves = table.server.flag("headless"), table.server.flag("every_node_serves")
    return replace(process, words=tuple(serves if word == headless else word for word in process.words))


def _side(component: Component, launch: Launch, table: EngineTable, process: Process, port: int) -> Manifest:
    finding = {"LEADER_HOST": "$LWS_LEADER_ADDRESS"} if component.nodes > 1 else {}
    container = kubernetes.container(
        component,
        name="vllm",
        image=kubernetes.image(table),
        command=["/bin/bash", "-c"],
        args=[kubernetes.script(process, finding=finding)],
        ports={"vllm": port},
        serves="vllm",
    )
    local = component.dp // component.nodes
    return {
        "create": True,
        "replicas": component.instances,
        "parallelism": {
            "tensor": component.plan.tp,
            "data": component.dp,
            "dataLocal": local,
            "workers": component.nodes,
        },
        "containers": [{**container, "modelCommand": "custom", "mountModelVolume": False}],
        "volumes": kubernetes.volumes(component),
        "extraConfig": kubernetes.placed(component, launch),
    }


def _labels(deployment: DeploymentLaunch) -> dict[str, str]:
    return {"llm-d.ai/inference-serving": "true", "llm-d.ai/model": deployment.name}


def _pool(deployment: DeploymentLaunch) -> Manifest:
    """Values of the InferencePool chart."""
    extension: Manifest = {"replicas": 1}
    if deployment.mode in DISAGGREGATED_MODES:
        extension |= {
            "image": {"hub": "ghcr.io/llm-d", "name": "llm-d-inference-scheduler", "tag": SCHEDULER},
            "pluginsConfigFile": "pd-config.yaml",
            "pluginsCustomConfig": {"pd-config.yaml": _PICKER},
        }
    return {
        "inferenceExtension": extension,
        "inferencePool": {
            "targetPorts": [{"number": SERVICE_PORT}],
            "modelServerType": "vllm",
            "modelServers": {"matchLabels": _labels(deployment)},
        },
    }


def _readme(commands: Sequence[str], notes: Sequence[str]) -> str:
    head = "helm repo add llm-d-modelservice https://llm-d-incubation.github.io/llm-d-modelservice/"
    said = [f"Note: {note}" for note in dict.fromkeys(notes)]
    return "\n\n".join(["Install, in a namespace with the claim model-cache:", *said, head, *commands]) + "\n"
