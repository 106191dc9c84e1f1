"""The second path: latencies of a deployment from its plan alone.

Nothing of the options or of the solver enters here: layouts, batches and rates are read from the plan's fields, the
cost model is asked again, and the requests in flight are found from the served rate by Little's law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.costs.afd import AfdUnit
from planner.costs.layout import Layout
from planner.costs.site import Site
from planner.costs.worker import Worker
from planner.options.server import AfdServer, Server, WorkerServer
from planner.running import DecodeRun, PrefillRun, ServeRun, exposed_ms
from planner.space import ServiceSpace
from specs.plan import PoolPlan, Role
from specs.service import Phase


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


@dataclass(frozen=True, eq=False)
class _One:
    """One server at its rate; `role` MIXED for whatever serves whole requests, whose `run` is not needed again."""

    role: Role
    ttft_ms: float
    tpot_ms: float
    utilisation: float
    slots: float
    occupied: float
    run: PrefillRun | DecodeRun | None = None


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
    chunks = max(1, round(pool.batch * worker.site.lengths.input / pool.chunk_tokens))
    run = PrefillRun(worker, space.targets, pool.batch, chunks)
    rate = np.asarray(load.rate_rps)
    return _One(
        Role.PREFILL,
        float(run.ttft_ms(rate)),
        0.0,
        float(run.busy(rate)),
        slots=pool.batch,
        occupied=load.rate_rps * run.time_ms * 1e-3,
        run=run,
    )


def _decode(space: ServiceSpace, load: Load, server: Server, pool: PoolPlan) -> _One:
    run = DecodeRun(server, space.targets, pool.batch)
    mean = run.mean(load.rate_rps)
    flight = np.full((1, 1), mean)
    return _One(
        Role.DECODE,
        float(run.first_ms(flight)[0, 0]),
        float(run.tpot_ms(flight)[0, 0]),
        mean / pool.batch,
        slots=pool.batch * run.copies,
        occupied=mean * run.copies,
        run=run,
    )


def _serve(space: ServiceSpace, load: Load, server: Server, pool: PoolPlan) -> _One:
    per_lane = pool.chunk_tokens if len(load.pools) > 1 else pool.chunk_tokens / int(server.lanes[0])
    chunks = max(1, round(server.site.lengths.input / per_lane))
    run = ServeRun(server, space.targets, pool.batch, chunks, space.prefix_load_ms(server))
    mean = run.mean(load.rate_rps)
    ttft, tpot = run.latencies_ms(np.full((1, 1), mean), np.full((1, 1), load.rate_rps))
    return _One(
        Role.MIXED,
        float(ttft[0, 0]),
        float(tpot[0, 0]),
        mean / pool.batch,
        slots=pool.batch * run.copies,
        occupied=mean * run.copies,
    )


def _handed_over(space: ServiceSpace, prefill: _One, decode: _One) -> float:
    """TTFT of one path: wait, prefill, exposed transfer, decode part."""
    assert isinstance(prefill.run, PrefillRun)
    assert isinstance(decode.run, DecodeRun)
    return prefill.ttft_ms + exposed_ms(space.transfer(), prefill.run, decode.run) + decode.ttft_ms
