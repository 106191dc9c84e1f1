"""Reads LeaderWorkerSets and DisaggregatedSets, with the services and routers beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from planner.check.commands import Commands, spoken_words
from planner.check.folder import Folder
from planner.check.instance import Fleet, Instance, Process, Router, Seat
from planner.check.names import deployment_of, role_of
from planner.check.node import Node
from planner.check.place import Fact
from planner.check.readers.kubernetes import check_service, manifest_files, read_manifests, selector_of, selects
from planner.check.readers.pods import (
    COMPONENT_LABEL,
    DEPLOYMENT_LABEL,
    ROLE_LABEL,
    Manifests,
    Pod,
    Script,
    check_same_nodes,
    container_script,
    labels_of,
)
from planner.check.readers.router import router_of
from specs.engine_table import EngineTable
from specs.plan import Role
from specs.service import Engine

RULE = "lws"
KINDS = ("LeaderWorkerSet", "DisaggregatedSet")
GROUP_INDEX = "leaderworkerset.sigs.k8s.io/group-index"
WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
RESTART = "RecreateGroupOnPodRestart"
"""An engine cannot go on without one of its nodes."""
MAX_NODES = 1000
ROUTERS = {Engine.VLLM: "vllm-router", Engine.SGLANG: "sglang-router"}
"""Packages of routers that are no part of the engine."""


def recognises(folder: Folder) -> bool:
    """Whether the folder holds leader-worker sets."""
    return bool(manifest_files(folder, lambda document: document.text("kind") in KINDS))


def read(folder: Folder) -> Fleet:
    """The instances and routers of all files."""
    fleet = Fleet(formats={"lws"})
    names = manifest_files(folder, lambda document: "apiVersion" in document.fields)
    for name in names:
        fleet.add(_Sets(read_manifests(folder, [name])).fleet())
    return fleet


@dataclass
class _Group:
    """One repeated group of pods.

    Args:
        instance: what its pods form.
        labels: of its pods.
    """

    instance: Instance
    labels: dict[str, str]
    port: int | None


class _Sets:
    def __init__(self, manifests: Manifests) -> None:
        self.manifests = manifests
        self.findings = manifests.findings
        self.workers: list[tuple[Fact[str] | None, Fact[str] | None]] = []
        """GPU type and pool of the workers of the group that is being read."""

    def fleet(self) -> Fleet:
        groups = [self._group(node.fields["spec"], node) for node in self.manifests.of_kind("LeaderWorkerSet")
                  if "spec" in node.fields]  # fmt: skip
        for node in self.manifests.of_kind("DisaggregatedSet"):
            roles = node.get("spec", "roles")
            for role in roles.items if roles is not None else []:
                spec = role.get("spec")
                if spec is not None:
                    groups.append(self._group(spec, node, role))
        found = [group for group in groups if group is not None]
        fleet = Fleet()
        used = self._hosts(found)
        fleet.instances = [group.instance for group in found]
        for node in self.manifests.of_kind("Deployment"):
            router = self._router(node, found, used)
            if router is not None:
                fleet.routers.append(router)
        self._entries(found, used)
        self.manifests.check_maps()
        return fleet

    # -- groups -------------------------------------------------------------------------------------------------------

    def _group(self, spec: Node, owner: Node, role: Node | None = None) -> _Group | None:
        template = spec.get("leaderWorkerTemplate")
        if template is None:
            return None  # the schema's violation
        size_node, copies_node = template.get("size"), spec.get("replicas")
        size = size_node.value if size_node is not None else 1
        copies = copies_node.value if copies_node is not None else 1
        if type(size) is not int or type(copies) is not int or not 1 <= size <= MAX_NODES or not 0 <= copies <= 10**6:
            self.findings.wrong(RULE, spec.place, "must have a size of at least 1 and replicas of at least 0")
            return None
        if template.text("restartPolicy") != RESTART:
            place = (template.get("restartPolicy") or template).place
            self.findings.wrong(
                RULE, place, f"must be {RESTART}: an engine cannot go on without a node", "restartPolicy"
            )
        worker, leader = template.get("workerTemplate"), template.get("leaderTemplate")
        if worker is None:
            return None
        if size == 1 and leader is not None:
            self.findings.wrong(RULE, leader.place, "is of a group of one pod", "leaderTemplate")
        if size > 1 and leader is None:
            self.findings.wrong(
                RULE, template.place, "lacks a leader's own template, and has workers", "leaderTemplate"
            )
        first = leader or worker
        labels = labels_of(first)
        self.workers.clear()
        seats: list[Seat] = []
        for rank in range(size):
            seat = self._seat(first if rank == 0 else worker, rank, size, labels)
            if seat is None:
                return None
            seats.append(seat)
        return self._instance(seats, labels, owner, role, copies_node, copies, first)

    def _seat(self, template: Node, rank: int, size: int, labels: dict[str, str]) -> Seat | None:
        spec = template.get("spec")
        containers = spec.get("containers") if spec is not None else None
        if spec is None or containers is None or len(containers.items) != 1:
            self.findings.wrong(RULE, template.place, "must have one container: the engine's")
            return None
        own = labels_of(template)
        if own != labels:
            self.findings.wrong(RULE, template.place, "must have the labels of the group's leader", "labels")
        pod = Pod(spec, containers.items[0], self.manifests, several=size > 1)
        script = pod.script()
        if script is None:
            return None
        process = pod.process(script, rank)
        leads = rank == 0
        finding = script.finding
        if finding.get("LEADER_HOST") not in (None, "$LWS_LEADER_ADDRESS"):
            self.findings.wrong(RULE, script.place, "LEADER_HOST must be what LWS_LEADER_ADDRESS names", "LEADER_HOST")
        if leads and "LEADER_HOST" in finding:
            self.findings.wrong(RULE, script.place, "a leader does not look for itself", "LEADER_HOST")
        peer = finding.get("PEER_HOST")
        if process is not None and peer is not None:
            process = _with_peer(process, peer)
        if rank < 2:
            self._check_pod(pod, process, labels, leads=leads, peer=peer)
        return Seat(pod.gpus, process, host="$POD_IP", leader="$POD_IP" if leads else "$LEADER_HOST")

    def _check_pod(
        self, pod: Pod, process: Process | None, labels: dict[str, str], *, leads: bool, peer: str | None
    ) -> None:
        if not leads:
            self.workers.append((pod.gpu, pod.pool))
        role = labels.get(ROLE_LABEL)
        port = process.arguments.whole("port") if process is not None else None
        serves = str(port) if leads and role != Role.FFN.value and port is not None else None
        pod.check(serves=serves)
        wanted: dict[str, int | None] = {"http": port} if leads else {}
        if leads and process is not None and process.arguments.whole("bootstrap_port") is not None:
            wanted["bootstrap"] = process.arguments.whole("bootstrap_port")
        pod.check_ports(wanted)
        index = pod.variables().get("GROUP_INDEX")
        path = index.text("valueFrom", "fieldRef", "fieldPath") if index is not None else None
        if index is not None and path != f"metadata.labels['{GROUP_INDEX}']":
            self.findings.wrong(RULE, index.place, f"must be the label {GROUP_INDEX}", "GROUP_INDEX")
        if peer is not None and "$GROUP_INDEX" in peer and index is None:
            self.findings.wrong(RULE, pod.container.place, "uses GROUP_INDEX, which nothing sets", "GROUP_INDEX")

    def _instance(
        self,
        seats: list[Seat],
        labels: dict[str, str],
        owner: Node,
        role: Node | None,
        copies_node: Node | None,
        copies: int,
        first: Node,
    ) -> _Group:
        component = labels.get(COMPONENT_LABEL, "")
        place = first.place
        if not component:
            self.findings.wrong(RULE, place, "lacks the label with its component's name", COMPONENT_LABEL)
            component = owner.text("metadata", "name") or "unnamed"
        named, said = role_of(component), labels.get(ROLE_LABEL)
        if said is None or named is None or said != named.value:
            self.findings.wrong(RULE, place, f"must be the role that ends {component!r}, got {said!r}", ROLE_LABEL)
        deployment = deployment_of(component)
        if labels.get(DEPLOYMENT_LABEL) != deployment:
            self.findings.wrong(
                RULE, place, f"must be {deployment!r}, which {component!r} starts with", DEPLOYMENT_LABEL
            )
        self._check_owner(owner, role, component, deployment, labels)
        pod = Pod(first.fields["spec"], first.fields["spec"].fields["containers"].items[0], self.manifests)
        gpu, pool = pod.gpu, pod.pool
        check_same_nodes((gpu, pool), self.workers, self.findings)
        instance = Instance(
            name=component,
            component=component,
            seats=tuple(seats),
            copies=Fact(copies, copies_node.place if copies_node is not None else place),
            place=place,
            service=Fact(deployment, place),
            role=Fact(named, place) if named is not None else None,
            gpu=gpu,
            pool=pool,
        )
        process = seats[0].process
        return _Group(instance, labels, process.arguments.whole("port") if process is not None else None)

    def _check_owner(
        self, owner: Node, role: Node | None, component: str, deployment: str, labels: dict[str, str]
    ) -> None:
        """Names of the set, and of the role in it."""
        name = owner.text("metadata", "name")
        if role is None:
            if name != component:
                self.findings.wrong(
                    RULE, owner.place, f"must be named {component!r}, as its pods are, got {name!r}", "name"
                )
            own = {key: value for key, value in labels_of(owner).items() if key in labels}
            if any(labels[key] != value for key, value in own.items()) or labels_of(owner).keys() - labels.keys():
                self.findings.wrong(RULE, owner.place, "must have labels of its pods", "labels")
            return
        if f"{name}-{role.text('name')}" != component or name != deployment:
            message = f"must be named so that set and role make {component!r}, got {name!r} and {role.text('name')!r}"
            self.findings.wrong(RULE, role.place, message, "name")

    # -- addresses ----------------------------------------------------------------------------------------------------

    def _hosts(self, groups: list[_Group]) -> set[int]:
        """Give every group the names of its leaders, from the headless services; give the services in use."""
        used: set[int] = set()
        by_component = {group.labels.get(COMPONENT_LABEL): group for group in groups}
        names: dict[int, dict[int, str]] = {}
        for service in self.manifests.of_kind("Service"):
            selector = selector_of(service)
            if GROUP_INDEX not in selector:
                continue
            used.add(id(service))
            group = by_component.get(selector.get(COMPONENT_LABEL))
            index = selector.get(GROUP_INDEX, "")
            keys = {COMPONENT_LABEL, GROUP_INDEX, WORKER_INDEX}
            wrong = (
                group is None or selector.keys() != keys or selector.get(WORKER_INDEX) != "0" or not index.isdecimal()
            )
            if group is None or wrong or int(index) >= group.instance.copies.value:
                self.findings.wrong("service", service.place, "selects no leader of a group that is there", "selector")
                continue
            headless = service.text("spec", "clusterIP") == "None"
            early = service.get("spec", "publishNotReadyAddresses")
            if not headless or early is None or early.value is not True:
                message = "must be headless and publish addresses before pods are ready: engines wait for one another"
                self.findings.wrong("service", service.place, message, "clusterIP")
            check_service(service, group.port, self.findings)
            own = f"{group.instance.name}-{index}"
            if service.text("metadata", "name") != own:
                message = f"must be named {own!r}: it is the leader of group {index}"
                self.findings.wrong("service", service.place, message, "name")
            if int(index) in names.setdefault(id(group), {}):
                self.findings.wrong("service", service.place, f"group {index} has two names", "selector")
            names[id(group)][int(index)] = service.text("metadata", "name") or ""
        for group in groups:
            found = names.get(id(group), {})
            copies = group.instance.copies.value
            missing = [i for i in range(copies) if i not in found]
            if missing:
                message = f"{group.instance.name} has no service that names the leader of group {missing[0]}"
                self.findings.wrong("service", group.instance.place, message)
            hosts = tuple(found[i] for i in range(copies) if i in found)
            group.instance = _with_hosts(group.instance, hosts)
        return used

    def _router(self, node: Node, groups: list[_Group], used: set[int]) -> Router | None:
        name = node.text("metadata", "name") or ""
        template = node.get("spec", "template")
        spec = template.get("spec") if template is not None else None
        containers = spec.get("containers") if spec is not None else None
        if template is None or spec is None or containers is None or len(containers.items) != 1:
            self.findings.wrong("router", node.place, "must have one container: the router's")
            return None
        labels = labels_of(template)
        matched = node.get("spec", "selector", "matchLabels")
        selector = {key: str(value.value) for key, value in matched.fields.items()} if matched is not None else {}
        if not selector or not selects(selector, labels) or labels_of(node) != labels:
            self.findings.wrong("router", node.place, "must select its own pods, and carry their labels", "selector")
        if node.get("spec", "replicas") is not None and node.whole("spec", "replicas") != 1:
            self.findings.wrong("router", node.place, "must have one replica: it keeps count of requests", "replicas")
        container = containers.items[0]
        script = container_script(container, self.findings)
        if script is None:
            return None
        pod = Pod(spec, container, self.manifests)
        commands = Commands(self.findings, files=pod.files())
        image = container.get("image")
        plain = image is not None and re.fullmatch(r"([\w.:-]+/)*python:3\.\d+[\w.-]*", str(image.value)) is not None
        version = None if plain else pod.version()
        found = commands.router(spoken_words(script.commands[-1], {}), script.commands[-1].place, version)
        if found is None:
            self.findings.wrong("router", script.place, "starts no router that is known")
            return None
        if plain != (found[0].engine in ROUTERS):
            place = image.place if image is not None else container.place
            self.findings.wrong("router", place, "must be a Python image for a router that is installed first", "image")
        self._check_package(script, found[0])
        deployment = name.removesuffix("-router")
        router = replace(router_of(*found, deployment, commands), node=f"the pod of {name}")
        port = router.port.value if router.port is not None else None
        pod.check_ports({"http": port})
        probe = container.get("readinessProbe", "tcpSocket", "port")
        if probe is None or probe.value not in ("http", port):
            place = probe.place if probe is not None else container.place
            self.findings.wrong(
                "router", place, "must be ready when its port answers: tcpSocket http", "readinessProbe"
            )
        self._check_front(name, labels, port, used, node)
        return router

    def _check_package(self, script: Script, table: EngineTable) -> None:
        """A router that is no part of the engine is installed first, in the version of its flags."""
        installed = [command.words[5].raw for command in script.commands[:-1] if len(command.words) == 6]
        wanted = [f"{ROUTERS[table.engine]}=={table.router.version}"] if table.engine in ROUTERS else []
        if installed != wanted:
            message = f"must install {wanted[0] if wanted else 'nothing'}, whose flags it is given"
            self.findings.wrong("router", script.place, message, "pip install")

    def _check_front(self, name: str, labels: dict[str, str], port: int | None, used: set[int], node: Node) -> None:
        """The service in front of a router."""
        fronts = [
            service
            for service in self.manifests.of_kind("Service")
            if id(service) not in used and selector_of(service) and selects(selector_of(service), labels)
        ]
        used.update(id(service) for service in fronts)
        if len(fronts) != 1:
            self.findings.wrong("service", node.place, f"must have one service in front of it, got {len(fronts)}")
        for service in fronts:
            check_service(service, port, self.findings)
            if service.text("metadata", "name") != name:
                message = f"must be named {name!r}, as the router is"
                self.findings.wrong("service", service.place, message, "name")

    def _entries(self, groups: list[_Group], used: set[int]) -> None:
        """Services in front of instances, where there is no router."""
        for service in self.manifests.of_kind("Service"):
            if id(service) in used:
                continue
            selector = selector_of(service)
            chosen = [
                group
                for group in groups
                if selects({k: v for k, v in selector.items() if k != WORKER_INDEX}, group.labels)
            ]
            if not chosen or selector.get(WORKER_INDEX) != "0" or DEPLOYMENT_LABEL not in selector:
                message = "selects no leaders of a deployment that is there"
                self.findings.wrong("service", service.place, message, "selector")
                continue
            roles = {group.labels.get(ROLE_LABEL) for group in chosen}
            if Role.FFN.value in roles or len(roles) > 1:
                self.findings.wrong("service", service.place, "sends requests to servers of several roles", "selector")
            check_service(service, chosen[0].port, self.findings)


def _with_hosts(instance: Instance, hosts: tuple[str, ...]) -> Instance:
    return replace(instance, hosts=hosts)


def _with_peer(process: Process, peer: str) -> Process:
    """A process whose arguments name the peer instead of the variable that holds its address."""
    arguments = process.arguments
    given = {
        flag: replace(argument, values=tuple(Fact(value.value.replace("$PEER_HOST", peer), value.place)
                                             for value in argument.values))
        for flag, argument in arguments.given.items()
    }  # fmt: skip
    return replace(process, arguments=replace(arguments, given=given))
