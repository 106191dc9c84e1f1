"""LeaderWorkerSet: groups of pods, one group per engine instance and one pod per node, with routers in front.

A P/D deployment is one DisaggregatedSet whose roles are its components; every other component is a LeaderWorkerSet
(kubernetes-sigs/lws, API groups `leaderworkerset.x-k8s.io/v1` and `disaggregatedset.x-k8s.io/v1`). The controller tells
every pod the leader's address and its place in the group; a headless Service per instance gives the leader a name that
does not change, which routers and the sides of AFD units use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.launch.address import Address, Ports
from planner.launch.command import Process
from planner.launch.component import Component, DeploymentLaunch, Launch
from planner.launch.process import engine_process
from planner.launch.router import entry_roles, router_process
from planner.render import kubernetes
from planner.render.kubernetes import Manifest
from planner.render.sides import partner_of
from planner.render.tables import Tables
from specs.engine_table import EngineTable
from specs.errors import SpecError
from specs.launchers import launchers
from specs.plan import UNIT_ROLES, Role
from specs.service import Engine, Mode

GROUP_INDEX = "leaderworkerset.sigs.k8s.io/group-index"
WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
"""Labels that the controller puts on pods: which instance, which node of it."""
DEPLOYMENT_LABEL = "cleave/deployment"
MAX_ROLES = 10
"""Of a DisaggregatedSet."""
PORTS = Ports()
"""One instance runs in a pod, so that all have the same."""

_ROUTERS = {Engine.VLLM: "vllm-router", Engine.SGLANG: "sglang-router"}
"""Packages of routers that are not part of the engine."""


def files(launch: Launch, table_of: Tables) -> dict[str, str]:
    """Manifests by file name, one per deployment.

    Raises:
        SpecError: an engine cannot launch a component, or needs MPI for it.
    """
    return {
        f"{deployment.name}.yaml": _manifest(
            deployment, launch, table_of(deployment.service.engine, mode=deployment.mode)
        )
        for deployment in launch.deployments
    }


def _manifest(deployment: DeploymentLaunch, launch: Launch, table: EngineTable) -> str:
    kubernetes.check_name(deployment)
    groups: list[tuple[Component, Manifest]] = []
    configs: list[Manifest] = []
    notes = kubernetes.notes(deployment)
    for component in deployment.components:
        leader = _process(deployment, component, table, worker=False)
        config = f"{component.name}-engine" if leader.files else None
        if config is not None:
            configs.append(kubernetes.config_map(config, leader.files))
        notes += leader.notes
        if component.role in UNIT_ROLES:
            notes.append(f"AFD: the image must also hold {table.afd['plugin']}")
        groups.append((component, _group(deployment, component, launch, table, leader, config)))
    together = deployment.mode is Mode.PREFILL_DECODE and 2 <= len(groups) <= MAX_ROLES
    sets = [_disaggregated(deployment, groups)] if together else [_set(component, spec) for component, spec in groups]
    names = [service for component in deployment.components for service in _names(component)]
    return kubernetes.manifest_text([*configs, *sets, *names, *_entry(deployment, table)], notes)


# -- engines ----------------------------------------------------------------------------------------------------------


def _set(component: Component, spec: Manifest) -> Manifest:
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": component.name, "labels": kubernetes.labels(component)},
        "spec": spec,
    }


def _disaggregated(deployment: DeploymentLaunch, groups: Sequence[tuple[Component, Manifest]]) -> Manifest:
    prefix = f"{deployment.name}-"
    roles = [{"name": component.name.removeprefix(prefix), "spec": spec} for component, spec in groups]
    return {
        "apiVersion": "disaggregatedset.x-k8s.io/v1",
        "kind": "DisaggregatedSet",
        "metadata": {"name": deployment.name},
        "spec": {"roles": roles},
    }


def _group(
    deployment: DeploymentLaunch,
    component: Component,
    launch: Launch,
    table: EngineTable,
    leader: Process,
    config: str | None,
) -> Manifest:
    """What is repeated: the pods of one instance."""
    if component.nodes == 1:
        templates = {"workerTemplate": _pod(deployment, component, launch, table, leader, config, serves=True)}
    else:
        worker = _process(deployment, component, table, worker=True)
        templates = {
            "leaderTemplate": _pod(deployment, component, launch, table, leader, config, serves=True),
            "workerTemplate": _pod(deployment, component, launch, table, worker, config, serves=False),
        }
    return {
        "replicas": component.instances,
        "leaderWorkerTemplate": {
            "size": component.nodes,
            "restartPolicy": "RecreateGroupOnPodRestart",
            **templates,
        },
    }


def _process(deployment: DeploymentLaunch, component: Component, table: EngineTable, *, worker: bool) -> Process:
    """The engine's process on the first node of an instance, or on the others."""
    partner = partner_of(deployment, component)
    process = engine_process(
        component,
        table,
        Address(
            node_rank="$LWS_WORKER_INDEX" if worker else "0",
            leader="$LEADER_HOST" if worker else "$POD_IP",
            ports=PORTS,
            peers={} if partner is None else {partner.role.value: "$PEER_HOST"},
            host="$POD_IP",
            follower=worker,
        ),
        partner=partner,
        config_dir=kubernetes.CONFIG_PATH,
    )
    if process.tasks_per_node:
        raise SpecError(
            f"{component.name}: {table.engine.value} over {component.nodes} nodes is started by MPI, which pods of a "
            "LeaderWorkerSet do not have; can: targets dynamo, slurm and trtllm",
            field=f"services.{component.service.name}",
        )
    return process


