"""Launch scripts for a cluster without an orchestrator: one to run on each node, and one per deployment for its router.

Every node of the plan has a host to be filled in, and starts exactly the shares of instances that the placement gives
it, each on its own GPUs and ports.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from planner.launch.command import Process
from planner.launch.component import DeploymentLaunch, Launch
from planner.launch.placement import Seat
from planner.launch.shell import Shell
from planner.render.bash import (
    JOIN,
    LOAD_HOSTS,
    READY,
    STOP,
    STRICT,
    TO_FOLDER,
    exported,
    host_variable,
    required,
    script,
)
from planner.render.caveats import one_phase
from planner.render.documents import json_text
from planner.render.roster import Instance, Roster, roster
from planner.render.tables import Tables, tables_by_deployment
from specs.engine_table import EngineTable
from specs.errors import SpecError
from specs.launchers import launchers
from specs.service import Engine

CONFIG = "config"
"""Folder of the files that engines read."""
ROUTER_PORT = 9000
"""Of the first deployment's router; each further deployment has the next."""

_FILL_IN = "fill in hosts.env"


def files(launch: Launch, table_of: Tables, *, engine: Engine) -> dict[str, str]:
    """The scripts of a launch whose services all use one engine.

    Args:
        launch: what is launched.
        table_of: flags of an engine.
        engine: the engine that scripts are asked for.

    Raises:
        SpecError: a service uses another engine, or the engine cannot launch it.
    """
    _check_engine(launch, engine)
    tables = tables_by_deployment(launch.deployments, table_of)
    instances = roster(launch)
    found = {"hosts.env": _hosts(instances.instances)}
    nodes: dict[tuple[str, int], list[tuple[Instance, Seat]]] = defaultdict(list)
    notes = dict.fromkeys(note for deployment in launch.deployments for note in one_phase(deployment))
    for instance in instances.instances:
        table = tables[instance.deployment]
        for seat in instance.seats:
            nodes[seat.pool, seat.node].append((instance, seat))
            process = instances.process(instance, seat, table, host, config_dir=CONFIG)
            found |= {f"{CONFIG}/{name}": text for name, text in process.files.items()}
            notes |= dict.fromkeys(process.notes)
            if process.tasks_per_node and len(instance.seats) > 1:
                if seat.node_rank == 0:
                    found |= _under_mpi(instance, process, table)
                continue
            found[f"instances/{instance.script(seat)}.sh"] = _share(instance, seat, process, table)
    for (pool, node), shares in sorted(nodes.items()):
        found[f"nodes/{pool}-{node}.sh"] = _node(pool, node, shares, found)
    routers = {}
    for number, deployment in enumerate(launch.deployments):
        table = tables[deployment.name]
        router = instances.router(deployment, table, host, ROUTER_PORT + number, config_dir=CONFIG)
        if router is not None:
            routers[deployment.name] = ROUTER_PORT + number
            found[f"routers/{deployment.name}.sh"] = _router(deployment, router, table, instances)
    found["inventory.json"] = json_text(inventory(launch, instances.instances, tables, routers))
    found["README.txt"] = _readme(routers, notes)
    return found


def host(seat: Seat) -> str:
    """The host of a seat's node, as shell text."""
    return f"${{{host_variable(seat.pool, seat.node)}}}"


def inventory(
    launch: Launch, instances: Iterable[Instance], tables: Mapping[str, EngineTable], routers: dict[str, int]
) -> dict[str, Any]:
    """What runs where: instances, their nodes and GPUs, and their ports.

    Args:
        launch: what is launched.
        instances: of all deployments.
        tables: flags by deployment. Where those of one engine differ in version, `versions` has each deployment's.
        routers: ports by deployment.
    """
    found = tuple(instances)
    mixed = len({table.title for table in tables.values()}) > len({table.engine for table in tables.values()})
    used = {(seat.pool, seat.node) for instance in found for seat in instance.seats}
    return {
        "engines": {table.engine.value: table.version for table in tables.values()},
        **({"versions": {name: table.version for name, table in tables.items()}} if mixed else {}),
        "pools": {
            pool.name: {
                "gpu": pool.gpu.id,
                "gpus_per_node": pool.gpus_per_node,
                "nodes": sorted(node for name, node in used if name == pool.name),
            }
            for pool in launch.pools.values()
            if any(name == pool.name for name, _ in used)
        },
        "instances": [
            {
                "name": instance.name,
                "deployment": instance.deployment,
                "component": instance.component.name,
                "role": instance.component.role.value,
                "engine": instance.component.service.engine.value,
                "http_port": instance.ports.http,
                "nodes": [{"pool": seat.pool, "node": seat.node, "gpus": list(seat.gpus)} for seat in instance.seats],
            }
            for instance in found
        ],
        "routers": [{"deployment": name, "http_port": port} for name, port in routers.items()],
    }


def about(instance: Instance, seat: Seat, table: EngineTable) -> list[str]:
    """What a share is, for the top of its script."""
    of_nodes = f", node {seat.node_rank} of {len(instance.seats)}" if len(instance.seats) > 1 else ""
    gpus = ",".join(map(str, seat.gpus))
    return [
        f"{instance.name}{of_nodes}: GPUs {gpus} of node {seat.node} of pool {seat.pool}, role "
        f"{instance.component.role.value}, {table.title}"
    ]


def devices(seat: Seat) -> dict[str, str]:
    """The variable that shows a share its GPUs."""
    return {launchers().vendors[seat.component.pool.gpu.vendor].devices: ",".join(map(str, seat.gpus))}


