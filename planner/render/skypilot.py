"""SkyPilot: a service per deployment of independent replicas, a job group where instances must find one another.

Every instance is a task with accelerators of its own, so that exactly the plan's GPUs are asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from planner.launch.address import Address
from planner.launch.command import Process
from planner.launch.component import Component, DeploymentLaunch, Launch
from planner.launch.placement import Seat
from planner.launch.process import engine_process
from planner.launch.router import START_SECONDS
from planner.render.caveats import one_domain, one_phase
from planner.render.documents import yaml_text
from planner.render.roster import Host, Instance, Roster, roster
from planner.render.scripts import CONFIG, ROUTER_PORT, entry
from planner.render.tables import Tables
from specs.engine_table import EngineTable
from specs.errors import SpecError
from specs.launchers import launchers

_REMEDY = "give the tasks pod affinity in SkyPilot's pod_config"

_Rendered = tuple[list[dict[str, Any]], list[Process]]
"""Documents, and the commands in them."""

_HOSTS = {
    "LEADER_HOST": 'LEADER_HOST="$(head -n 1 <<<"$SKYPILOT_NODE_IPS")"',
    "NODE_HOST": 'NODE_HOST="$(sed -n "$((SKYPILOT_NODE_RANK + 1))p" <<<"$SKYPILOT_NODE_IPS")"',
}
"""How a task finds the first of its nodes, and this one."""


def files(launch: Launch, table_of: Tables) -> dict[str, str]:
    """The service or job group of every deployment.

    Args:
        launch: what is launched.
        table_of: flags of an engine.

    Raises:
        SpecError: an engine cannot launch a service, or SkyPilot does not know a GPU type.
    """
    instances = roster(launch)
    found: dict[str, str] = {}
    commands: list[str] = []
    notes: dict[str, None] = {}
    for deployment in launch.deployments:
        table = table_of(deployment.service.engine, mode=deployment.mode)
        file = f"{deployment.name}.sky.yaml"
        if _is_service(deployment):
            documents, processes = _service(deployment.components[0], table)
            commands.append(f"sky serve up -n {deployment.name} {file}")
        else:
            documents, processes = _group(deployment, instances, table)
            commands.append(f"sky jobs launch {file}")
        found[file] = yaml_text(documents)
        notes |= dict.fromkeys(one_phase(deployment))
        for component in deployment.components:
            notes |= dict.fromkeys(one_domain(deployment, component, _REMEDY))
        for process in processes:
            found |= {f"{CONFIG}/{name}": text for name, text in process.files.items()}
            notes |= dict.fromkeys(process.notes)
    found["README.txt"] = "\n".join(
        [
            "Add what installs the engine, or resources.image_id with an image that has it, to every task; then, here:",
            *commands,
            *notes,
        ]
    ) + "\n"  # fmt: skip
    return found


def _is_service(deployment: DeploymentLaunch) -> bool:
    """Whether replicas need nothing of one another, so that SkyServe can start and balance them."""
    return len(deployment.components) == 1 and deployment.components[0].nodes == 1


def _service(component: Component, table: EngineTable) -> _Rendered:
    """A SkyServe service: equal replicas behind SkyServe's own load balancer."""
    process = engine_process(component, table, Address(), config_dir=CONFIG)
    service = {
        "name": component.name,
        "service": {
            "readiness_probe": {"path": "/health", "initial_delay_seconds": START_SECONDS},
            "replicas": component.instances,
        },
        "workdir": ".",
        "resources": {"accelerators": _accelerators(component), "ports": Address().ports.http},
        "run": _run([f"exec {process.shell()}"]),
    }
    return [service], [process]


def _group(deployment: DeploymentLaunch, instances: Roster, table: EngineTable) -> _Rendered:
    """A job group: its header, a task per instance, and one for the router."""
    alone = Roster(tuple(replace(instance, slot=0) for instance in instances.instances))

    def leader(seat: Seat) -> str:
        """The first node of an instance, as the other tasks reach it."""
        return f"{seat.component.name}-{seat.instance}-0.{deployment.name}"

    documents: list[dict[str, Any]] = [{"name": deployment.name, "execution": "parallel"}]
    processes = []
    for instance in alone.of(deployment):
        processes.append(_process(instance, alone, table, leader))
        documents.append(_task(instance, processes[-1]))
    router = alone.router(deployment, table, leader, ROUTER_PORT, config_dir=CONFIG)
    if router is not None:
        urls = [url for kind in alone.servers(deployment, leader).values() for url in kind]
        documents.append(
            {
                "name": f"{deployment.name}-router",
                "resources": {"infra": "kubernetes", "cpus": "4+", "ports": ROUTER_PORT},
                "run": _run(entry(router, urls)),
            }
        )
    return documents, processes


def _process(instance: Instance, alone: Roster, table: EngineTable, leader: Host) -> Process:
    """The command of an instance, the same on all of its nodes."""
    other = alone.other_side(instance)
    address = Address(
        node_rank="$SKYPILOT_NODE_RANK" if instance.component.nodes > 1 else "0",
        leader="$LEADER_HOST",
        host="$NODE_HOST",
        peers={} if other is None else {other.component.role.value: leader(other.seats[0])},
    )
    partner = None if other is None else other.component
    return engine_process(instance.component, table, address, partner=partner, config_dir=CONFIG)


def _task(instance: Instance, process: Process) -> dict[str, Any]:
    """One instance of a job group."""
    component = instance.component
    return {
        "name": instance.name,
        **({"num_nodes": component.nodes} if component.nodes > 1 else {}),
        "workdir": ".",
        "resources": {"infra": "kubernetes", "accelerators": _accelerators(component)},
        "run": _run([*_own_hosts(process), *_start(component, process)]),
    }


def _own_hosts(process: Process) -> list[str]:
    """Lines that set the hosts that the command names."""
    text = process.shell()
    return [line for name, line in _HOSTS.items() if f"${name}" in text]


def _start(component: Component, process: Process) -> list[str]:
    """Lines that start an instance on the node that runs them; under MPI the first node starts them all."""
    if not process.tasks_per_node:
        return [f"exec {process.shell()}"]
    tasks = process.tasks_per_node
    mpirun = f'exec mpirun -np {tasks * component.nodes} --host "$hosts" --bind-to none'
    return [
        "if ((SKYPILOT_NODE_RANK > 0)); then exit 0; fi  # MPI starts this node's tasks from the first",
        f'hosts="$(sed "s/\\$/:{tasks}/" <<<"$SKYPILOT_NODE_IPS" | paste -sd , -)"',
        f"{mpirun} \\\n  {process.shell(indent='    ')}",
    ]


def _run(lines: list[str]) -> str:
    return "\n".join(["set -euo pipefail", *lines]) + "\n"


def _accelerators(component: Component) -> str:
    """GPUs of each node of an instance."""
    gpu, known = component.pool.gpu.id, launchers().named("skypilot")
    if gpu not in known:
        raise SpecError(
            f"SkyPilot has no name for {gpu}, the GPUs of {component.name}; accepted: {', '.join(known)}, "
            f"or --to {component.service.engine.value}",
            field="--to",
        )
    return f"{known[gpu]}:{component.gpus_on_node}"