def _pod(
    deployment: DeploymentLaunch,
    component: Component,
    launch: Launch,
    table: EngineTable,
    process: Process,
    config: str | None,
    *,
    serves: bool,
) -> Manifest:
    ports = {"http": PORTS.http} if serves else {}
    if serves and table.engine is Engine.SGLANG and component.role is Role.PREFILL:
        ports["bootstrap"] = PORTS.bootstrap
    partner = partner_of(deployment, component)
    env, finding = list[Manifest](), dict[str, str]()
    if not serves:
        finding["LEADER_HOST"] = "$LWS_LEADER_ADDRESS"
    if partner is not None:
        # The instance with the same number is the other side of the unit.
        env.append(kubernetes.field_env("GROUP_INDEX", f"metadata.labels['{GROUP_INDEX}']"))
        finding["PEER_HOST"] = f"{partner.name}-$GROUP_INDEX"
    engine = kubernetes.container(
        component,
        name="engine",
        image=kubernetes.image(table),
        command=["/bin/bash", "-c"],
        args=[kubernetes.script(process, finding=finding)],
        env=env,
        ports=ports,
        # An FFN instance has no requests of its own, and answers no probes.
        serves="http" if serves and component.role is not Role.FFN else None,
        config=config is not None,
    )
    labels = {DEPLOYMENT_LABEL: deployment.name, **kubernetes.labels(component)}
    return {"metadata": {"labels": labels}, "spec": kubernetes.pod_spec(component, launch, engine, config=config)}


# -- entry points -----------------------------------------------------------------------------------------------------


def _names(component: Component) -> Iterator[Manifest]:
    """A name for the leader of every instance."""
    for instance in range(component.instances):
        selector = {kubernetes.COMPONENT_LABEL: component.name, GROUP_INDEX: str(instance), WORKER_INDEX: "0"}
        found = kubernetes.service(_leader(component, instance), selector, PORTS.http)
        # Headless: the name is the pod's own address, on all ports, before the engine is ready.
        found["spec"] = {"clusterIP": "None", "publishNotReadyAddresses": True, **found["spec"]}
        yield found


def _leader(component: Component, instance: int) -> str:
    return f"{component.name}-{instance}"


def _entry(deployment: DeploymentLaunch, table: EngineTable) -> Iterator[Manifest]:
    """What clients talk to: a router, or a Service in front of the instances where no router is needed."""
    kinds = entry_roles(deployment)
    backends: dict[str, list[str]] = {}
    bootstrap = []
    for component in deployment.components:
        for instance in range(component.instances):
            if component.role in kinds:
                url = f"http://{_leader(component, instance)}:{PORTS.http}"
                backends.setdefault(kinds[component.role], []).append(url)
            if component.role is Role.PREFILL and table.engine is Engine.SGLANG:
                bootstrap.append(PORTS.bootstrap)
    process = router_process(
        deployment, table, backends, PORTS.http, bootstrap_ports=bootstrap, config_dir=kubernetes.CONFIG_PATH
    )
    name = f"{deployment.name}-router"
    if process is None:
        entries = {component.role.value for component in deployment.components if component.role in kinds}
        selector = {DEPLOYMENT_LABEL: deployment.name, WORKER_INDEX: "0"}
        if len(entries) == 1:
            selector[kubernetes.ROLE_LABEL] = entries.pop()
        yield kubernetes.service(name, selector, PORTS.http)
        return
    yield from _router(name, process, table)
    yield kubernetes.service(name, {"app.kubernetes.io/name": name}, PORTS.http)


def _router(name: str, process: Process, table: EngineTable) -> Iterator[Manifest]:
    config = f"{name}-config" if process.files else None
    if config is not None:
        yield kubernetes.config_map(config, process.files)
    package = _ROUTERS.get(table.engine)
    lines = ["set -eu", f"exec {process.shell()}"]
    if package is not None:
        lines.insert(1, f"python3 -m pip install --quiet {package}=={table.router.version}")
    container: Manifest = {
        "name": "router",
        "image": kubernetes.image(table) if package is None else launchers().images["router"].of(),
        "command": ["/bin/bash", "-c"],
        "args": [kubernetes.literal("\n".join(lines) + "\n")],
        "ports": [{"name": "http", "containerPort": PORTS.http}],
        "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 10},
    }
    spec: Manifest = {"containers": [container]}
    if config is not None:
        container["volumeMounts"] = [{"name": "config", "mountPath": kubernetes.CONFIG_PATH, "readOnly": True}]
        spec["volumes"] = [{"name": "config", "configMap": {"name": config}}]
    labels = {"app.kubernetes.io/name": name}
    yield {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
