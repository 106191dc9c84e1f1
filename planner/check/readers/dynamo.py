"""Reads DynamoGraphDeployments (`nvidia.com/v1beta1`)."""

from __future__ import annotations

import re

from planner.check.arguments import Arguments, read_arguments
from planner.check.asides import is_harmless_variable
from planner.check.commands import Commands
from planner.check.folder import Folder
from planner.check.instance import Fleet, Instance, Process, Seat
from planner.check.names import deployment_of, role_of
from planner.check.node import Node
from planner.check.place import Fact
from planner.check.readers.kubernetes import manifest_files, read_manifests
from planner.check.readers.pods import COMPONENT_LABEL, ROLE_LABEL, Manifests, Pod, labels_of
from planner.check.readers.router import ANY_HOST
from specs.engine_table import EngineTable, Flag, FlagKind, Program
from specs.plan import Role
from specs.service import Engine

RULE = "dynamo"
KIND = "DynamoGraphDeployment"
MAX_COMPONENTS = 25
MAX_NODES = 1000
CUT_NAME = 15
"""Names of graphs that are at least as long may be cut, and end with a hash."""
TYPES = {"worker": Role.MIXED, "prefill": Role.PREFILL, "decode": Role.DECODE}
IMAGES = {Engine.VLLM: "vllm-runtime", Engine.SGLANG: "sglang-runtime", Engine.TRTLLM: "tensorrtllm-runtime"}
"""Names of Dynamo's images by the engine in them."""

_FLAGS_OF = re.compile(r"^# Flags of (\w+) ([\w.]+)", re.MULTILINE)
_RELEASE = re.compile(r"[\w./-]+/([\w-]+):(\d+\.\d+\.\d+)")


def recognises(folder: Folder) -> bool:
    """Whether the folder holds a graph deployment."""
    return bool(_files(folder))


def _files(folder: Folder) -> list[str]:
    graphs = manifest_files(folder, lambda document: document.text("kind") == KIND)
    return manifest_files(folder, lambda document: "apiVersion" in document.fields) if graphs else []


def read(folder: Folder) -> Fleet:
    """The instances of all graphs."""
    fleet = Fleet(formats={"dynamo"})
    for name in _files(folder):
        versions = {
            Engine(engine): Fact(version, folder.files[name].place)
            for engine, version in _FLAGS_OF.findall(folder.files[name].text)
            if engine in list(Engine)
        }
        manifests = read_manifests(folder, [name])
        for graph in manifests.of_kind(KIND):
            fleet.instances += _Graph(graph, manifests, versions).instances()
        manifests.check_maps()
    return fleet


