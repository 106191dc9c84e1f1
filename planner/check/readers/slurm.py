"""Reads Slurm jobs: `*.sbatch` start the shares of instances as steps on the nodes of their allocation."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from planner.check.commands import Commands, Text
from planner.check.folder import Folder
from planner.check.instance import Fleet, Instance, Router, Seat
from planner.check.names import deployment_of
from planner.check.node import Node
from planner.check.place import Fact, Place
from planner.check.readers.inventory import check_inventory, version_of, versions
from planner.check.readers.router import read_router
from planner.check.readers.scripts import INVENTORY, instance_of
from planner.check.readers.share import JOIN, STOP, STRICT, TO_FOLDER, engine_run, read_share
from planner.check.script import unknown, without_blocks
from planner.check.shell import Command

RULE = "slurm"

_CONTAINER = """\
container=()
if [[ -n ${CLEAVE_IMAGE:-} ]]; then
  container=(--container-image="$CLEAVE_IMAGE" --container-mounts="$PWD:$PWD" --container-workdir="$PWD")
fi"""
_STEP = """\
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
_SHARE = """\
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
_SHARE_FILE = re.compile(r"instances/(.+)-node(\d{1,4})\.sh")
_DIRECTIVE = re.compile(r"#SBATCH\s+(?:--)?([\w-]+)(?:=(.*))?")
_GRES = re.compile(r"gpu:([\w-]+):(\d{1,4})")
_EXPORT = re.compile(r"export (HOST_[A-Z0-9_]+)=\$\{hosts\[(\d{1,6})\]\}")
_MAPFILE = 'mapfile -t hosts < <(scontrol show hostnames "$NAME")\nresolve'


@dataclass
class _Group:
    """One component of a heterogeneous job.

    Args:
        place: of its first directive.
        options: of `#SBATCH`, by name.
        hosts: variables of its nodes, in their order.
    """

    place: Place
    options: dict[str, Fact[str]]
    hosts: list[Fact[str]]

    def whole(self, name: str) -> int | None:
        """An option as a whole number."""
        fact = self.options.get(name)
        return int(fact.value) if fact is not None and re.fullmatch(r"\d{1,6}", fact.value) else None


def recognises(folder: Folder) -> bool:
    """Whether the folder holds a batch job."""
    return bool(folder.names(suffix=".sbatch"))


def read(folder: Folder) -> Fleet:
    """The instances and routers of all jobs."""
    return _Jobs(folder).fleet()


class _Jobs:
    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.findings = folder.findings
        self.inventory = folder.json(INVENTORY) if INVENTORY in folder.files else None
        if self.inventory is None:
            self.findings.wrong("inventory", Place(INVENTORY), "is missing, or is not JSON")
        configs = {name: Text(folder.files[name].text, name) for name in folder.names("config/")}
        self.commands = Commands(self.findings, versions=versions(self.inventory, self.findings), files=configs)
        self.seats: dict[str, dict[int, Seat]] = {}
        self.routers: dict[str, Fact[str]] = {}
        self.started: set[str] = set()
        self.told: dict[str, tuple[Fact[str], int]] = {}

    def fleet(self) -> Fleet:
        fleet = Fleet(formats={"slurm"})
        for name in self.folder.names(suffix=".sbatch"):
            self._job(name)
        self._share_script()
        for name in self.folder.names("instances/", ".sh"):
            if name not in self.started:
                self.folder.read.add(name)
                self.findings.wrong("nodes", Place(name), "is started by no job")
        fleet.instances = [instance_of(name, seats) for name, seats in self.seats.items()]
        for name in self.folder.names("routers/", ".sh"):
            fleet.routers += self._router(name)
        for path in sorted(set(self.commands.files) - self.commands.used):
            self.folder.read.add(path)
            self.findings.wrong("file", Place(path), "is read by no command")
        self.folder.read |= self.commands.used
        if self.inventory is not None:
            fleet.instances = _as_planned(fleet.instances, self.inventory)
            check_inventory(self.inventory, fleet, self.findings)
        return fleet

    def _share_script(self) -> None:
        if "share.sh" not in self.folder.files:
            self.findings.wrong(RULE, Place("share.sh"), "is missing: it starts the share of a node")
            return
        left = without_blocks(self.folder.commands("share.sh"), (STRICT, _SHARE), "share.sh", self.findings)
        for command in left:
            unknown(command, self.findings)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _job(self, file: str) -> None:
        groups = self._directives(file)
        count = len(groups)
        lists = [f"SLURM_JOB_NODELIST_HET_GROUP_{g}" if count > 1 else "SLURM_JOB_NODELIST" for g in range(count)]
        maps = [_MAPFILE.replace("NAME", name) for name in lists]
        blocks = (
            STRICT,
            'cd -- "${SLURM_SUBMIT_DIR:?submit with sbatch, from the folder of this file}"',
            "mkdir -p logs",
            _CONTAINER,
            f"groups={count}",
            "declare -A running=() node_of=()",
            STOP,
            _RESOLVE,
            *maps,
            _STEP,
            JOIN,
        )
        commands = self.folder.commands(file)
        rest = without_blocks(commands, blocks, file, self.findings)
        self._hosts(file, groups, commands, rest)
        deployment = file.removesuffix(".sbatch").rpartition("/")[2]
        self._steps(rest, groups, deployment, file)

    def _directives(self, file: str) -> list[_Group]:
        """The components of a job from its `#SBATCH` lines."""
        self.folder.read.add(file)
        groups: list[_Group] = []
        fresh = True
        deployment = file.removesuffix(".sbatch").rpartition("/")[2]
        for number, line in enumerate(self.folder.files[file].text.split("\n"), start=1):
            if not line.startswith("#"):
                if line.strip():
                    break
                continue
            found = _DIRECTIVE.fullmatch(line.strip())
            if found is None:
                continue
            place = Place(file, number)
            if found[1] == "hetjob":
                fresh = True
                continue
            if fresh:
                groups.append(_Group(place, {}, []))
                fresh = False
            if found[1] in groups[-1].options:
                self.findings.wrong(RULE, place, "is given twice", f"--{found[1]}")
            groups[-1].options[found[1]] = Fact(found[2] or "", place)
        if not groups:
            self.findings.wrong(RULE, Place(file, 1), "asks for nothing: it has no #SBATCH lines")
        for group in groups:
            self._check_options(group, deployment)
        return groups

    def _check_options(self, group: _Group, deployment: str) -> None:
        for name in ("job-name", "output", "nodes", "ntasks-per-node", "gres"):
            if name not in group.options:
                self.findings.wrong(RULE, group.place, "is missing", f"--{name}")
        for name, fact in group.options.items():
            if name not in ("job-name", "output", "nodes", "ntasks-per-node", "gres", "exclusive", "mem"):
                self.findings.wrong(RULE, fact.place, "is an option that jobs of a plan do not have", f"--{name}")
        whole, memory = group.options.get("exclusive"), group.options.get("mem")
        if memory is not None and (memory.value != "0" or whole is None):
            self.findings.wrong(RULE, memory.place, "must be 0, all of it, on nodes that are taken whole", "--mem")
        if whole is not None and (whole.value or memory is None):
            self.findings.wrong(RULE, whole.place, "must have no value, and --mem=0 beside it", "--exclusive")
        gres = group.options.get("gres")
        found = _GRES.fullmatch(gres.value) if gres is not None else None
        if gres is not None and found is None:
            self.findings.wrong(RULE, gres.place, f"must be gpu:TYPE:COUNT, got {gres.value[:60]!r}", "--gres")
        tasks = group.whole("ntasks-per-node")
        if found is not None and tasks != int(found[2]):
            place = group.options["ntasks-per-node"].place if "ntasks-per-node" in group.options else group.place
            self.findings.wrong(RULE, place, f"must be {found[2]}, one for each GPU", "--ntasks-per-node")
        if group.whole("nodes") is None and "nodes" in group.options:
            self.findings.wrong(RULE, group.options["nodes"].place, "must be a whole number", "--nodes")
        job = group.options.get("job-name")
        if job is not None and job.value != deployment:
            self.findings.wrong(RULE, job.place, f"must be {deployment}, as the file is named", "--job-name")

    def _hosts(self, file: str, groups: list[_Group], commands: tuple[Command, ...], rest: list[Command]) -> None:
        """The host of every node from the lists of the allocation."""
        group = -1
        required: set[str] = set()
        exported = {id(command) for command in rest}
        for command in commands:
            if command.name == "mapfile":
                group += 1
            raw = " ".join(word.raw for word in command.words)
            found = _EXPORT.fullmatch(raw)
            if found is not None and id(command) in exported and 0 <= group < len(groups):
                if int(found[2]) != len(groups[group].hosts):
                    message = f"must be host {len(groups[group].hosts)} of its list, got {found[2]}"
                    self.findings.wrong("hosts", command.place, message, found[1])
                groups[group].hosts.append(Fact(found[1], command.place))
                rest.remove(command)
            elif command.name == ":" and len(command.words) == 2:
                asked = re.fullmatch(r'"\$\{(HOST_[A-Z0-9_]+):\?.*\}"', command.words[1].raw)
                if asked is not None and command in rest:
                    required.add(asked[1])
                    rest.remove(command)
        named = [fact for each in groups for fact in each.hosts]
        for fact in named:
            if fact.value not in required:
                self.findings.wrong("hosts", fact.place, "is used without being asked for first", fact.value)
        for name in required - {fact.value for fact in named}:
            self.findings.wrong("hosts", Place(file), "is asked for, and set by nothing", name)
        if len({fact.value for fact in named}) < len(named):
            self.findings.wrong("hosts", Place(file), "sets a host twice")
        for each in groups:
            if each.whole("nodes") is not None and each.whole("nodes") != len(each.hosts):
                place = each.options["nodes"].place
                self.findings.wrong(RULE, place, f"asks for other nodes than its {len(each.hosts)} hosts", "--nodes")

    def _steps(self, rest: list[Command], groups: list[_Group], deployment: str, file: str) -> None:
        runner: str | None = None
        taken: dict[str, list[int]] = {}
        for command in rest:
            if not command.words and [name for name, _ in command.assignments] == ["runner"]:
                runner = command.assignments[0][1].literal
                continue
            words = [word.spoken({}) for word in command.words]
            told = (
                re.fullmatch(r"entry point: http://(\$HOST_[A-Z0-9_]+):(\d{1,5})", words[1])
                if words[:1] == ["echo"] and len(words) == 2
                else None
            )
            if told is not None and len(words) == 2 and not command.redirects and command.end == "\n":
                self.told[file] = (Fact(told[1], command.place), int(told[2]))
                continue
            if words[:1] != ["step"] or len(words) < 5 or command.redirects or command.end != "\n":
                unknown(command, self.findings)
                continue
            if not words[1].isdecimal() or not words[2].isdecimal() or int(words[1]) >= len(groups):
                self.findings.wrong(
                    RULE, command.place, f"must be step GROUP TASKS NAME HOST..., got {' '.join(words)[:80]}"
                )
                continue
            group, tasks, name, hosts = groups[int(words[1])], int(words[2]), words[3], words[4:]
            known = {f"${fact.value}" for fact in group.hosts}
            for host in hosts:
                if host not in known:
                    self.findings.wrong("hosts", command.place, f"{host} is no host of group {words[1]}")
            if runner == "share.sh":
                self._instance(name, tasks, hosts, group, command.place, taken)
            elif runner is not None and runner.startswith("routers/"):
                if runner not in self.folder.files or name != f"{deployment}-router" or tasks != 1 or len(hosts) != 1:
                    self.findings.wrong("router", command.place, f"must start {runner} once, as {deployment}-router")
                if runner in self.routers:
                    self.findings.wrong("router", command.place, f"starts {runner} twice")
                self.routers[runner] = Fact(hosts[0], command.place)
            else:
                self.findings.wrong(RULE, command.place, f"is run by {runner!r}, which is not there", "runner")
        self._check_gpus(groups, taken, file)

    def _instance(
        self, name: str, tasks: int, hosts: list[str], group: _Group, place: Place, taken: dict[str, list[int]]
    ) -> None:
        if name in self.seats:
            self.findings.wrong("nodes", place, f"{name} is started twice")
            return
        if len(set(hosts)) < len(hosts):
            self.findings.wrong("nodes", place, f"{name} is on a host twice")
        self.seats[name] = {}
        for rank, host in enumerate(hosts):
            path = f"instances/{name}-node{rank}.sh"
            if path not in self.folder.files:
                self.findings.wrong("nodes", place, f"starts {path}, which is not there")
                continue
            self.started.add(path)
            seat = self._seat(path, host, tasks, place, deployment_of(name.rpartition("-")[0]))
            if seat is None:
                continue
            self.seats[name][rank] = seat
            for gpu in seat.ids or ():
                taken.setdefault(host, []).append(gpu)
        extra = f"instances/{name}-node{len(hosts)}.sh"
        if extra in self.folder.files:
            self.findings.wrong("nodes", place, f"does not start {extra}")
        if not self.seats[name]:
            del self.seats[name]

    def _seat(self, path: str, host: str, tasks: int, place: Place, deployment: str) -> Seat | None:
        blocks = (STRICT, TO_FOLDER)
        commands = without_blocks(self.folder.commands(path), blocks, path, self.findings)
        share = read_share(commands, path, self.findings)
        if share is None:
            return None
        version = version_of(self.inventory, deployment)
        process = engine_run(share, self.commands, version, Fact(tasks, place) if tasks > 1 else None)
        count = len(share.gpus.value) if share.gpus is not None else 0
        if tasks not in (1, count):
            self.findings.wrong(
                "gpus", place, f"starts {tasks} tasks on a node, and must start 1, or {count}: one a GPU"
            )
        launcher = share.run[1].value == "trtllm-llmapi-launch"
        if launcher != (tasks > 1):
            message = "several tasks go with the engine's launcher for MPI, and only with it"
            self.findings.wrong("command", place, message)
        gpus = share.gpus or Fact((), Place(path))
        node = _node(host)
        return Seat(Fact(len(gpus.value), gpus.place), process, Fact(node, place), gpus.value, host)

    def _check_gpus(self, groups: list[_Group], taken: dict[str, list[int]], file: str) -> None:
        """A node's GPUs in use are those that the job asks for there, and none is used twice."""
        for group in groups:
            gres = group.options.get("gres")
            found = _GRES.fullmatch(gres.value) if gres is not None else None
            if gres is None or found is None:
                continue
            for host in group.hosts:
                used = sorted(taken.get(f"${host.value}", []))
                if used != list(range(int(found[2]))):
                    message = f"asks for {found[2]} GPUs on each node, and on {host.value} these are used: {used}"
                    self.findings.wrong("gpus", gres.place, message, "--gres")
        if not taken:
            self.findings.wrong(RULE, Place(file), "starts no instance")

    def _router(self, name: str) -> list[Router]:
        commands = without_blocks(self.folder.commands(name), (STRICT, TO_FOLDER), name, self.findings)
        deployment = name.removeprefix("routers/").removesuffix(".sh")
        router, _ = read_router(commands, name, deployment, self.commands, version_of(self.inventory, deployment))
        where = self.routers.get(name)
        if where is None:
            self.findings.wrong("router", Place(name), "is started by no job")
        if router is None:
            return []
        told = self.told.get(f"{deployment}.sbatch")
        port = router.port.value if router.port is not None else None
        if told is not None and where is not None and (told[0].value, told[1]) != (where.value, port):
            message = f"tells users {told[0].value}:{told[1]}, and the router is at {where.value}:{port}"
            self.findings.wrong("router", told[0].place, message, "entry point")
        return [replace(router, node=_node(where.value) if where is not None else None)]


