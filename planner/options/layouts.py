"""Every layout that an engine can launch on a pool."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from planner.costs.afd import AfdUnit
from planner.costs.layout import Layout
from planner.costs.site import Site
from planner.options.server import AfdServer
from specs.model import DenseFfn, FactoredAttention, LatentAttention, LinearAttention, MoeFfn, SoftmaxAttention

IntArray = NDArray[np.int64]

TENSOR_DEGREES = (1, 2, 4, 8, 16)
PIPELINE_DEGREES = (1, 2, 3, 4, 8)
"""Pipeline stages of prefill workers, whose chunks follow one another through them."""

DECODING_PIPELINE_DEGREES = (1, 2, 4)
"""Pipeline stages of workers that decode: a token passes all stages, so that deep pipelines never pay for it."""

WIDEST_EXPERT_PARALLELISM = 320
LARGEST_UNIT = 320
"""GPUs of one AFD unit, attention and FFN together."""

MOST_REDUNDANCY = 1.5
"""Expert slots over experts: engines allow some redundant copies; more than half again is not worth its memory."""
MICROBATCHES = (1, 2, 3, 4)


def heads_divide(site: Site, tp: int) -> bool:
    """Whether the attention heads of every layer divide over `tp` ranks."""
    for group in site.model.layers:
        attention = group.attention
        match attention:
            case SoftmaxAttention() | FactoredAttention():
                kv = attention.kv_heads
                if attention.heads % tp or (kv % tp and tp % kv):
                    return False
            case LatentAttention():
                if attention.heads % tp:
                    return False
            case LinearAttention() | None:
                pass
    return True


def widths_divide(site: Site, tp: int, moe_tp: int) -> bool:
    """Whether FFN widths divide over their ranks."""
    for group in site.model.layers:
        if isinstance(group.ffn, DenseFfn) and group.ffn.intermediate % tp:
            return False
        if isinstance(group.ffn, MoeFfn) and group.ffn.intermediate % moe_tp:
            return False
    return True


def fits_domains(site: Site, gpus: int) -> bool:
    """Whether a worker of `gpus` GPUs divides a node or fills whole nodes, and a domain or whole domains."""
    node, domain, count = site.pool.gpus_per_node, site.pool.scale_up_domain, site.pool.count
    if gpus > count:
        return False
    if gpus <= node:
        return node % gpus == 0
    return gpus % node == 0 and (gpus <= domain or gpus % domain == 0)


def expert_slots(experts: int, ep: int) -> int | None:
    """Expert slots over `ep` ranks: the experts where they divide, else rounded up to equal ranks; None if too many."""
    slots = math.ceil(experts / ep) * ep
    return slots if slots <= MOST_REDUNDANCY * experts else None


def worker_sizes(site: Site) -> list[int]:
    """GPU counts of one pipeline stage of a worker, ascending."""
    node = site.pool.gpus_per_node
    limit = min(site.pool.count, WIDEST_EXPERT_PARALLELISM)
    if site.service.limits.max_gpus_per_replica:
        limit = min(limit, site.service.limits.max_gpus_per_replica)
    sizes = {size for size in (1, 2, 4, 8, 16, 32) if size <= node} | set(range(node, limit + 1, node))
    return sorted(size for size in sizes if size <= limit and fits_domains(site, size))


def layouts(site: Site, rejected: Counter[str]) -> Iterator[Layout]:
    """Layouts of colocated workers, whatever their memory; what cannot be launched is counted in `rejected`.

    Two-batch overlap stands beside every layout that exchanges tokens between ranks, so that no mode is denied what
    AFD gets.
    """
    for size in worker_sizes(site):
        for tp in TENSOR_DEGREES:
            if size % tp or tp > site.pool.scale_up_domain:
                continue
            if not _allowed(site.service.limits.tp, tp):
                rejected["tensor parallelism outside the service's limits"] += 1
                continue
            if not heads_divide(site, tp):
                rejected["attention heads do not divide over TP"] += 1
                continue
            yield from _stages(site, tp, size // tp, rejected)


def _stages(site: Site, tp: int, dp: int, rejected: Counter[str]) -> Iterator[Layout]:
    moe = site.moe
    if dp > 1 and moe is None:
        return  # data parallelism of a dense model is more replicas
    if dp > 1 and tp > 1 and not site.engine.data_parallel_tensor_parallel:
        rejected["the engine cannot combine attention DP with TP"] += 1
        return
    for pp in PIPELINE_DEGREES:
        if pp > 1 and (not fits_domains(site, tp * dp * pp) or site.model.layer_count < 2 * pp):
            continue
        limit = site.service.limits.max_gpus_per_replica
        if limit and tp * dp * pp > limit:
            continue
        if moe is None:
            if widths_divide(site, tp, 1):
                yield Layout(tp, 1, 1, tp, pp)
            else:
                rejected["FFN width does not divide over TP"] += 1
            continue
        for moe_tp in TENSOR_DEGREES:
            if (tp * dp) % moe_tp == 0:
                yield from _experts(site, tp, dp, pp, moe_tp, moe, rejected)


def _experts(
    site: Site, tp: int, dp: int, pp: int, moe_tp: int, moe: MoeFfn, rejected: Counter[str]
) -> Iterator[Layout]:
    ranks = tp * dp
    ep = ranks // moe_tp
    if not _allowed(site.service.limits.ep, ep):
        rejected["expert parallelism outside the service's limits"] += 1
        return
    if moe_tp > 1 and ep > 1 and dp > 1:
        return  # engines shard experts either by EP or by TP once attention is data-parallel
    if ep == 1 and ranks > site.pool.scale_up_domain:
        return  # every token would visit every rank across domains
    slots = expert_slots(moe.experts, ep)
    if slots is None:
        rejected["experts do not divide over EP"] += 1
        return
    if not widths_divide(site, tp, moe_tp):
        rejected["FFN width does not divide over TP"] += 1
        return
    yield Layout(tp, dp, ep, moe_tp, pp, slots)
    if dp > 1 and pp == 1:
        yield Layout(tp, dp, ep, moe_tp, pp, slots, overlap=True)


def _allowed(limit: tuple[int, ...] | None, degree: int) -> bool:
    return limit is None or degree in limit


def afd_units(attention_site: Site, ffn_site: Site, rejected: Counter[str]) -> Iterator[AfdServer]:
    """AFD units: every integer number of attention replicas that fits x every FFN replica x 1 to 4 micro-batches.

    Inside one pool a unit either lies in one scale-up domain or its attention replicas and its FFN replica are placed
    freely and exchange activations at scale-out speed; across pools only the latter. A unit in a domain of several
    nodes fills whole nodes. Experts are sharded (moe_tp)
    only where their number does not divide over the FFN GPUs.
    """
    moe = attention_site.moe
    if moe is None:
        rejected["a dense model has no experts to disaggregate"] += 1
        return
    limits = attention_site.service.limits
    for size in worker_sizes(ffn_site):
        for ep, moe_tp, slots in _expert_shards(ffn_site, size, moe, rejected):
            for tp in TENSOR_DEGREES:
                if not _allowed(limits.tp, tp) or not heads_divide(attention_site, tp):
                    continue
                if tp > attention_site.pool.scale_up_domain or not fits_domains(attention_site, tp):
                    continue
                if not widths_divide(attention_site, tp, 1):
                    continue
                for scale_up in (True, False):
                    room = _attention_gpus(attention_site, ffn_site, size, scale_up=scale_up)
                    if room < tp:
                        continue
                    unit = AfdUnit(attention_site, ffn_site, tp, ep, moe_tp, slots, scale_up)
                    counts = np.arange(1, room // tp + 1)
                    if scale_up:
                        counts = counts[_one_block(ffn_site, counts * tp + size)]
                    copies, microbatches = np.meshgrid(counts, np.array(MICROBATCHES))
                    if copies.size:
                        yield AfdServer(unit, copies.ravel(), microbatches.ravel())


def _one_block(site: Site, gpus: IntArray) -> NDArray[np.bool_]:
    """Whether units of `gpus` GPUs lie in one node or fill whole nodes of their domain."""
    node = site.pool.gpus_per_node
    return np.asarray((gpus <= node) | (gpus % node == 0))


def _expert_shards(site: Site, size: int, moe: MoeFfn, rejected: Counter[str]) -> Iterator[tuple[int, int, int]]:
    """(ep, moe_tp, expert slots) of FFN replicas of `size` GPUs."""
    for moe_tp in TENSOR_DEGREES:
        if size % moe_tp or moe_tp > site.pool.gpus_per_node:
            continue
        ep = size // moe_tp
        if moe_tp > 1 and moe.experts % size == 0:
            continue
        slots = expert_slots(moe.experts, ep)
        if slots is None or not _allowed(site.service.limits.ep, ep) or moe.intermediate % moe_tp:
            rejected["experts do not divide over EP"] += 1
            continue
        yield ep, moe_tp, slots


def _attention_gpus(attention_site: Site, ffn_site: Site, ffn_gpus: int, *, scale_up: bool) -> int:
    """GPUs that are left for the attention replicas of a unit."""
    same = attention_site.pool.name == ffn_site.pool.name
    if scale_up:
        domain = min(ffn_site.pool.scale_up_domain, ffn_site.pool.count)
        room = domain - ffn_gpus if same else 0
    else:
        room = attention_site.pool.count - (ffn_gpus if same else 0)
    limit = min(LARGEST_UNIT, attention_site.service.limits.max_gpus_per_replica or LARGEST_UNIT)
    return min(room, limit - ffn_gpus)