class _Graph:
    def __init__(self, graph: Node, manifests: Manifests, versions: dict[Engine, Fact[str]]) -> None:
        self.graph = graph
        self.manifests = manifests
        self.findings = manifests.findings
        self.versions = versions

    def instances(self) -> list[Instance]:
        framework = self.graph.get("spec", "backendFramework")
        if framework is None or framework.value not in list(Engine):
            place = framework.place if framework is not None else self.graph.place
            self.findings.wrong(RULE, place, f"must be one of {', '.join(Engine)}", "backendFramework")
            return []
        engine = Engine(str(framework.value))
        listed = self.graph.get("spec", "components")
        components = listed.items if listed is not None else []
        if len(components) > MAX_COMPONENTS:
            self.findings.wrong(RULE, self.graph.place, f"has more than {MAX_COMPONENTS} components", "components")
        fronts = [component for component in components if component.text("type") == "frontend"]
        if len(fronts) != 1:
            self.findings.wrong(RULE, self.graph.place, f"must have one frontend, got {len(fronts)}", "components")
        self._check_names(components)
        releases: set[str] = set()
        for front in fronts:
            self._frontend(front, engine, releases)
        found = []
        for component in components:
            if component not in fronts:
                instance = self._instance(component, engine, releases)
                if instance is not None:
                    found.append(instance)
        if len(releases) > 1:
            message = f"its images are of several releases: {', '.join(sorted(releases))}"
            self.findings.wrong(RULE, self.graph.place, message, "image")
        return found

    def _check_names(self, components: list[Node]) -> None:
        """Components are named by their type, and the graph by its deployment, cut where Grove would refuse it."""
        for component in components:
            name, kind = component.text("name"), component.text("type")
            if not re.fullmatch(rf"{re.escape(str(kind))}(-\d+)?", str(name)):
                place = (component.get("name") or component).place
                self.findings.wrong(RULE, place, f"must be {kind}, or {kind} and a number, got {name}", "name")
        graph = self.graph.text("metadata", "name") or ""
        stem = re.sub(r"-[0-9a-f]{6}$", "", graph) if len(graph) >= CUT_NAME else graph
        for component in components:
            template = component.get("podTemplate")
            owner = labels_of(template).get(COMPONENT_LABEL) if template is not None else None
            if owner is not None and deployment_of(owner) != graph and not deployment_of(owner).startswith(stem):
                message = f"must be {deployment_of(owner)}, which {owner} is part of, got {graph}"
                self.findings.wrong(RULE, self.graph.place, message, "metadata.name")

    def _pod(self, component: Node, *, several: bool) -> Pod | None:
        spec = component.get("podTemplate", "spec")
        containers = spec.get("containers") if spec is not None else None
        if spec is None or containers is None or len(containers.items) != 1:
            self.findings.wrong(RULE, component.place, "must have one container: main", "podTemplate")
            return None
        container = containers.items[0]
        if container.text("name") != "main":
            self.findings.wrong(RULE, container.place, "must be named main", "name")
        return Pod(spec, container, self.manifests, several=several, operator=True)

    def _image(self, pod: Pod, engine: Engine, releases: set[str]) -> None:
        image = pod.container.get("image")
        found = _RELEASE.fullmatch(str(image.value)) if image is not None else None
        if image is None or found is None or found[1] not in IMAGES.values():
            place = image.place if image is not None else pod.container.place
            self.findings.wrong(RULE, place, "must be a release of Dynamo's image for the engine", "image")
            return
        if found[1] != IMAGES[engine]:
            self.findings.wrong(RULE, image.place, f"must be {IMAGES[engine]}, got {found[1]}", "image")
        releases.add(found[2])

    def _frontend(self, component: Node, engine: Engine, releases: set[str]) -> None:
        pod = self._pod(component, several=False)
        if pod is None:
            return
        self._image(pod, engine, releases)
        if component.whole("replicas") != 1:
            place = (component.get("replicas") or component).place
            self.findings.wrong(RULE, place, "must be 1: it is what clients reach", "replicas")
        words = _words(pod.container)
        port = words[4] if len(words) > 4 else ""
        expected = ["python3", "-m", "dynamo.frontend", "--http-port", port, "--router-mode", "round-robin"]
        if words != expected or not port.isdecimal():
            message = "must be python3 -m dynamo.frontend --http-port PORT --router-mode round-robin"
            self.findings.wrong(RULE, (pod.container.get("args") or pod.container).place, message, "args")
        elif not 1024 <= int(port) <= 65_535:
            self.findings.wrong("ports", pod.container.place, f"{port} is no port from 1024 to 65535", "--http-port")
        pod.check(serves=None)
        pod.check_ports({"http": int(port) if port.isdecimal() else None})

    def _instance(self, component: Node, engine: Engine, releases: set[str]) -> Instance | None:
        kind = component.text("type")
        role = TYPES.get(str(kind))
        nodes_node, copies_node = component.get("multinode", "nodeCount"), component.get("replicas")
        nodes = nodes_node.value if nodes_node is not None else 1
        copies = copies_node.value if copies_node is not None else 1
        if type(nodes) is not int or type(copies) is not int or not 1 <= nodes <= MAX_NODES or not 0 <= copies <= 10**6:
            self.findings.wrong(RULE, component.place, "must have whole numbers of nodes and replicas")
            return None
        if nodes_node is not None and nodes < 2:
            self.findings.wrong(RULE, nodes_node.place, "must be at least 2", "nodeCount")
        pod = self._pod(component, several=nodes > 1)
        if pod is None or role is None:
            place = (component.get("type") or component).place
            if role is None:
                self.findings.wrong(RULE, place, f"must be one of frontend, {', '.join(TYPES)}", "type")
            return None
        self._image(pod, engine, releases)
        pod.check(serves=None)
        pod.check_ports({})
        pod.check_size(component.get("sharedMemorySize"), component.place)
        labels = labels_of(component.fields["podTemplate"])
        name = labels.get(COMPONENT_LABEL, "")
        named = role_of(name)
        if named is not role or labels.get(ROLE_LABEL) != role.value:
            message = f"type {kind}, label {ROLE_LABEL} = {labels.get(ROLE_LABEL)!r} and the end of {name!r} must agree"
            self.findings.wrong(RULE, (component.get("type") or component).place, message, "type")
        if labels.keys() - {COMPONENT_LABEL, ROLE_LABEL}:
            self.findings.wrong(RULE, component.place, "has labels that nothing selects by", "labels")
        process = self._process(pod, engine, role)
        place = component.place
        return Instance(
            name=name or str(component.text("name")),
            component=name or str(component.text("name")),
            seats=tuple(Seat(pod.gpus, process) for _ in range(nodes)),
            copies=Fact(copies, copies_node.place if copies_node is not None else place),
            place=place,
            pool=pod.pool,
            service=Fact(deployment_of(name), place),
            role=Fact(role, place),
            gpu=pod.gpu,
            managed=True,
        )

    def _process(self, pod: Pod, engine: Engine, role: Role) -> Process | None:
        commands = Commands(self.findings, versions=self.versions, files=pod.files())
        table = commands.table(engine, self.versions.get(engine), afd=False, place=pod.container.place)
        if table is None:
            return None
        worker = _program(table)
        place = (pod.container.get("args") or pod.container).place
        command = [item.value for item in (pod.container.get("command") or pod.container).items]
        args = pod.container.get("args")
        spoken = [Fact(str(item.value), item.place) for item in (args.items if args is not None else [])]
        if tuple(command) != worker.command:
            self.findings.wrong(RULE, place, f"must run {' '.join(worker.command)}", "command")
        arguments = read_arguments(spoken, worker, place, self.findings)
        if arguments.text("model") is None:
            self.findings.wrong(RULE, place, "does not say its model", "--model")
        self._check_side(arguments, engine, role)
        if engine is Engine.SGLANG and role is not Role.MIXED and arguments.text("host") != ANY_HOST:
            message = f"must be {ANY_HOST}: decode asks prefill there for its KV cache"
            self.findings.wrong(RULE, arguments.place_of("host"), message, "--host")
        env = {name: value for name, value in pod.env().items() if name not in ("HF_HOME", "HF_HUB_CACHE")}
        self._check_env(env, table)
        return commands.built(table, arguments, env, place)

    def _check_side(self, arguments: Arguments, engine: Engine, role: Role) -> None:
        """The side of P/D that a worker is told: Dynamo's own flag, except where the engine has one."""
        said = arguments.text("disaggregation")
        split = len({component.text("type") for component in self.graph.fields["spec"].fields["components"].items}) > 2
        if engine is not Engine.SGLANG and said != (role.value if role is not Role.MIXED and split else said):
            message = f"must be {role.value}, as its type is, got {said}"
            self.findings.wrong(RULE, arguments.place_of("disaggregation"), message, "--disaggregation-mode")
        if role is Role.MIXED and said is not None:
            message = "is of a worker that computes both phases"
            self.findings.wrong(RULE, arguments.place_of("disaggregation"), message, "--disaggregation-mode")

    def _check_env(self, env: dict[str, Fact[str]], table: EngineTable) -> None:
        known = set(table.environment.values())
        for name, value in env.items():
            if name not in known and not is_harmless_variable(name):
                self.findings.wrong(RULE, value.place, "is a variable that no engine is known to read", name)


