"""Slurm: one batch job per deployment, which asks for exactly the GPUs of the plan.

The nodes of a deployment are grouped by pool and by the number of GPUs it takes on them; each group is a component of
a heterogeneous job (a plain job where there is one). Instances run as steps that share the allocation, each on GPUs
that its script picks from those that Slurm granted on the node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.launch.command import Process
from planner.launch.component import DeploymentLaunch, Launch
from planner.launch.placement import Seat
from planner.render.bash import JOIN, STOP, STRICT, TO_FOLDER, host_variable, required, script
from planner.render.caveats import one_domain, one_phase
from planner.render.documents import json_text
from planner.render.roster import Instance, Roster, check_slot, roster
from planner.render.scripts import CONFIG, ROUTER_PORT, about, entry, host, inventory
from planner.render.tables import Tables, tables_by_deployment
from specs.engine_table import EngineTable
from specs.errors import SpecError
from specs.launchers import launchers

_SBATCH = "#!/bin/bash"

_STEP = """\
# step GROUP TASKS NAME HOST...: starts one instance on its hosts, with TASKS tasks on each.
step() {
  local group=$1 tasks=$2 name=$3 mpi=none host list where=() nodes=()
  shift 3
  for host in "$@"; do nodes+=("${node_of[$host]}"); done
  set -- "${nodes[@]}"
  list=$(IFS=, && echo "$*")
  if ((groups > 1)); then where=(--het-group="$group"); fi
  if ((tasks > 1)); then mpi=${CLEAVE_MPI:-pmix}; fi
  srun "${where[@]}" --overlap --cpu-bind=none --kill-on-bad-exit=1 --mpi="$mpi" \\
    --nodes="$#" --nodelist="$list" --ntasks="$(($# * tasks))" --ntasks-per-node="$tasks" "${container[@]}" \\
    --job-name="$name" --output="logs/$SLURM_JOB_ID-$name-%n.log" bash "$runner" "$name" "$@" &
  running[$!]=$name
}"""

_RESOLVE = """\
# resolve: puts addresses in place of the names in hosts, and keeps the names in node_of. Engines listen at addresses,
# and a node may resolve its own name to 127.0.1.1.
resolve() {
  local position name address
  for position in "${!hosts[@]}"; do
    name=${hosts[position]}
    address=$(scontrol show node "$name" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')
    address=$(getent ahostsv4 "${address:-$name}" | cut -d ' ' -f 1 | grep -v '^127[.]' | head -n 1) || true
    if [[ -z $address && $name == "${SLURMD_NODENAME:-}" ]]; then
      address=$(hostname -I | cut -d ' ' -f 1)
    fi
    hosts[position]=${address:-$name}
    node_of[${hosts[position]}]=$name
  done
}"""

_CONTAINER = """\
# With Pyxis: set CLEAVE_IMAGE to a container image, and every step runs in it.
container=()
if [[ -n ${CLEAVE_IMAGE:-} ]]; then
  container=(--container-image="$CLEAVE_IMAGE" --container-mounts="$PWD:$PWD" --container-workdir="$PWD")
fi"""

_SHARE = """\
# The share of this node: which node of the instance it is follows from its name.
name=$1
shift
rank=0
for host in "$@"; do
  if [[ $host == "$SLURMD_NODENAME" ]]; then
    exec bash "instances/$name-node$rank.sh"
  fi
  rank=$((rank + 1))
done
echo "$SLURMD_NODENAME is no node of $name" >&2
exit 1"""


@dataclass(frozen=True)
class _Group:
    """Nodes of one pool on which a deployment takes the same number of GPUs.

    Args:
        pool: name of the pool.
        gpu: type of the GPUs, as `gres.conf` usually has it.
        gpus: on each node.
        nodes: their indices in the pool.
        whole: whether these are all GPUs of a node.
    """

    pool: str
    gpu: str
    gpus: int
    nodes: tuple[int, ...]
    whole: bool


def files(launch: Launch, table_of: Tables) -> dict[str, str]:
    """The batch jobs of a launch.

    Args:
        launch: what is launched.
        table_of: flags of an engine.

    Raises:
        SpecError: an engine cannot launch a service, or an instance sits on nodes of which its deployment takes
            different numbers of GPUs.
    """
    found = {"share.sh": script(["Usage: share.sh NAME HOST... Run by srun on each node."], [STRICT, _SHARE])}
    instances = _with_apart_ports(launch, roster(launch))
    tables = tables_by_deployment(launch.deployments, table_of)
    routers, notes = {}, dict[str, None]()
    for number, deployment in enumerate(launch.deployments):
        table = tables[deployment.name]
        groups = _groups(instances.of(deployment))
        members = instances.of(deployment)
        granted = _granted(members)
        tasks = {}
        for instance in members:
            for seat in instance.seats:
                process = instances.process(instance, seat, table, host, config_dir=CONFIG)
                found |= {f"{CONFIG}/{name}": text for name, text in process.files.items()}
                notes |= dict.fromkeys(process.notes)
                tasks[instance.name] = process.tasks_per_node or 1
                found[f"instances/{instance.script(seat)}.sh"] = _share(instance, seat, process, table, granted)
        router = instances.router(deployment, table, host, ROUTER_PORT + number, config_dir=CONFIG)
        if router is not None:
            urls = [url for kind in instances.servers(deployment, host).values() for url in kind]
            routers[deployment.name] = ROUTER_PORT + number
            found[f"routers/{deployment.name}.sh"] = script(
                [f"Entry point of {deployment.name}, {table.title}."],
                [STRICT, TO_FOLDER, *entry(router, urls)],
            )
        found[f"{deployment.name}.sbatch"] = _job(deployment, members, groups, tasks, routers.get(deployment.name))
        notes |= dict.fromkeys(_notes(deployment, groups))
    found["inventory.json"] = json_text(inventory(launch, instances.instances, tables, routers))
    found["README.txt"] = _readme(launch, notes)
    return found


def _with_apart_ports(launch: Launch, instances: Roster) -> Roster:
    """The roster with ports that stay apart where Slurm puts parts of nodes together that the plan did not.

    A node of which a deployment takes only some GPUs may be shared with another such node, of this or another job; a
    node that is taken whole is not.
    """
    offset = 0
    moved: dict[tuple[str, int], Instance] = {}
    for deployment in launch.deployments:
        members = instances.of(deployment)
        for group in _groups(members):
            inside = [m for m in members if m.seats[0].pool == group.pool and m.seats[0].node in group.nodes]
            by_node: dict[int, int] = defaultdict(int)
            for instance in inside:
                slot = max(by_node[seat.node] for seat in instance.seats)
                for seat in instance.seats:
                    by_node[seat.node] = slot + 1
                slot = check_slot(slot + (0 if group.whole else offset))
                moved[instance.component.name, instance.index] = replace(instance, slot=slot)
            if not group.whole:
                offset += max(by_node.values())
    return Roster(tuple(moved[i.component.name, i.index] for i in instances.instances))


def _groups(instances: Sequence[Instance]) -> tuple[_Group, ...]:
    """The nodes of a deployment by pool and GPUs taken, pools by name and fuller nodes first."""
    gpus: dict[tuple[str, int], int] = defaultdict(int)
    pools = {}
    for instance in instances:
        for seat in instance.seats:
            gpus[seat.pool, seat.node] += len(seat.gpus)
            pools[seat.pool] = seat.component.pool
    nodes: dict[tuple[str, int], list[int]] = defaultdict(list)
    for (pool, node), count in sorted(gpus.items()):
        nodes[pool, -count].append(node)
    groups = tuple(
        _Group(pool, pools[pool].gpu.id.split("-")[0], -less, tuple(members), -less == pools[pool].gpus_per_node)
        for (pool, less), members in sorted(nodes.items())
    )
    for instance in instances:
        within = [g for g in groups if any(s.pool == g.pool and s.node in g.nodes for s in instance.seats)]
        if len(within) > 1:
            raise SpecError(
                f"{instance.name} sits on nodes of which its deployment takes {within[0].gpus} and {within[1].gpus} "
                f"GPUs, and a Slurm step has equal nodes; accepted: --to {instance.component.service.engine.value}",
                field="--to",
            )
    return groups


def _granted(instances: Sequence[Instance]) -> Mapping[tuple[str, int], Sequence[int]]:
    """GPUs of each node that a deployment takes, in order: Slurm grants as many."""
    gpus: dict[tuple[str, int], list[int]] = defaultdict(list)
    for instance in instances:
        for seat in instance.seats:
            gpus[seat.pool, seat.node].extend(seat.gpus)
    return {node: sorted(taken) for node, taken in gpus.items()}


def _share(
    instance: Instance,
    seat: Seat,
    process: Process,
    table: EngineTable,
    granted: Mapping[tuple[str, int], Sequence[int]],
) -> str:
    """The script of one instance on one node: some of the GPUs that Slurm granted there."""
    variable = launchers().vendors[seat.component.pool.gpu.vendor].devices
    on_node = granted[seat.pool, seat.node]
    picked = ",".join(f"${{granted[{on_node.index(gpu)}]}}" for gpu in seat.gpus)
    return script(
        about(instance, seat, table),
        [
            STRICT,
            TO_FOLDER,
            f'IFS=, read -ra granted <<<"${{{variable}:-{",".join(map(str, range(len(on_node))))}}}"',
            f'export {variable}="{picked}"',
            f"exec {process.shell()}",
        ],
    )


def _job(
    deployment: DeploymentLaunch,
    instances: Sequence[Instance],
    groups: Sequence[_Group],
    tasks: Mapping[str, int],
    port: int | None,
) -> str:
    """The batch script of a deployment."""
    lines = []
    for g, group in enumerate(groups):
        lines += ["#SBATCH hetjob"] if g else []
        lines += [
            f"#SBATCH --job-name={deployment.name}",
            f"#SBATCH --output={deployment.name}-%j.log",
            f"#SBATCH --nodes={len(group.nodes)}",
            f"#SBATCH --ntasks-per-node={group.gpus}",
            f"#SBATCH --gres=gpu:{group.gpu}:{group.gpus}",
            # All memory and CPUs of nodes that are taken whole; of others the site's defaults hold.
            *(["#SBATCH --exclusive", "#SBATCH --mem=0"] if group.whole else []),
        ]
    total = sum(len(group.nodes) * group.gpus for group in groups)
    lines += [
        f"# {deployment.name}: {total} GPUs. Partition, account and time are options of your sbatch command.",
        STRICT,
        'cd -- "${SLURM_SUBMIT_DIR:?submit with sbatch, from the folder of this file}"',
        "mkdir -p logs",
        _CONTAINER,
        f"groups={len(groups)}",
        "declare -A running=() node_of=()",
        *STOP,
        _RESOLVE,
    ]
    for g, group in enumerate(groups):
        nodelist = f"SLURM_JOB_NODELIST_HET_GROUP_{g}" if len(groups) > 1 else "SLURM_JOB_NODELIST"
        lines.append(f'mapfile -t hosts < <(scontrol show hostnames "${nodelist}")')
        lines.append("resolve")
        lines += [
            f"export {host_variable(group.pool, node)}=${{hosts[{position}]}}"
            for position, node in enumerate(group.nodes)
        ]
    lines += [*required(_hosts(groups), "no host in the allocation"), _STEP, "runner=share.sh"]
    for instance in instances:
        g = _group_of(instance, groups)
        hosts = " ".join(f'"{host(seat)}"' for seat in instance.seats)
        lines.append(f"step {g} {tasks[instance.name]} {instance.name} {hosts}")
    if port is not None:
        at = host(instances[0].seats[0])
        lines += [
            f"# The router runs beside {instances[0].name}.",
            f'echo "entry point: http://{at}:{port}"',
            f"runner=routers/{deployment.name}.sh",
        ]
        lines.append(
            f'step {_group_of(instances[0], groups)} 1 {deployment.name}-router "{host(instances[0].seats[0])}"'
        )
    lines += JOIN
    return script([], lines, shebang=_SBATCH)


def _group_of(instance: Instance, groups: Sequence[_Group]) -> int:
    """Index of the group that an instance sits in."""
    seat = instance.seats[0]
    return next(g for g, group in enumerate(groups) if group.pool == seat.pool and seat.node in group.nodes)


def _hosts(groups: Sequence[_Group]) -> list[str]:
    """Hosts of all nodes, as shell text."""
    return [f"${{{host_variable(group.pool, node)}}}" for group in groups for node in group.nodes]


def _notes(deployment: DeploymentLaunch, groups: Sequence[_Group]) -> Iterator[str]:
    """What a job leaves to whoever submits it."""
    yield from one_phase(deployment)
    if not all(group.whole for group in groups):
        yield (
            f"{deployment.name} takes parts of nodes, with CPUs and memory as your site's defaults have them: where "
            "these are small, add --cpus-per-gpu and --mem-per-gpu."
        )
    for component in deployment.components:
        yield from one_domain(deployment, component, "with topology/block add --segment, else a --nodelist of one rack")


def _readme(launch: Launch, notes: Mapping[str, None]) -> str:
    jobs = ", ".join(f"{deployment.name}.sbatch" for deployment in launch.deployments)
    return "\n".join(
        [
            "1. Put this folder on storage that all nodes see; check the GPU types of --gres against your gres.conf.",
            "   Nodes need bash 4.4 or later.",
            f"2. From this folder: sbatch --partition=... --account=... --time=... FILE, for each of {jobs}.",
            "3. Logs go to logs/; inventory.json lists instances, GPUs and ports.",
            *notes,
        ]
    ) + "\n"  # fmt: skip
