"""Reads SkyPilot tasks: a service of equal replicas, or a job group with a task for every instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.check.commands import Commands, Text, spoken_words
from planner.check.folder import Folder
from planner.check.instance import Fleet, Instance, Process, Router, Seat
from planner.check.names import deployment_of, role_of
from planner.check.node import Node
from planner.check.place import Fact, Place
from planner.check.readers.router import read_router
from planner.check.script import unknown, without_blocks
from planner.check.shell import Command, read_shell
from planner.check.structure import problems
from specs.errors import SpecError

RULE = "skypilot"
STRICT = "set -euo pipefail"
MAX_NODES = 1000
LEAST_START_SECONDS = 600
"""Time to load a model before a replica is given up."""
ACCELERATORS = {
    "A100-80GB": "a100-sxm-80gb",
    "B200": "b200-sxm-180gb",
    "B300": "b300-sxm-288gb",
    "GB200": "gb200-nvl72-186gb",
    "GB300": "gb300-nvl72-288gb",
    "H100": "h100-sxm-80gb",
    "H200": "h200-sxm-141gb",
    "L40S": "l40s-pcie-48gb",
}
"""GPU of the catalogue by SkyPilot's canonical name (`sky/utils/gpu_names.py` of SkyPilot 0.12)."""
LEADER = 'LEADER_HOST="$(head -n 1 <<<"$SKYPILOT_NODE_IPS")"'
OWN = 'NODE_HOST="$(sed -n "$((SKYPILOT_NODE_RANK + 1))p" <<<"$SKYPILOT_NODE_IPS")"'

_TEXT: dict[str, Any] = {"type": "string"}
_PORT: dict[str, Any] = {"type": "integer", "minimum": 1024, "maximum": 65535}
_TASK: dict[str, Any] = {
    "type": "object",
    "required": ["name", "resources", "run"],
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
        "num_nodes": {"type": "integer", "minimum": 1, "maximum": MAX_NODES},
        "workdir": {"type": "string", "enum": ["."]},
        "service": {
            "type": "object",
            "required": ["readiness_probe", "replicas"],
            "properties": {
                "readiness_probe": {
                    "type": "object",
                    "required": ["path", "initial_delay_seconds"],
                    "properties": {
                        "path": {"type": "string", "enum": ["/health"]},
                        "initial_delay_seconds": {"type": "integer", "minimum": LEAST_START_SECONDS},
                    },
                },
                "replicas": {"type": "integer", "minimum": 0, "maximum": 1_000_000},
            },
        },
        "resources": {
            "type": "object",
            "properties": {
                "infra": {"type": "string", "enum": ["kubernetes"]},
                "accelerators": {"type": "string", "pattern": r"^[\w-]+:\d{1,4}$"},
                "cpus": {"type": "string", "pattern": r"^\d+\+?$"},
                "ports": _PORT,
            },
        },
        "run": _TEXT,
    },
}
_HEADER: dict[str, Any] = {
    "type": "object",
    "required": ["name", "execution"],
    "properties": {"name": _TEXT, "execution": {"type": "string", "enum": ["parallel"]}},
}
"""Fields of tasks and job groups that are used (docs.skypilot.co, Task YAML, Service YAML, Job Groups)."""


def recognises(folder: Folder) -> bool:
    """Whether the folder holds SkyPilot tasks."""
    return bool(folder.names(suffix=".sky.yaml"))


def read(folder: Folder) -> Fleet:
    """The instances and routers of all files."""
    fleet = Fleet(formats={"skypilot"})
    configs = {name: Text(folder.files[name].text, name) for name in folder.names("config/")}
    commands = Commands(folder.findings, files=configs)
    for name in folder.names(suffix=".sky.yaml"):
        fleet.add(_Tasks(name, folder, commands).fleet())
    for path in sorted(configs.keys() - commands.used):
        folder.findings.wrong("file", Place(path), "is read by no command")
    folder.read |= configs.keys()
    return fleet


