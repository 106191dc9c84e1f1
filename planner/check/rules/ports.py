"""Ports: none is used twice on a node, and every URL in a router leads to a server."""

from __future__ import annotations

import re

from planner.check.findings import Findings
from planner.check.instance import Backend, Fleet, Instance, Router
from planner.check.layout import Layout
from planner.check.place import Place
from specs.plan import Role
from specs.service import Engine

RULE = "ports"
LAST_PORT = 65_535

_URL = re.compile(r"(?:http://)?([^\s/:]+):(\d{1,5})/?")


def check_ports(fleet: Fleet, layouts: dict[str, list[Layout]], findings: Findings) -> None:
    """Every port that a node listens on is used once, and exists."""
    taken: dict[tuple[str, int], str] = {}
    for instance in fleet.instances:
        if instance.managed:
            continue
        for rank, seat in enumerate(instance.seats):
            where = seat.node.value if seat.node is not None else f"{instance.name} node {rank}"
            own: dict[int, str] = {}
            for port, what, place in _listens(instance, rank, layouts[instance.name][rank]):
                if not 1024 <= port <= LAST_PORT:
                    findings.wrong(RULE, place, f"{what} {port} is no port from 1024 to {LAST_PORT}")
                    continue
                user = taken.get((where, port))
                if user is not None or port in own:
                    taker = user or f"its own {own[port]}"
                    findings.wrong(RULE, place, f"{what} {port} on {where} is taken by {taker}")
                own[port] = what
                taken.setdefault((where, port), f"{instance.name} ({what})")
    for router in fleet.routers:
        if router.port is None:
            continue
        if not 1024 <= router.port.value <= LAST_PORT:
            findings.wrong(RULE, router.port.place, f"{router.port.value} is no port from 1024 to {LAST_PORT}", "port")
        where = router.node or "the router's host"
        user = taken.get((where, router.port.value))
        if user is not None:
            findings.wrong(RULE, router.port.place, f"port {router.port.value} on {where} is taken by {user}", "port")
        taken.setdefault((where, router.port.value), f"the router of {router.deployment}")


def _listens(instance: Instance, rank: int, layout: Layout) -> list[tuple[int, str, Place]]:
    """Ports that one node of an instance listens on."""
    process = instance.seats[rank].process
    if process is None:
        return []
    arguments, found = process.arguments, list[tuple[int, str, Place]]()

    def add(port: int | None, what: str, place: Place, count: int = 1) -> None:
        if port is not None:
            found.extend((port + i, what, place) for i in range(min(count, 4096)))

    if rank == 0:
        for concept in ("port", "data_parallel_port", "master_port", "bootstrap_port"):
            add(arguments.whole(concept), concept.replace("_", " "), arguments.place_of(concept))
        meeting = (arguments.text("rendezvous") or "").rpartition(":")[2]
        add(int(meeting) if meeting.isdecimal() and len(meeting) < 6 else None, "rendezvous port",
            arguments.place_of("rendezvous"))  # fmt: skip
        if layout.role is Role.FFN:
            port = layout.values.get("afd_port")
            add(port if type(port) is int else None, "AFD port", layout.place("afd_port", process.place))
            port = layout.values.get("afd_scheduler_port")
            place = layout.place("afd_scheduler_port", process.place)
            add(port if type(port) is int else None, "AFD scheduler port", place)
    side = process.env.get(process.table.environment.get("kv_transfer_port", ""))
    if side is not None and side.value.isdecimal() and len(side.value) < 6:
        add(int(side.value), "KV transfer port", side.place, max(1, layout.shards.dp * layout.shards.pp))
    return found


def check_routers(fleet: Fleet, findings: Findings) -> None:
    """Every router sends to all servers of its deployment, each once, and to nothing else."""
    by_deployment: dict[str, list[Instance]] = {}
    for instance in fleet.instances:
        if instance.service is not None:
            by_deployment.setdefault(instance.service.value, []).append(instance)
    routed: set[str] = set()
    for router in fleet.routers:
        if router.deployment in routed:
            findings.wrong("router", router.place, f"{router.deployment} has two routers")
        routed.add(router.deployment)
        if router.deployment not in by_deployment:
            findings.wrong("router", router.place, f"{router.deployment!r} is no deployment of these files")
            continue
        _check_backends(router, by_deployment[router.deployment], findings)
    for name, instances in by_deployment.items():
        roles = {instance.role.value for instance in instances if instance.role is not None}
        leader = instances[0].leader
        if name in routed or leader is None or any(instance.managed or instance.routed for instance in instances):
            continue
        split = Role.PREFILL in roles and len(roles) > 1
        if split:
            findings.wrong("router", instances[0].place, f"{name} has prefill and decode servers and no router")


def _check_backends(router: Router, instances: list[Instance], findings: Findings) -> None:
    wanted: dict[str, tuple[Instance, str]] = {}
    for instance in instances:
        kind = _kind(instance, instances)
        leader = instance.leader
        if kind is None or leader is None:
            continue
        port = leader.arguments.whole("port")
        wanted |= {f"{address}:{port}": (instance, kind) for address in instance.hosts}
        if leader.engine is not router.engine:
            findings.wrong(
                "router", router.place, f"is {router.engine.value}'s, and {instance.name} is {leader.engine.value}"
            )
    seen: set[str] = set()
    for backend in router.backends:
        found = _URL.fullmatch(backend.url.value)
        server = f"{found[1]}:{found[2]}" if found else ""
        if router.engine is not Engine.TRTLLM and not backend.url.value.startswith("http://"):
            findings.wrong("router", backend.url.place, f"must start with http://, got {backend.url.value[:80]!r}")
        if server not in wanted:
            findings.wrong("router", backend.url.place, f"{backend.url.value[:80]} is no server of {router.deployment}")
            continue
        if server in seen:
            findings.wrong("router", backend.url.place, f"{backend.url.value[:80]} is there twice")
        seen.add(server)
        instance, kind = wanted[server]
        if backend.kind != kind:
            findings.wrong("router", backend.url.place, f"{instance.name} is a {kind} server, not {backend.kind}")
        _check_bootstrap(backend, instance, findings)
    for server in wanted.keys() - seen:
        findings.wrong("router", router.place, f"sends nothing to {wanted[server][0].name} at {server}")


def _kind(instance: Instance, instances: list[Instance]) -> str | None:
    """What a router takes an instance for; None where requests never go to it."""
    role = instance.role.value if instance.role is not None else None
    roles = {each.role.value for each in instances if each.role is not None}
    if role is Role.FFN or role is None:
        return None
    if Role.PREFILL in roles and len(roles) > 1:
        return "prefill" if role is Role.PREFILL else "decode"
    return "mixed"


def _check_bootstrap(backend: Backend, instance: Instance, findings: Findings) -> None:
    """SGLang's router tells decode where to find prefill."""
    leader = instance.leader
    assert leader is not None
    port = leader.arguments.text("bootstrap_port")
    given = backend.bootstrap.value if backend.bootstrap is not None else None
    if given != port:
        place = backend.bootstrap.place if backend.bootstrap is not None else backend.url.place
        findings.wrong("router", place, f"the bootstrap port of {instance.name} is {port}, got {given}")