def _check_engine(launch: Launch, engine: Engine) -> None:
    """Scripts are of one engine."""
    others: dict[Engine, list[str]] = defaultdict(list)
    for service in {deployment.service.name: deployment.service for deployment in launch.deployments}.values():
        if service.engine is not engine:
            others[service.engine].append(service.name)
    if not others:
        return
    named = "; ".join(f"{', '.join(names)} with {other.value}" for other, names in others.items())
    single = len(others) == 1 and all(d.service.engine is not engine for d in launch.deployments)
    accepted = f"--to {next(iter(others)).value}" if single else "--to slurm, which takes several engines at once"
    raise SpecError(
        f"{engine.value} scripts cannot launch this plan: it serves {named}; accepted: {accepted}", field="--to"
    )


def _expanded(process: Process) -> list[str]:
    """The words of a command that the shell expands."""
    return [word for word in (*process.words, *process.env.values()) if isinstance(word, Shell)]


def _hosts(instances: Iterable[Instance]) -> str:
    """The hosts to be filled in."""
    nodes = sorted({(seat.pool, seat.node) for instance in instances for seat in instance.seats})
    return "\n".join(
        [
            "# Address of every node, as the other nodes reach it: engines listen there. Every line needs a value.",
            "# No host name that the node itself resolves to 127.*, as Debian does with its own (127.0.1.1).",
            *(f"{host_variable(pool, node)}=" for pool, node in nodes),
        ]
    ) + "\n"  # fmt: skip


def _share(instance: Instance, seat: Seat, process: Process, table: EngineTable) -> str:
    """The script of one instance on one node."""
    return script(
        about(instance, seat, table),
        [STRICT, TO_FOLDER, *LOAD_HOSTS, *required(_expanded(process), _FILL_IN), *exported(devices(seat)),
         f"exec {process.shell()}"],
    )  # fmt: skip


def _under_mpi(instance: Instance, process: Process, table: EngineTable) -> dict[str, str]:
    """The scripts of an instance that MPI starts on all of its nodes: one that calls `mpirun`, and the task's own."""
    first = instance.seats[0]
    if any(seat.gpus != first.gpus for seat in instance.seats):
        raise SpecError(
            f"{instance.name} has different GPUs on its nodes, which MPI scripts cannot say", field="services"
        )
    tasks = process.tasks_per_node
    hosts = ",".join(f"{host(seat)}:{tasks}" for seat in instance.seats)
    task = f"instances/{instance.name}-task.sh"
    return {
        f"instances/{instance.script(first)}.sh": script(
            [*about(instance, first, table), f"Starts {tasks} MPI tasks on each of {len(instance.seats)} nodes."],
            [STRICT, TO_FOLDER, *LOAD_HOSTS, *required([hosts], _FILL_IN),
             f'exec mpirun -np {tasks * len(instance.seats)} --host "{hosts}" --bind-to none bash "$PWD/{task}"'],
        ),
        task: script(
            [f"{instance.name}: one MPI task. Started by {instance.script(first)}.sh."],
            [STRICT, TO_FOLDER, *LOAD_HOSTS, *exported(devices(first)), f"exec {process.shell()}"],
        ),
    }  # fmt: skip


def _node(pool: str, node: int, shares: list[tuple[Instance, Seat]], found: dict[str, str]) -> str:
    """The script of one node: starts its shares, and ends when all of them have ended."""
    started: list[tuple[Instance, Seat]] = []
    by_mpi: list[tuple[Instance, Seat]] = []
    for instance, seat in shares:
        (started if f"instances/{instance.script(seat)}.sh" in found else by_mpi).append((instance, seat))
    gpus = sum(len(seat.gpus) for _, seat in shares)
    lines = [STRICT]
    lines += [f'echo "{instance.name} is started by its node 0, through MPI" >&2' for instance, _ in by_mpi]
    if started:
        lines += [
            TO_FOLDER,
            "mkdir -p logs",
            "declare -A running=()",
            *STOP,
            "start() {",
            '  bash "instances/$1.sh" >"logs/$1.log" 2>&1 &',
            "  running[$!]=$1",
            "}",
            *(f"start {instance.script(seat)}" for instance, seat in started),
            *JOIN,
        ]
    return script([f"Node {node} of pool {pool}: {gpus} GPUs in use."], lines)


def _router(deployment: DeploymentLaunch, router: Process, table: EngineTable, instances: Roster) -> str:
    """The script of a deployment's entry point."""
    urls = [url for kind in instances.servers(deployment, host).values() for url in kind]
    return script(
        [f"Entry point of {deployment.name}, {table.title}. Runs on any host that reaches the nodes."],
        [STRICT, TO_FOLDER, *LOAD_HOSTS, *required(urls, _FILL_IN), *entry(router, urls)],
    )


def entry(router: Process, urls: Iterable[str]) -> list[str]:
    """Lines that wait for the servers of a router, write its files, and start it.

    The files are written here because hosts in them are shell text. They hold names, ports and hosts, nothing else of a
    scenario.
    """
    lines = [READY, *(f'ready "{url}"' for url in urls)]
    for name, text in router.files.items():
        lines += [f"mkdir -p {CONFIG}", f"cat >{CONFIG}/{name} <<END", text.rstrip("\n"), "END"]
    return [*lines, f"exec {router.shell()}"]


def _readme(routers: dict[str, int], notes: Iterable[str]) -> str:
    """The order of starting."""
    last = "Send requests to the engines, evenly: "
    if routers:
        last = "Run routers/<deployment>.sh on a host that reaches all nodes; it waits for the engines: "
    return "\n".join(
        [
            "1. Fill in hosts.env, and put this folder at the same path on every node (a shared folder is best).",
            "2. On every node run its script (bash 4.4 or later): nodes/<pool>-<node>.sh. Logs go to logs/.",
            f"3. {last}inventory.json lists ports.",
            *notes,
        ]
    ) + "\n"  # fmt: skip
