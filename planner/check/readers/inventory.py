"""`inventory.json`: what it says must be what the scripts do."""

from __future__ import annotations

from collections.abc import Iterable

from planner.check.findings import Findings
from planner.check.instance import Fleet, Instance
from planner.check.node import Node
from planner.check.place import Fact, Place
from specs import catalog
from specs.errors import SpecError
from specs.service import Engine

RULE = "inventory"


def versions(inventory: Node | None, findings: Findings) -> dict[Engine, Fact[str]]:
    """Engine versions that the inventory names."""
    found: dict[Engine, Fact[str]] = {}
    engines = inventory.get("engines") if inventory is not None else None
    for name, node in engines.fields.items() if engines is not None else ():
        if name not in list(Engine) or not isinstance(node.value, str):
            findings.wrong(RULE, node.place, f"must be an engine's version as text: {', '.join(Engine)}", name)
        else:
            found[Engine(name)] = Fact(node.value, node.place)
    if inventory is not None and not found:
        findings.wrong(RULE, inventory.place, "names no engine with its version", "engines")
    return found


def version_of(inventory: Node | None, deployment: str) -> Fact[str] | None:
    """Engine version of a deployment, where the deployments of one engine have several."""
    node = inventory.get("versions", deployment) if inventory is not None else None
    return Fact(node.value, node.place) if node is not None and isinstance(node.value, str) else None


def check_inventory(inventory: Node, fleet: Fleet, findings: Findings) -> None:
    """Compare every entry with what was read from the scripts."""
    several = inventory.get("versions")
    fields = ("engines", *(("versions",) if several is not None else ()), "pools", "instances", "routers")
    _known_fields(inventory, fields, findings)
    deployments = {instance.service.value for instance in fleet.instances if instance.service is not None}
    if several is not None and set(several.fields) != deployments:
        findings.wrong(RULE, several.place, f"must name {', '.join(sorted(deployments))}", "versions")
    used = {instance.leader.engine for instance in fleet.instances if instance.leader is not None}
    engines = inventory.get("engines")
    for name, node in engines.fields.items() if engines is not None else ():
        if name not in {engine.value for engine in used}:
            findings.wrong(RULE, node.place, "is an engine that no script starts", f"engines.{name}")
    for engine in used:
        if engines is None or engine.value not in engines.fields:
            findings.wrong(RULE, inventory.place, f"does not name the version of {engine.value}", "engines")
    _pools(inventory, fleet, findings)
    _instances(inventory, fleet, findings)
    _routers(inventory, fleet, findings)


