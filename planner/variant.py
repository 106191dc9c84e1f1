"""Variants of a declared space: other modes, SLOs or GPUs, with the enumeration of layouts reused where it stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.options.targets import Targets
from planner.space import ServiceSpace, Slowdown, Space
from specs import catalog
from specs.objective import Objective
from specs.scenario import Pool, ResolvedPool, resolve_pool
from specs.service import Mode, Phase, Service

HAND_OVER = frozenset({Mode.PREFILL_DECODE, Mode.PREFILL_DECODE_AFD})
DISAGGREGATED_FFN = frozenset({Mode.AFD, Mode.PREFILL_DECODE_AFD})


def inapplicable(part: ServiceSpace, mode: Mode) -> str | None:
    """Why no layout on any number of these GPUs could serve a service in a mode; None where one might."""
    phase = part.service.phase
    if mode in DISAGGREGATED_FFN and part.sites[0].moe is None:
        return "a dense model has no experts to disaggregate"
    if mode in HAND_OVER and phase is not Phase.FULL:
        return f"phase {phase.value} alone needs no hand-over from prefill to decode"
    if mode is Mode.AFD and phase is Phase.PREFILL:
        return "AFD disaggregates decode steps, and phase prefill has none"
    if part.launch is not None:
        return part.launch.mode(mode, [site.pool for site in part.sites])
    return None


def with_slo(service: Service, **changes: float) -> Service:
    """A service with another SLO."""
    return service.model_copy(update={"slo": service.slo.model_copy(update=changes)})


def respond(space: Space, changed: Mapping[int, Service], *, objective: Objective | None = None) -> Space:
    """A space whose services have other modes or SLOs; layouts, and their cost models, are those enumerated before.

    Args:
        space: a space in which every mode that a changed service has was enumerated.
        changed: services by index.
        objective: another objective, or None for the same.
    """
    parts = list(space.services)
    for index, service in changed.items():
        part = parts[index]
        parts[index] = replace(
            part,
            service=service,
            targets=Targets.of(service, part.sites[0].workload),
            rejected={mode: Counter[str]() for mode in service.modes},
        )
    services = tuple(part.service for part in parts)
    scenario = space.scenario.model_copy(update={"services": services})
    if objective is not None:
        scenario = scenario.model_copy(update={"objective": objective})
    return replace(space, scenario=scenario, services=tuple(parts))


def in_modes(space: Space, modes: Mapping[int, Sequence[Mode]]) -> Space:
    """A space whose services are restricted to some of their modes."""
    return respond(
        space,
        {
            index: space.services[index].service.model_copy(update={"modes": tuple(chosen)})
            for index, chosen in modes.items()
        },
    )


def grown(pool: Pool, resolved: ResolvedPool, gpus: int) -> ResolvedPool:
    """A pool with `gpus` GPUs more; its scale-up domain grows with it as far as the hardware's reaches.

    Nodes keep their size, so that a pool smaller than a node becomes more such nodes.
    """
    count = resolved.count + gpus
    node = pool.gpus_per_node or catalog.gpu(pool.gpu).gpus_per_node
    whole = resolve_pool(pool.model_copy(update={"count": node * 1_000_000})).scale_up_domain
    domain = resolved.scale_up_domain
    if count <= whole and count % resolved.gpus_per_node == 0 and resolved.gpus_per_node == node:
        domain = max(domain, count)
    nics = resolved.nics_per_node
    return resolved.model_copy(update={"count": count, "scale_up_domain": domain, "nics_per_node": nics})


def replaced(space: Space, pools: Sequence[ResolvedPool], slowdown: Slowdown) -> Space:
    """The space of the same scenario on other pools."""
    return Space.of(space.scenario, pools, slowdown, space.calibration)