def _words(container: Node) -> list[str]:
    """Command and arguments of a container."""
    return [
        str(item.value)
        for key in ("command", "args")
        for item in (container.get(key).items if container.get(key) is not None else [])  # type: ignore[union-attr]
    ]


def _program(table: EngineTable) -> Program:
    """Dynamo's worker for an engine: the server's flags, and its own (docs.nvidia.com/dynamo, v1.6, Backends)."""
    server = table.server
    own = {
        "--model": Flag(kind=FlagKind.STR),
        "--disaggregation-mode": Flag(kind=FlagKind.CHOICE, choices=("prefill", "decode", "agg")),
    }
    flags, concepts = dict(server.flags), dict(server.concepts)
    if table.engine is Engine.SGLANG:
        own = {}
    elif table.engine is Engine.TRTLLM:
        # It reads the engine's YAML file, and takes none of the server's flags.
        flags = {"--extra-engine-args": Flag(kind=FlagKind.STR)}
        concepts = {"config": "--extra-engine-args"}
    if own:
        flags |= own
        concepts |= {"model": "--model", "disaggregation": "--disaggregation-mode"}
    return Program(
        command=("python3", "-m", f"dynamo.{table.engine.value}"),
        source=server.source,
        flags=flags,
        concepts=concepts,
        values=server.values,
    )