def _number(text: str) -> int:
    """Number of a node; -1, which none has, where it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _known_fields(node: Node, known: Iterable[str], findings: Findings) -> None:
    for name in node.fields:
        if name not in set(known):
            findings.wrong(RULE, node.fields[name].place, f"is no field here; accepted: {', '.join(known)}", name)
    for name in known:
        if name not in node.fields:
            findings.wrong(RULE, node.place, f"lacks {name}", name)


def _pools(inventory: Node, fleet: Fleet, findings: Findings) -> None:
    nodes: dict[str, set[int]] = {}
    largest: dict[str, int] = {}
    for instance in fleet.instances:
        for seat in instance.seats:
            if seat.node is not None:
                own, _, number = seat.node.value.rpartition("-")
                nodes.setdefault(own, set()).add(_number(number))
                largest[own] = max(largest.get(own, 0), *(seat.ids or (0,)))
    pools = inventory.get("pools")
    listed = pools.fields if pools is not None else {}
    for name, pool in listed.items():
        _known_fields(pool, ("gpu", "gpus_per_node", "nodes"), findings)
        numbers = pool.get("nodes")
        said = [item.value for item in numbers.items] if numbers is not None else []
        if said != sorted(nodes.get(name, set())):
            place = pool.fields["nodes"].place if "nodes" in pool.fields else pool.place
            findings.wrong(
                RULE, place, f"must be {sorted(nodes.get(name, set()))}, as scripts have it, got {said}", "nodes"
            )
        _check_gpu(pool, findings)
        fleet.nodes[name] = {
            key: Fact(node.plain, node.place) for key, node in pool.fields.items() if key in ("gpu", "gpus_per_node")
        }
        size = pool.whole("gpus_per_node")
        if size is None or size <= largest.get(name, 0):
            place = pool.fields["gpus_per_node"].place if "gpus_per_node" in pool.fields else pool.place
            findings.wrong(
                RULE, place, f"must be more than the last GPU in use, {largest.get(name, 0)}", "gpus_per_node"
            )
    for name in nodes.keys() - listed.keys():
        findings.wrong(RULE, pools.place if pools is not None else inventory.place, f"lacks the pool {name}", "pools")


def _check_gpu(pool: Node, findings: Findings) -> None:
    name = pool.text("gpu")
    try:
        known = name is not None and catalog.gpu(name).id == name
    except SpecError:
        known = False
    if not known:
        findings.wrong(RULE, pool.place, f"must be the id of a GPU of the catalogue, got {name!r}", "gpu")


def _instances(inventory: Node, fleet: Fleet, findings: Findings) -> None:
    listed = inventory.get("instances")
    entries = listed.items if listed is not None else []
    by_name = {instance.name: instance for instance in fleet.instances}
    seen: set[str] = set()
    for entry in entries:
        name = entry.text("name") or ""
        instance = by_name.get(name)
        if instance is None or name in seen:
            problem = "is listed twice" if name in seen else "is started by no script"
            findings.wrong(RULE, entry.place, f"{name!r} {problem}", "name")
            continue
        seen.add(name)
        _compare(entry, _facts(instance), findings)
    for name in by_name.keys() - seen:
        findings.wrong(
            RULE, listed.place if listed is not None else inventory.place, f"does not list {name}", "instances"
        )


def _facts(instance: Instance) -> dict[str, object]:
    """What an entry must say of an instance."""
    leader = instance.leader
    nodes = []
    for seat in instance.seats:
        pool, _, number = seat.node.value.rpartition("-") if seat.node is not None else ("", "", "-1")
        nodes.append({"pool": pool, "node": _number(number), "gpus": list(seat.ids or ())})
    return {
        "name": instance.name,
        "deployment": instance.service.value if instance.service is not None else None,
        "component": instance.component,
        "role": instance.role.value.value if instance.role is not None else None,
        "engine": leader.engine.value if leader is not None else None,
        "http_port": leader.arguments.whole("port") if leader is not None else None,
        "nodes": nodes,
    }


def _compare(entry: Node, facts: dict[str, object], findings: Findings) -> None:
    _known_fields(entry, tuple(facts), findings)
    for name, value in facts.items():
        node = entry.fields.get(name)
        if node is not None and (node.plain != value or type(node.plain) is not type(value)):
            shown = str(node.plain)[:80]
            findings.wrong(
                RULE, _differing(node, value), f"must be {str(value)[:80]}, as scripts have it, got {shown}", name
            )


def _differing(node: Node, value: object) -> Place:
    """The innermost place where a list differs, or that of the value."""
    if isinstance(value, list) and len(value) == len(node.items):
        for inner, expected in zip(node.items, value, strict=True):
            if inner.plain != expected:
                return inner.place
    return node.place


def _routers(inventory: Node, fleet: Fleet, findings: Findings) -> None:
    listed = inventory.get("routers")
    expected = {router.deployment: router.port.value if router.port else None for router in fleet.routers}
    seen: dict[str, Node] = {}
    for entry in listed.items if listed is not None else []:
        _known_fields(entry, ("deployment", "http_port"), findings)
        name = entry.text("deployment") or ""
        if name not in expected or name in seen:
            findings.wrong(RULE, entry.place, f"{name!r} is listed twice, or has no router's script", "routers")
        elif entry.whole("http_port") != expected[name]:
            findings.wrong(RULE, entry.place, f"must be {expected[name]}, as its script has it", "http_port")
        seen[name] = entry
    for name in expected.keys() - seen.keys():
        findings.wrong(RULE, inventory.place, f"does not list the router of {name}", "routers")