def _node(host: str) -> str:
    """Pool and number of a host variable."""
    pool, _, number = host.removeprefix("$HOST_").lower().replace("_", "-").rpartition("-")
    return f"{pool}-{number}"


def _as_planned(instances: list[Instance], inventory: Node) -> list[Instance]:
    """Instances with the GPUs that the inventory has for them.

    A job counts the GPUs that it is granted on a node from 0; the inventory has their numbers on the plan's node.
    """
    numbers: dict[tuple[str, str], set[int]] = {}
    listed = inventory.get("instances")
    for entry in listed.items if listed is not None else []:
        nodes = entry.get("nodes")
        for node in nodes.items if nodes is not None else []:
            gpus = node.get("gpus")
            key = (entry.text("deployment") or "", f"{node.text('pool')}-{node.whole('node')}")
            found = [item.value for item in (gpus.items if gpus is not None else [])]
            numbers.setdefault(key, set()).update(value for value in found if type(value) is int)
    moved = []
    for instance in instances:
        deployment = instance.service.value if instance.service is not None else ""
        seats = []
        for seat in instance.seats:
            there = sorted(numbers.get((deployment, seat.node.value if seat.node is not None else ""), ()))
            if seat.ids is not None and seat.ids and max(seat.ids) < len(there):
                seat = replace(seat, ids=tuple(there[gpu] for gpu in seat.ids))
            seats.append(seat)
        moved.append(replace(instance, seats=tuple(seats)))
    return moved
