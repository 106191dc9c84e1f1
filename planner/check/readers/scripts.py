"""Reads launch scripts: `nodes/*.sh` start `instances/*.sh`, each of which runs one engine process on its GPUs."""

from __future__ import annotations

import re
from dataclasses import replace

from planner.check.commands import Commands, Text
from planner.check.folder import Folder
from planner.check.instance import Fleet, Instance, Router, Seat
from planner.check.names import deployment_of, role_of
from planner.check.place import Fact, Place
from planner.check.readers.inventory import check_inventory, version_of, versions
from planner.check.readers.router import read_router
from planner.check.readers.share import JOIN, LOAD_HOSTS, STOP, STRICT, TO_FOLDER, Share, engine_run, read_share
from planner.check.script import unknown, without_blocks

INVENTORY = "inventory.json"

_HOSTS = "hosts.env"
_NODE_BLOCKS = (STRICT, TO_FOLDER, "mkdir -p logs", "declare -A running=()", STOP)
_START_BLOCKS = (
    'start() {\n  bash "instances/$1.sh" >"logs/$1.log" 2>&1 &\n  running[$!]=$1\n}',
    JOIN,
)
_NODE_FILE = re.compile(r"nodes/([a-z0-9-]+)-(\d{1,6})\.sh")
_SHARE_FILE = re.compile(r"instances/(.+)-node(\d{1,4})\.sh")
_TASK_FILE = re.compile(r"instances/(.+)-task\.sh")


def recognises(folder: Folder) -> bool:
    """Whether the folder holds launch scripts that start by node."""
    return bool(folder.names("nodes/", ".sh"))


def read(folder: Folder) -> Fleet:
    """The instances and routers of launch scripts."""
    return _Scripts(folder).fleet()


def host_variable(pool: str, node: int | str) -> str:
    """Name of the variable with the host of a node."""
    return f"HOST_{pool.upper().replace('-', '_')}_{node}"


