"""What launch files leave to whoever starts them: hand-over of a phase that is served elsewhere, and placement."""

from __future__ import annotations

import math
from collections.abc import Iterator

from planner.launch.component import Component, DeploymentLaunch
from planner.render.sides import partner_of
from specs.service import Phase

_OTHER_PHASE = {Phase.PREFILL: Phase.DECODE, Phase.DECODE: Phase.PREFILL}


def one_phase(deployment: DeploymentLaunch) -> Iterator[str]:
    """That a deployment computes one phase alone, and what it has to be connected to."""
    phase = deployment.service.phase
    other = _OTHER_PHASE.get(phase)
    if other is not None:
        yield (
            f"{deployment.name} computes {phase.value} alone, and nothing here hands KV cache over: to serve whole "
            f"requests, give its engines and those that compute {other.value} one KV connector, and put a "
            "prefill-decode router in front of both."
        )


def one_domain(deployment: DeploymentLaunch, component: Component, remedy: str) -> Iterator[str]:
    """That the nodes of an instance, or of a unit, belong in one scale-up domain, where a domain has several nodes.

    Args:
        deployment: that it is part of.
        component: whose instances.
        remedy: what says so to whatever picks the nodes.
    """
    pool, partner = component.pool, partner_of(deployment, component)
    with_partner = partner is not None and partner.pool.name == pool.name
    gpus = component.instance_gpus + (partner.instance_gpus if partner is not None and with_partner else 0)
    if pool.scale_up_domain <= pool.gpus_per_node or gpus <= pool.gpus_per_node:
        return
    what = f"an instance with its {partner.name}" if partner is not None and with_partner else "an instance"
    domains = math.ceil(gpus / pool.scale_up_domain)
    where = "one scale-up domain" if domains == 1 else f"{domains} scale-up domains"
    yield (
        f"{component.name}: the plan has the {gpus} GPUs of {what} in {where} of {pool.scale_up_domain}, and "
        f"nothing here says so to the scheduler: {remedy}"
    )
