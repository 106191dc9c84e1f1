"""The door of checking: a folder of launch files in, a report out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from planner.check.expected import Expected, expected, resolved
from planner.check.findings import Findings
from planner.check.folder import Folder
from planner.check.instance import Fleet, Instance
from planner.check.layout import Layout, layout_of
from planner.check.place import Fact, Place
from planner.check.readers import dynamo, kserve, llm_d, lws, ray_serve, scripts, skypilot, slurm, terraform
from planner.check.report import Report
from planner.check.rules.addresses import check_addresses, check_alike, check_units
from planner.check.rules.cluster_fit import check_fit, check_overlaps
from planner.check.rules.counts import check_counts, check_role
from planner.check.rules.launchable import Component, check_launchable
from planner.check.rules.listed import check_listed
from planner.check.rules.memory import check_memory, check_share
from planner.check.rules.node_pools import check_node_pools
from planner.check.rules.parser import check_parsers
from planner.check.rules.plan_match import check_match, match
from planner.check.rules.ports import check_ports, check_routers
from planner.check.rules.transfers import check_transfers
from planner.check.schemas import load_schemas
from planner.check.source import SourceFile, read_folder
from planner.check.totals import totals
from specs import catalog
from specs.errors import SpecError
from specs.hardware import GpuSpec
from specs.plan import Plan
from specs.scenario import ResolvedPool, Scenario

READERS: tuple[ModuleType, ...] = (scripts, slurm, lws, dynamo, llm_d, kserve, ray_serve, skypilot, terraform)
"""Each has `recognises(folder)` and `read(folder)`."""
TEXTS = ("README.txt", "README.md", "LICENSE", "NOTICE", ".gitignore")
"""Files for people."""


def check(
    folder: Path, *, plan: Plan | None = None, scenario: Scenario | None = None, crds: Path | None = None
) -> Report:
    """Count again what launch files ask for.

    Args:
        folder: of the files.
        plan: what they must launch.
        scenario: whose cluster they must fit.
        crds: folder of schemas of Kubernetes kinds.

    Raises:
        SpecError: the folder cannot be read or holds no launch file, or plan, scenario or schemas are unusable.
    """
    findings = Findings()
    files = read_folder(folder, findings)
    return check_files(files, findings, str(folder), plan=plan, scenario=scenario, crds=crds)


def check_files(
    files: list[SourceFile],
    findings: Findings,
    name: str,
    *,
    plan: Plan | None = None,
    scenario: Scenario | None = None,
    crds: Path | None = None,
    parsers: bool = True,
) -> Report:
    """Check files that were read; `name` is that of their folder in errors.

    `parsers` says whether installed engines are asked to read the commands, which takes them seconds to start.

    Raises:
        SpecError: as `check`.
    """
    schemas = load_schemas(crds)
    wanted = expected(plan) if plan is not None else None
    cluster = scenario or (plan.scenario if plan is not None else None)
    pools = resolved(cluster) if cluster is not None else None
    read = Folder.of(files, findings, schemas)
    readers = [reader for reader in READERS if reader.recognises(read)]
    if not readers and not any(read.refuse_unreadable(file) for file in read.files):
        raise SpecError("holds no launch file that is known; accepted: a folder that `cleave render` wrote", file=name)
    fleet = Fleet()
    for reader in readers:
        found: Fleet = reader.read(read)
        fleet.add(found)
    check_listed(read, findings)
    for file in sorted(read.files.keys() - read.read):
        if file.rpartition("/")[2] in TEXTS:
            findings.skip(file, "text", "is for people")
        elif not read.refuse_unreadable(file):
            findings.wrong("file", Place(file), "is no launch file that is known, and nothing refers to it")
    if parsers:
        check_parsers([process for instance in fleet.instances for process in instance.processes], findings)
    matched = _check_fleet(fleet, wanted, pools, files[0].name if files else "", findings)
    return Report(
        ok=not findings.violations,
        violations=findings.ordered(findings.violations),
        warnings=findings.ordered(findings.warnings),
        skipped=tuple(findings.skipped.values()),
        totals=totals(fleet, matched, pools),
    )


def _check_fleet(
    fleet: Fleet,
    wanted: tuple[Expected, ...] | None,
    pools: dict[str, ResolvedPool] | None,
    file: str,
    findings: Findings,
) -> dict[str, tuple[Layout | None, str | None]]:
    """Apply every rule; give layout and pool by component."""
    layouts: dict[str, list[Layout]] = {}
    seen: dict[str, Instance] = {}
    for instance in fleet.instances:
        if instance.name in seen:
            findings.wrong("name", instance.place, f"{instance.name} is there twice")
        seen[instance.name] = instance
    fleet.instances[:] = list(seen.values())
    started = []
    for instance in fleet.instances:
        if any(seat.process is None for seat in instance.seats) or not instance.seats:
            continue  # what is wrong with its command was noted where it was read
        layouts[instance.name] = [layout_of(process, findings) for process in instance.processes]
        started.append(instance)
    lame = [instance for instance in fleet.instances if instance.name not in layouts]
    fleet.instances[:] = started
    components = fleet.components()
    first = {name: layouts[instances[0].name][0] for name, instances in components.items()}
    for instance in fleet.instances:
        check_counts(instance, layouts[instance.name], findings)
        check_addresses(instance, layouts[instance.name], findings)
    for name, instances in components.items():
        check_role(instances[0], first[name], findings)
        check_alike(instances, findings)
        check_share(instances[0], first[name], findings)
    for deployment in {i.service.value for i in fleet.instances if i.service is not None}:
        members = [i for i in fleet.instances if i.service is not None and i.service.value == deployment]
        check_units([(i, layouts[i.name][0]) for i in members], findings)
        check_transfers([(i, layouts[i.name][0]) for i in members], findings)
    check_overlaps(fleet, findings)
    check_ports(fleet, layouts, findings)
    check_routers(fleet, findings)
    matched: dict[str, Expected] = {}
    if wanted is not None and (fleet.instances or lame or not fleet.pools):
        matched = match(components, first, wanted, file, findings)
        for name, pool in matched.items():
            check_match(name, components[name], first[name], pool, findings)
    kinds = {name: said["gpu"] for name, said in fleet.nodes.items() if "gpu" in said}
    pool_of = {name: _pool(instances[0], matched.get(name), pools) for name, instances in components.items()}
    deployments: dict[str, list[Component]] = {}
    for name, instances in components.items():
        gpu = _gpu(instances[0], pool_of[name], pools, kinds)
        check_memory(instances[0], first[name], gpu, matched.get(name), findings)
        service = instances[0].service.value if instances[0].service is not None else name
        node_gpus = _node_gpus(pool_of[name], pools, fleet)
        member = Component(instances[0], first[name], gpu, node_gpus, matched.get(name))
        deployments.setdefault(service, []).append(member)
    for deployed in deployments.values():
        check_launchable(deployed, findings)
    check_node_pools(fleet, wanted, pools, findings)
    if pools is not None:
        check_fit(fleet, pool_of, pools, findings)
    return {name: (first[name], pool_of[name]) for name in components}


def _pool(instance: Instance, wanted: Expected | None, pools: dict[str, ResolvedPool] | None) -> str | None:
    """The pool of an instance: named in the files, or the only one with its GPUs, or the plan's."""
    if instance.pool is not None:
        return instance.pool.value
    if instance.gpu is not None and pools is not None:
        alike = [name for name, pool in pools.items() if pool.gpu.id == instance.gpu.value]
        if len(alike) == 1:
            return alike[0]
    return wanted.pool.name if wanted is not None else None


def _node_gpus(pool: str | None, pools: dict[str, ResolvedPool] | None, fleet: Fleet) -> int | None:
    """GPUs of one node of a pool, from the cluster or from the files; None where neither says."""
    if pools is not None and pool in pools:
        return pools[pool].gpus_per_node
    said = fleet.nodes.get(pool or "", {}).get("gpus_per_node")
    return said.value if said is not None and type(said.value) is int else None


def _gpu(
    instance: Instance, pool: str | None, pools: dict[str, ResolvedPool] | None, kinds: Mapping[str, Fact[str]]
) -> GpuSpec | None:
    """The GPU type of an instance: that of its pool, or the one that the files say."""
    if pools is not None and pool in pools:
        return pools[pool].gpu
    said = instance.gpu or kinds.get(pool or "")
    try:
        return catalog.gpu(str(said.value)) if said is not None else None
    except SpecError:
        return None
