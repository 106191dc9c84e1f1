"""What no plan can exceed, from one batch per server: the bound where time ran out before all options were listed.

Whatever its batch, a server serves no more than at the largest that memory holds, were there no SLO, no wait and no
fabric (the rate never falls with the batch, `planner.options.search`). So requests/s per GPU have a largest value rho
in every mode: of servers of whole requests the largest of all; where prefill (p) and decode (d) are apart,
1 / (1/p + 1/d), because every request passes both. All GPUs together serve at most rho times their number, and a demand
of r requests/s takes at least r / rho GPUs, however the services share the cluster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from planner.clock import Clock, OutOfTimeError
from planner.options import decode, serve
from planner.space import ServiceSpace, Space
from planner.table import unit_cost
from specs.service import Mode, Phase


def ceiling(space: Space, modes: Mapping[int, Sequence[Mode]], clock: Clock) -> float:
    """Bound on the objective of the plans in which every service runs in some of its given modes.

    Where time runs out for a service, only its demand bounds it: nothing (inf, or 0 for a minimum) if it has none.

    Args:
        space: the declared space.
        modes: of every service, by index.
        clock: looked at between servers.
    """
    maximizing = space.scenario.objective.maximizing
    total = 0.0
    for index, chosen in modes.items():
        part = space.services[index]
        try:
            best = max(most_rps_per_gpu(part, mode, clock) for mode in chosen)
        except OutOfTimeError:
            best = math.inf
        demand = part.service.demand_rps
        pools = [site.pool for site in part.sites]
        if maximizing:
            rate = best * sum(pool.count for pool in pools)
            rate = rate if demand is None else min(rate, demand)
            total += rate * part.service.weight * part.sites[0].lengths.output
        elif demand:
            cost = min(unit_cost(space.scenario, pool) for pool in pools)
            total += demand / best * cost if best > 0.0 else math.inf
    return total


def most_rps_per_gpu(part: ServiceSpace, mode: Mode, clock: Clock) -> float:
    """Largest requests/s per GPU that any servers of a mode reach, or more; 0 where it has none.

    Raises:
        OutOfTimeError: the clock ran out first.
    """
    if part.launch is not None and part.launch.mode(mode, [site.pool for site in part.sites]) is not None:
        return 0.0
    phase, apart = part.service.phase, mode in (Mode.PREFILL_DECODE, Mode.PREFILL_DECODE_AFD)
    if phase is Phase.PREFILL:
        return _prompts(part, mode, clock) if mode is Mode.AGGREGATED else 0.0
    if phase is Phase.DECODE:
        return 0.0 if apart else _tokens(part, mode, clock)
    if not apart:
        return _requests(part, mode, clock)
    prompts, tokens = _prompts(part, mode, clock), _tokens(part, mode, clock)
    return 1.0 / (1.0 / prompts + 1.0 / tokens) if prompts > 0.0 and tokens > 0.0 else 0.0


def _prompts(part: ServiceSpace, mode: Mode, clock: Clock) -> float:
    return part.prefill_side(mode, prune=True, clock=clock)[0].most_rps_per_gpu


def _tokens(part: ServiceSpace, mode: Mode, clock: Clock) -> float:
    best = 0.0
    for _, server in part.servers(mode):
        clock.check()
        best = max(best, decode.most_rps_per_gpu(server, part.targets))
    return best


def _requests(part: ServiceSpace, mode: Mode, clock: Clock) -> float:
    best = 0.0
    for _, server in part.servers(mode):
        clock.check()
        best = max(best, serve.most_rps_per_gpu(server, part.targets))
    return best
