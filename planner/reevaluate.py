"""The second path: latencies of a deployment from its plan alone.

Nothing of the options or of the solver enters here: layouts, batches and rates are read from the plan's fields, the
cost model is asked again, and the requests in flight are found from the served rate by Little's law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from planner.costs.afd import AfdUnit
from planner.costs.layout import Layout
from planner.costs.queueing import prefill_wait_ms
from planner.costs.site import Site
from planner.costs.worker import Worker
from planner.options.serve import Rates
from planner.options.server import AfdServer, Server, WorkerServer
from planner.options.times import DecodeTimes
from planner.space import ServiceSpace
from specs.plan import PoolPlan, Role
from specs.service import Phase

BISECTIONS = 60


@dataclass(frozen=True)
class Load:
    """One kind of server of a deployment.

    Args:
        pools: its pools in the plan: one, or attention and FFN.
        servers: workers or units.
        rate_rps: requests/s of one of them.
    """

    pools: tuple[PoolPlan, ...]
    servers: int
    rate_rps: float


@dataclass(frozen=True)
class Latency:
    """What the requests of one deployment see, at the SLO's statistic.

    Args:
        ttft_ms: None where the phase has none.
        tpot_ms: None where the phase, or one output token, has none.
        utilisation: per load, the share of its capacity in use.
        slots: requests that all replicas are configured for.
        occupied: mean requests in flight by Little's law, without queueing.
    """

    ttft_ms: float | None
    tpot_ms: float | None
    utilisation: tuple[float, ...]
    slots: float
    occupied: float


def worker_of(pool: PoolPlan, sites: Sequence[Site]) -> Worker:
    """The worker that a plan's pool describes."""
    site = _site(pool.gpu_pool, sites)
    overlap = pool.microbatches == 2 * pool.pp
    layout = Layout(pool.tp, pool.dp, pool.ep, pool.moe_tp, pool.pp, pool.expert_slots, overlap)
    return Worker(site, layout)


def server_of(pools: Sequence[PoolPlan], sites: Sequence[Site]) -> Server:
    """The server that a worker's pool, or the pools of an AFD unit, describe."""
    if len(pools) == 1:
        return WorkerServer(worker_of(pools[0], sites))
    attention = next(pool for pool in pools if pool.role is Role.ATTENTION)
    ffn = next(pool for pool in pools if pool.role is Role.FFN)
    units = attention.units or 1
    copies = attention.replicas // units
    near, far = _site(attention.gpu_pool, sites), _site(ffn.gpu_pool, sites)
    gpus = copies * attention.gpus_per_replica + ffn.gpus_per_replica
    scale_up = near is far and gpus <= near.pool.scale_up_domain and _one_block(near, gpus)
    unit = AfdUnit(near, far, attention.tp, ffn.ep, ffn.moe_tp, ffn.expert_slots, scale_up)
    return AfdServer(unit, np.array([copies]), np.array([attention.microbatches]))


def _one_block(site: Site, gpus: int) -> bool:
    return gpus <= site.pool.gpus_per_node or gpus % site.pool.gpus_per_node == 0


def _site(name: str, sites: Sequence[Site]) -> Site:
    return next(site for site in sites if site.pool.name == name)


def evaluate(space: ServiceSpace, loads: Sequence[Load]) -> Latency:
    """Latencies of a deployment, the worst over its paths.

    Args:
        space: the service on its pools (sites and targets; its options are not looked at).
        loads: the kinds of servers of the deployment with their rates.
    """
    results = [_one(space, load) for load in loads]
    prefill = [result for result in results if result.role is Role.PREFILL]
    decode = [result for result in results if result.role is Role.DECODE]
    serve = [result for result in results if result.role is Role.MIXED]
    ttft: float | None
    if serve:
        ttft = max(result.ttft_ms for result in serve)
    elif prefill and decode:
        ttft = max(_handed_over(space, p, d) for p in prefill for d in decode)
    else:
        ttft = max((result.ttft_ms for result in prefill), default=None)
    tpot = max((result.tpot_ms for result in [*serve, *decode]), default=None)
    if space.sites[0].lengths.decode_tokens == 0 or space.service.phase is Phase.PREFILL:
        tpot = None
    return Latency(
        ttft_ms=ttft,
        tpot_ms=tpot,
        utilisation=tuple(result.utilisation for result in results),
        slots=sum(result.slots * load.servers for result, load in zip(results, loads, strict=True)),
        occupied=sum(result.occupied * load.servers for result, load in zip(results, loads, strict=True)),
    )