class _Tasks:
    """The tasks of one file."""

    def __init__(self, file: str, folder: Folder, commands: Commands) -> None:
        self.file = file
        self.findings = folder.findings
        self.documents = folder.documents(file)
        self.commands = commands
        self.deployment = file.removesuffix(".sky.yaml").rpartition("/")[2]

    def fleet(self) -> Fleet:
        fleet = Fleet()
        tasks = list(self.documents)
        grouped = len(tasks) > 1
        if grouped:
            header = tasks.pop(0)
            self._check(header, _HEADER)
            if header.text("name") != self.deployment:
                place = (header.get("name") or header).place
                self.findings.wrong(RULE, place, f"must be {self.deployment}, as the file is named", "name")
        for task in tasks:
            if not self._check(task, _TASK):
                continue
            name = str(task.fields["name"].value)
            if grouped and name == f"{self.deployment}-router":
                router = self._router(task)
                if router is not None:
                    fleet.routers.append(router)
                continue
            if grouped == ("service" in task.fields):
                message = "a file holds one service of replicas, or a job group of instances"
                self.findings.wrong(RULE, task.place, message, "service")
            instance = self._instance(task, name, grouped=grouped)
            if instance is not None:
                fleet.instances.append(instance)
        return fleet

    def _check(self, node: Node, schema: dict[str, Any]) -> bool:
        wrong = list(problems(node, schema))
        for inner, message in wrong:
            self.findings.wrong("schema", inner.place, message, inner.path or None)
        return not wrong

    def _run(self, task: Node) -> tuple[Command, ...]:
        run = task.fields["run"]
        try:
            return read_shell(str(run.value), self.file, (run.place.line or 0) + 1)
        except SpecError as error:
            self.findings.wrong("file", Place(self.file, error.line), error.message)
            return ()

    def _accelerators(self, task: Node) -> tuple[Fact[str] | None, Fact[int]]:
        node = task.get("resources", "accelerators")
        if node is None:
            self.findings.wrong("gpus", task.place, "asks for no accelerators", "accelerators")
            return None, Fact(0, task.place)
        name, _, count = str(node.value).partition(":")
        gpu = ACCELERATORS.get(name)
        if gpu is None:
            message = f"is no accelerator that is known: {', '.join(ACCELERATORS)}"
            self.findings.wrong(RULE, node.place, message, "accelerators")
        return Fact(gpu, node.place) if gpu is not None else None, Fact(int(count), node.place)

    def _instance(self, task: Node, name: str, *, grouped: bool) -> Instance | None:
        gpu, gpus = self._accelerators(task)
        nodes = task.whole("num_nodes") or 1
        if nodes == 1 and "num_nodes" in task.fields:
            self.findings.wrong(RULE, task.fields["num_nodes"].place, "is for several nodes", "num_nodes")
        if "workdir" not in task.fields:
            self.findings.wrong(RULE, task.place, "must bring the folder's files: workdir .", "workdir")
        infra = task.get("resources", "infra")
        if (infra is not None) != grouped:
            place = infra.place if infra is not None else task.place
            self.findings.wrong(RULE, place, "job groups, and only they, are bound to Kubernetes", "infra")
        run = without_blocks(self._run(task), (STRICT,), self.file, self.findings)
        mpi = any(
            command.name == "exec" and len(command.words) > 1 and command.words[1].literal == "mpirun"
            for command in run
        )
        seats = self._mpi_seats(run, nodes, gpus) if mpi else self._seats(run, nodes, gpus)
        if not seats or seats[0].process is None:
            return None
        process = seats[0].process
        copies = task.get("service", "replicas")
        component = name.rpartition("-")[0] if grouped else name
        role = role_of(component)
        deployment = deployment_of(component)
        if deployment != self.deployment:
            message = f"must start with {self.deployment}, as the file is named"
            self.findings.wrong(RULE, task.fields["name"].place, message, "name")
        ports = task.get("resources", "ports")
        port = process.arguments.whole("port")
        if not grouped and (ports is None or ports.value != port):
            place = ports.place if ports is not None else task.place
            self.findings.wrong("ports", place, f"must be {port}, where the server listens", "resources.ports")
        if grouped and ports is not None:
            self.findings.wrong("ports", ports.place, "is of a router or a service", "resources.ports")
        for key in ("cpus",):
            extra = task.get("resources", key)
            if extra is not None:
                self.findings.wrong(RULE, extra.place, "is of a router", f"resources.{key}")
        return Instance(
            name=name,
            component=component,
            seats=tuple(seats),
            copies=Fact(int(str(copies.value)), copies.place) if copies is not None else Fact(1, task.place),
            place=task.place,
            service=Fact(deployment, task.place),
            role=Fact(role, task.place) if role is not None else None,
            gpu=gpu,
            hosts=(f"{name}-0.{self.deployment}",) if grouped else (),
            routed=not grouped,
        )

    def _seats(self, run: Sequence[Command], nodes: int, gpus: Fact[int]) -> list[Seat]:
        """One process on each node; which of them it is, it learns from its rank."""
        known = {"SKYPILOT_NODE_RANK"}
        hosts = {"LEADER_HOST": LEADER, "NODE_HOST": OWN}
        start = None
        for command in run:
            names = [name for name, _ in command.assignments]
            if not command.words and len(names) == 1 and names[0] in hosts:
                if command.shape != read_shell(hosts[names[0]], "")[0].shape:
                    message = "must be the host of the first node, or of this one, from SKYPILOT_NODE_IPS"
                    self.findings.wrong("hosts", command.place, message, names[0])
                known.add(names[0])
            elif command.name == "exec" and start is None and command.end == "\n" and not command.redirects:
                start = command
            else:
                unknown(command, self.findings)
        if start is None:
            self.findings.wrong(
                "command", run[0].place if run else Place(self.file), "starts nothing: it has no `exec`"
            )
            return []
        used = {name for word in start.words for name in word.parameters}
        for name in sorted(used - known - {"$()"}):
            self.findings.wrong("hosts", start.place, "is used and not set", name)
        for name in sorted(known - used - {"SKYPILOT_NODE_RANK"}):
            self.findings.wrong("hosts", start.place, "is set and not used", name)
        seats = []
        for rank in range(nodes):
            words = spoken_words(start, {"SKYPILOT_NODE_RANK": str(rank)})
            process: Process | None = self.commands.process(words, {}, start.place)
            seats.append(Seat(gpus, process, host="$NODE_HOST", leader="$LEADER_HOST"))
            if nodes == 1 or process is None:
                break
        return seats if nodes == 1 or len(seats) == nodes else []

    def _mpi_seats(self, run: Sequence[Command], nodes: int, gpus: Fact[int]) -> list[Seat]:
        """One MPI task per GPU, all started from the first node."""
        tasks = gpus.value
        waits = "if ((SKYPILOT_NODE_RANK > 0)); then exit 0; fi"
        hosts = f'hosts="$(sed "s/\\$/:{tasks}/" <<<"$SKYPILOT_NODE_IPS" | paste -sd , -)"'
        left = without_blocks(run, (waits, hosts), self.file, self.findings)
        if len(left) != 1:
            for command in left[1:]:
                unknown(command, self.findings)
        if not left:
            return []
        words = spoken_words(left[0], {})
        expected = ["exec", "mpirun", "-np", str(tasks * nodes), "--host", "$hosts", "--bind-to", "none"]
        if [word.value for word in words[:8]] != expected:
            message = f"must be mpirun with {tasks} tasks on each of {nodes} nodes"
            self.findings.wrong("command", left[0].place, message, "mpirun")
        process = self.commands.process(words[8:], {}, left[0].place, tasks=Fact(tasks, left[0].place))
        if words[8:9] and words[8].value != "trtllm-llmapi-launch":
            self.findings.wrong("command", words[8].place, "is started by MPI without the engine's launcher for it")
        return [Seat(gpus, process, host="$NODE_HOST", leader="$LEADER_HOST") for _ in range(nodes)]

    def _router(self, task: Node) -> Router | None:
        commands = without_blocks(self._run(task), (STRICT,), self.file, self.findings)
        router, _ = read_router(commands, self.file, self.deployment, self.commands)
        if router is None:
            return None
        ports = task.get("resources", "ports")
        port = router.port.value if router.port is not None else None
        if ports is None or ports.value != port:
            place = ports.place if ports is not None else task.place
            self.findings.wrong("ports", place, f"must be {port}, where the router listens", "resources.ports")
        if task.get("resources", "accelerators") is not None or "num_nodes" in task.fields or "service" in task.fields:
            self.findings.wrong("router", task.place, "is one process without GPUs", "resources")
        infra = task.get("resources", "infra")
        if infra is None:
            self.findings.wrong(RULE, task.place, "job groups are bound to Kubernetes", "infra")
        return Router(router.deployment, router.engine, router.backends, router.port, router.place,
                      node=f"the task {task.text('name')}")  # fmt: skip
