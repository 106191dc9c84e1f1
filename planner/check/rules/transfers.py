"""Prefill hands KV caches to decode: both sides say so, in the same way, and nobody else does."""

from __future__ import annotations

from collections.abc import Sequence

from planner.check.findings import Findings
from planner.check.instance import Instance
from planner.check.layout import Layout
from specs.plan import Role

RULE = "transfer"


def check_transfers(members: Sequence[tuple[Instance, Layout]], findings: Findings) -> None:
    """Compare the instances of one deployment.

    A deployment of one role alone may be one side of a pair that is elsewhere.
    """
    roles = {instance.role.value for instance, _ in members if instance.role is not None}
    split = Role.PREFILL in roles and bool(roles & {Role.DECODE, Role.ATTENTION})
    methods = {layout.values.get("transfer") for instance, layout in members if _hands_over(instance)}
    if split and (len(methods) > 1 or None in methods):
        for instance, layout in members:
            if _hands_over(instance) and (layout.values.get("transfer") is None or len(methods - {None}) > 1):
                place = layout.place("transfer", instance.place)
                said = layout.values.get("transfer") or "nothing"
                findings.wrong(
                    RULE, place, f"prefill and decode must hand over KV caches alike; {instance.name}: {said}"
                )
    for instance, layout in members:
        moved = layout.values.get("transfer")
        if moved is not None and not _hands_over(instance):
            place = layout.place("transfer", instance.place)
            findings.wrong(RULE, place, f"{instance.name} has nobody to hand KV caches to: {moved}")
        role = layout.values.get("transfer_role")
        if moved is not None and "transfer_role" in layout.places and role != "kv_both":
            place = layout.place("transfer_role", instance.place)
            findings.wrong(RULE, place, f"must be kv_both, got {role}", "kv_role")


def _hands_over(instance: Instance) -> bool:
    return instance.role is not None and instance.role.value in (Role.PREFILL, Role.DECODE, Role.ATTENTION)