@dataclass(frozen=True)
class _One:
    """One server at its rate; `role` MIXED for whatever serves whole requests."""

    role: Role
    ttft_ms: float
    tpot_ms: float
    utilisation: float
    slots: float
    occupied: float
    prefill_ms: float = 0.0
    wait_ms: float = 0.0
    chunks: int = 1
    on_rank: int = 1
    link_bytes_per_ms: float = 0.0


def _one(space: ServiceSpace, load: Load) -> _One:
    role = load.pools[0].role
    if role is Role.PREFILL:
        return _prefill(space, load)
    server = server_of(load.pools, space.sites)
    lead = next(pool for pool in load.pools if pool.role is not Role.FFN)
    if lead.chunk_tokens == 0:
        return _decode(space, load, server, lead)
    return _serve(space, load, server, lead)


def _prefill(space: ServiceSpace, load: Load) -> _One:
    (pool,) = load.pools
    worker = worker_of(pool, space.sites)
    lengths = worker.site.lengths
    chunks = max(1, round(pool.batch * lengths.input / pool.chunk_tokens))
    time = float(worker.prefill_ms(float(pool.batch), chunks))
    busy = load.rate_rps * time * 1e-3 / pool.batch
    wait = float(
        prefill_wait_ms(min(busy, 1 - 1e-9), pool.batch, time, space.targets.queue_cv, space.targets.statistic)
    )
    link = pool.tp * pool.pp * worker.site.fabric.scale_out_bytes_per_ms
    return _One(
        Role.PREFILL,
        wait + time,
        0.0,
        busy,
        slots=pool.batch,
        occupied=load.rate_rps * time * 1e-3,
        prefill_ms=time,
        wait_ms=wait,
        chunks=chunks,
        on_rank=math.ceil(pool.batch / pool.dp),
        link_bytes_per_ms=link,
    )


def _decode(space: ServiceSpace, load: Load, server: Server, pool: PoolPlan) -> _One:
    times = DecodeTimes(server, space.targets)
    slots = np.full((1, 1), float(pool.batch))
    copies = int(server.copies[0])
    per_replica = load.rate_rps * 1e-3 / copies
    mean = _in_flight(lambda m: per_replica * float(times.stay_ms(slots, np.full((1, 1), m))[0, 0]), pool.batch)
    flight = np.full((1, 1), mean)
    link = server.links * server.site.fabric.scale_out_bytes_per_ms
    return _One(
        Role.DECODE,
        float(times.first_ms(slots, flight)[0, 0]),
        float(times.tpot_ms(slots, flight)[0, 0]),
        mean / pool.batch,
        slots=pool.batch * copies,
        occupied=mean * copies,
        link_bytes_per_ms=link,
    )


def _serve(space: ServiceSpace, load: Load, server: Server, pool: PoolPlan) -> _One:
    targets, lengths = space.targets, server.site.lengths
    lanes, copies = int(server.lanes[0]), int(server.copies[0])
    per_lane = pool.chunk_tokens if len(load.pools) > 1 else pool.chunk_tokens / lanes
    chunks = max(1, round(lengths.input / per_lane))
    rates = Rates(server, targets, np.array([chunks]), space.prefix_load_ms(server))
    slots = np.full((1, 1), float(pool.batch))
    rate = np.full((1, 1), load.rate_rps * 1e-3)
    times = DecodeTimes(server, targets)

    def carried(mean: float) -> float:
        mix = rates.mix(np.full((1, 1), mean), slots)
        return float(mix.in_flight(rate, rates.decode_steps)[0, 0]) / copies

    mean = _in_flight(carried, pool.batch)
    mix = rates.mix(times.seen(slots, np.full((1, 1), mean)), slots)
    mixed = mix.at(rate)
    return _One(
        Role.MIXED,
        float(rates.ttft_ms(mixed, mix, slots)[0, 0]),
        float(rates.tpot_ms(mixed, mix)[0, 0]),
        mean / pool.batch,
        slots=pool.batch * copies,
        occupied=mean * copies,
    )


def _in_flight(carried: Callable[[float], float], slots: float) -> float:
    """Mean in flight m with m = rate x stay(m), by bisection on [0, slots]; slots where the rate asks for more."""
    low, high = 0.0, float(slots)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if carried(middle) > middle else (low, middle)
    return high


def _handed_over(space: ServiceSpace, prefill: _One, decode: _One) -> float:
    """TTFT of one path: wait, prefill, exposed transfer, decode part."""
    transfer = space.transfer()
    exposed = 0.0
    if transfer.bytes_per_request > 0:
        link = min(prefill.link_bytes_per_ms, decode.link_bytes_per_ms)
        exposed = float(
            transfer.exposed_ms(
                np.array(float(prefill.on_rank)), link, np.array(prefill.chunks), np.array(prefill.prefill_ms)
            )
        )
    return prefill.ttft_ms + exposed + decode.ttft_ms
