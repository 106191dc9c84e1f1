"""GPUs and nodes of every instance against what its flags ask for, and degrees against one another."""

from __future__ import annotations

from planner.check.findings import Findings
from planner.check.instance import Instance
from planner.check.layout import Layout
from planner.check.place import Place
from specs.plan import Role
from specs.service import Engine

RULE = "gpus"


def check_counts(instance: Instance, layouts: list[Layout], findings: Findings) -> None:
    """GPUs = tp x dp x pp, ep x moe_tp = tp x dp, and the same GPUs on each of its nodes.

    Args:
        instance: what is checked.
        layouts: of the process of each of its seats.
        findings: where violations go.
    """
    for seat, layout in zip(instance.seats, layouts, strict=True):
        place = seat.process.place if seat.process is not None else seat.gpus.place
        shards = layout.shards
        if shards.ep * shards.moe_tp != shards.tp * shards.dp:
            findings.wrong(
                "shards",
                layout.place("ep", place),
                f"ep x moe_tp = {shards.ep} x {shards.moe_tp} must be tp x dp = {shards.tp} x {shards.dp}",
            )
        if layout.gpus != instance.gpus:
            findings.wrong(
                RULE,
                _degree_place(layout, place),
                f"{instance.name} asks for tp x dp x pp = {shards.tp} x {shards.dp} x {shards.pp} = {layout.gpus} GPUs "
                f"and has {_shown(instance)}",
            )
        elif seat.gpus.value * instance.nodes != instance.gpus:
            findings.wrong(RULE, seat.gpus.place, f"{instance.name} has different numbers of GPUs on its nodes")
        _check_nodes(instance, layout, place, findings)
        tasks = seat.process.tasks if seat.process is not None else None
        if tasks is not None and tasks.value != seat.gpus.value:
            findings.wrong(RULE, tasks.place, f"{tasks.value} MPI tasks on a node for {seat.gpus.value} GPUs")


def _check_nodes(instance: Instance, layout: Layout, place: Place, findings: Findings) -> None:
    """Nodes that the flags speak of, where they do."""
    leader = instance.leader
    if instance.managed or leader is None or leader.engine is Engine.TRTLLM:
        return
    if layout.nodes != instance.nodes:
        name = "nodes" if "nodes" in layout.places else "data_parallel_local"
        findings.wrong(
            "nodes",
            layout.place("data_parallel_local" if "data_parallel_local" in layout.places else name, place),
            f"{instance.name} runs on {instance.nodes} nodes, and its flags speak of {layout.nodes}",
        )


def _degree_place(layout: Layout, place: Place) -> Place:
    largest = max(("tp", "dp", "pp"), key=lambda name: getattr(layout.shards, name))
    return layout.place(largest, place)


def _shown(instance: Instance) -> str:
    if instance.nodes == 1:
        return f"{instance.gpus}"
    counts = sorted({seat.gpus.value for seat in instance.seats})
    return f"{instance.gpus}: {instance.nodes} nodes of {' or '.join(map(str, counts))}"


def check_role(instance: Instance, layout: Layout, findings: Findings) -> None:
    """The role that flags give must be the one of the name or label."""
    said = instance.role
    place = instance.place
    if said is None:
        findings.wrong("role", place, f"{instance.component!r} does not end with a role: {', '.join(Role)}")
    elif layout.role is not None and layout.role is not said.value:
        name = "disaggregation" if "disaggregation" in layout.places else "afd_role"
        findings.wrong(
            "role",
            layout.place(name, place),
            f"{instance.name} is named for role {said.value.value}, and its flags say {layout.role.value}",
        )
    elif layout.role is None and said.value in (Role.ATTENTION, Role.FFN):
        findings.wrong("role", place, f"{instance.name} is one side of a unit, and no flag says so")