class _Scripts:
    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.findings = folder.findings
        configs = {name: Text(folder.files[name].text, name) for name in folder.names("config/")}
        self.inventory = folder.json(INVENTORY) if INVENTORY in folder.files else None
        if self.inventory is None:
            self.findings.wrong("inventory", Place(INVENTORY), "is missing, or is not JSON")
        self.versions = versions(self.inventory, self.findings)
        self.commands = Commands(self.findings, versions=self.versions, files=configs)
        self.used_hosts: dict[str, Place] = {}
        self.by_mpi: list[tuple[str, Fact[str]]] = []
        """Instances that node scripts say MPI starts there."""

    def fleet(self) -> Fleet:
        fleet = Fleet(formats={"scripts"})
        started = self._started()
        seats: dict[str, dict[int, Seat]] = {}
        for name in self.folder.names("instances/", ".sh"):
            share = _SHARE_FILE.fullmatch(name)
            if share is None:
                if not _TASK_FILE.fullmatch(name):
                    self.findings.wrong("file", Place(name), "is named like no share of an instance")
                continue
            where = started.pop(name, None)
            if where is None:
                self.findings.wrong("nodes", Place(name), "is started by no script in nodes/")
            for rank, seat in self._seats(name, share[1], int(share[2]), where):
                if rank in seats.setdefault(share[1], {}):
                    self.findings.wrong("nodes", Place(name), f"node {rank} of {share[1]} is started twice")
                seats[share[1]][rank] = seat
        for name, node in started.items():
            self.findings.wrong("nodes", node.place, f"starts {name}, which is not there")
        for name, node in self.by_mpi:
            placed = [seat.node.value for seat in list(seats.get(name, {}).values())[1:] if seat.node is not None]
            if node.value not in placed:
                self.findings.wrong("nodes", node.place, f"MPI starts no {name} on {node.value}")
        for name, by_rank in seats.items():
            fleet.instances.append(instance_of(name, by_rank))
        for name in self.folder.names("routers/", ".sh"):
            fleet.routers += self._router(name)
        self._check_hosts()
        for path in sorted(set(self.commands.files) - self.commands.used):
            self.folder.read.add(path)
            self.findings.wrong("file", Place(path), "is read by no command")
        self.folder.read |= self.commands.used
        if self.inventory is not None:
            check_inventory(self.inventory, fleet, self.findings)
        return fleet

    def _started(self) -> dict[str, Fact[str]]:
        """The node on which each script of `instances/` is started."""
        started: dict[str, Fact[str]] = {}
        for name in self.folder.names("nodes/", ".sh"):
            commands = self.folder.commands(name)
            node = _NODE_FILE.fullmatch(name)
            if node is None:
                self.findings.wrong("file", Place(name), "is named like no node: <pool>-<number>.sh")
                continue
            self.used_hosts.setdefault(host_variable(node[1], int(node[2])), Place(name))
            starts = any(command.name == "start" for command in commands)
            blocks = (*_NODE_BLOCKS, *_START_BLOCKS) if starts else (STRICT,)
            for command in without_blocks(commands, blocks, name, self.findings):
                told = command.words[1].literal if command.name == "echo" and len(command.words) == 2 else None
                by_mpi = re.fullmatch(r"(.+) is started by its node 0, through MPI", told or "")
                to_error = [(operator, word.raw) for operator, word in command.redirects] == [(">&", "2")]
                if by_mpi is not None and to_error and command.end == "\n":
                    self.by_mpi.append((by_mpi[1], Fact(f"{node[1]}-{int(node[2])}", command.place)))
                    continue
                target = command.words[1].literal if command.name == "start" and len(command.words) == 2 else None
                if target is None or command.redirects or command.end != "\n":
                    unknown(command, self.findings)
                    continue
                path = f"instances/{target}.sh"
                if path in started:
                    self.findings.wrong("nodes", command.place, f"{target} is started twice")
                started[path] = Fact(f"{node[1]}-{int(node[2])}", command.place)
        return started

    def _seats(self, file: str, name: str, rank: int, node: Fact[str] | None) -> list[tuple[int, Seat]]:
        """Seats of a share: its own, or those of all nodes that MPI starts from it."""
        share = self._share(file)
        if share is None:
            return []
        words = [word.value for word in share.run]
        if words[1:2] == ["mpirun"]:
            return self._under_mpi(share, file, name, rank, node)
        process = engine_run(share, self.commands, self._version(name))
        gpus = share.gpus
        if gpus is None:
            self.findings.wrong("gpus", Place(file), "does not say which GPUs it sees")
            gpus = Fact((), Place(file))
        if process is not None and process.arguments.program.command[0] != words[1] and words[1] != "env":
            self.findings.wrong("command", share.place, "is started with MPI's launcher, but not by MPI")
        host = f"${host_variable(*node.value.rsplit('-', 1))}" if node is not None else None
        return [(rank, Seat(Fact(len(gpus.value), gpus.place), process, node, gpus.value, host))]

    def _version(self, instance: str) -> Fact[str] | None:
        return version_of(self.inventory, deployment_of(instance.rpartition("-")[0]))

    def _share(self, file: str) -> Share | None:
        blocks = (STRICT, TO_FOLDER, LOAD_HOSTS)
        commands = without_blocks(self.folder.commands(file), blocks, file, self.findings)
        share = read_share(commands, file, self.findings)
        if share is not None:
            self._note_hosts(share)
        return share

    def _note_hosts(self, share: Share) -> None:
        """Hosts that a script uses, all of which it must ask for first."""
        for name, place in {**share.required, **share.hosts}.items():
            self.used_hosts.setdefault(name, place)
        for name, place in share.hosts.items():
            if name not in share.required and not share.place.file.endswith("-task.sh"):
                self.findings.wrong("hosts", place, "is used without being asked for first", name)

    def _under_mpi(
        self, share: Share, file: str, name: str, rank: int, node: Fact[str] | None
    ) -> list[tuple[int, Seat]]:
        """Seats of an instance that `mpirun` starts on several nodes."""
        task = f"instances/{name}-task.sh"
        words = [word.value for word in share.run]
        hosts = words[5].split(",") if len(words) > 5 else []
        counts = [re.fullmatch(r"\$(HOST_[A-Z0-9_]+):(\d{1,4})", host) for host in hosts]
        tasks = [int(found[2]) for found in counts if found is not None]
        expected = ["exec", "mpirun", "-np", str(sum(tasks)), "--host", words[5] if len(words) > 5 else "",
                    "--bind-to", "none", "bash", f"$PWD/{task}"]  # fmt: skip
        if words != expected or len(tasks) != len(hosts):
            self.findings.wrong(
                "command",
                share.place,
                "must be `mpirun -np TASKS --host HOST:TASKS,... --bind-to none bash` of its task's script, with as "
                "many tasks as its hosts take together",
            )
            return []
        if task not in self.folder.files:
            self.findings.wrong("command", share.place, f"starts {task}, which is not there")
            return []
        inner = self._share(task)
        if inner is None:
            return []
        process = engine_run(inner, self.commands, self._version(name), Fact(tasks[0], share.place))
        if inner.run[1].value != "trtllm-llmapi-launch":
            self.findings.wrong("command", inner.place, "is started by MPI without the engine's launcher for it")
        gpus = inner.gpus or Fact((), Place(task))
        found = []
        for offset, (match, count) in enumerate(zip(counts, tasks, strict=True)):
            assert match is not None
            if count != len(gpus.value):
                self.findings.wrong("gpus", share.place, f"starts {count} tasks on a node for {len(gpus.value)} GPUs")
            pool_node = _node_of_host(match[1])
            if offset == 0 and node is not None and host_variable(*node.value.rsplit("-", 1)) != match[1]:
                self.findings.wrong("hosts", share.place, f"MPI's first node is not the one that starts it: {match[1]}")
            seat_node = node if offset == 0 and node is not None else Fact(pool_node, share.place)
            seat = Seat(Fact(count, share.place), process, seat_node, gpus.value, f"${match[1]}")
            found.append((rank + offset, seat))
        return found

    def _router(self, name: str) -> list[Router]:
        blocks = (STRICT, TO_FOLDER, LOAD_HOSTS)
        commands = without_blocks(self.folder.commands(name), blocks, name, self.findings)
        deployment = name.removeprefix("routers/").removesuffix(".sh")
        router, share = read_router(commands, name, deployment, self.commands, version_of(self.inventory, deployment))
        if share is not None:
            self._note_hosts(share)
        return [router] if router is not None else []

    def _check_hosts(self) -> None:
        """`hosts.env` names every host that scripts use, once, and none that they do not."""
        if _HOSTS not in self.folder.files:
            self.findings.wrong("hosts", Place(_HOSTS), "is missing: it names the hosts of all nodes")
            return
        named: dict[str, Place] = {}
        for command in self.folder.commands(_HOSTS):
            if command.words or command.redirects or command.end != "\n":
                unknown(command, self.findings)
            for name, _ in command.assignments:
                if name in named:
                    self.findings.wrong("hosts", command.place, "is there twice", name)
                named[name] = command.place
        for name in sorted(set(self.used_hosts) - set(named)):
            self.findings.wrong("hosts", self.used_hosts[name], f"is a host that {_HOSTS} does not name", name)
        for name in sorted(set(named) - set(self.used_hosts)):
            self.findings.wrong("hosts", named[name], "is the host of no node", name)


def instance_of(name: str, by_rank: dict[int, Seat]) -> Instance:
    """The instance of the seats that its name and their ranks put together."""
    component = name.rpartition("-")[0] or name
    leader = by_rank[min(by_rank)].host
    seats = tuple(replace(by_rank[rank], leader=leader) for rank in sorted(by_rank))
    process = seats[0].process
    place = process.place if process is not None else seats[0].gpus.place
    pools = {seat.node.value.rpartition("-")[0] for seat in seats if seat.node is not None}
    role = role_of(component)
    return Instance(
        name=name,
        component=component,
        seats=seats,
        copies=Fact(1, place),
        place=place,
        pool=Fact(pools.pop(), place) if len(pools) == 1 else None,
        service=Fact(deployment_of(component), place),
        role=Fact(role, place) if role is not None else None,
        hosts=(leader,) if leader is not None else (),
    )


def _node_of_host(variable: str) -> str:
    """Pool and number of a host variable, as scripts of nodes are named."""
    pool, _, node = variable.removeprefix("HOST_").lower().replace("_", "-").rpartition("-")
    return f"{pool}-{node}"
