"""Layouts by trying every degree against the rules, one rule a line."""

from __future__ import annotations

import math
from itertools import product

from planner.costs.layout import AfdLayout, Layout
from planner.costs.site import Site
from specs.model import DenseFfn, LatentAttention, SoftmaxAttention

TENSOR = (1, 2, 4, 8, 16)


def placeable(site: Site, gpus: int) -> bool:
    """A divisor of a node, or whole nodes of one domain, or whole domains."""
    pool = site.pool
    whole_nodes = gpus % pool.gpus_per_node == 0
    inside = whole_nodes and gpus <= pool.scale_up_domain
    domains = whole_nodes and gpus % pool.scale_up_domain == 0
    return gpus <= pool.count and (pool.gpus_per_node % gpus == 0 or inside or domains)


def size(site: Site, gpus: int) -> bool:
    """A size that workers and FFN replicas have: a power of two inside a node, whole nodes beyond."""
    limit = site.service.limits.max_gpus_per_replica or gpus
    power = gpus & (gpus - 1) == 0 or gpus % site.pool.gpus_per_node == 0
    return placeable(site, gpus) and power and gpus <= min(limit, 320)


def heads(site: Site, tp: int) -> bool:
    for group in site.model.layers:
        attention = group.attention
        if isinstance(attention, SoftmaxAttention | LatentAttention) and attention.heads % tp:
            return False
        if isinstance(attention, SoftmaxAttention) and attention.kv_heads % tp and tp % attention.kv_heads:
            return False
    return True


def dense_widths(site: Site, tp: int) -> bool:
    return all(g.ffn.intermediate % tp == 0 for g in site.model.layers if isinstance(g.ffn, DenseFfn))


def slots(experts: int, ep: int) -> int:
    """Every rank has as many slots, and all experts have one."""
    return math.ceil(experts / ep) * ep


def allowed(site: Site, tp: int, ep: int | None) -> bool:
    limits = site.service.limits
    return (limits.tp is None or tp in limits.tp) and (ep is None or limits.ep is None or ep in limits.ep)


def naive_layouts(site: Site) -> set[Layout]:
    """Colocated workers of a model with softmax or latent attention."""
    result = set()
    moe, limit = site.moe, site.service.limits.max_gpus_per_replica or site.pool.count
    for tp, dp, pp, moe_tp in product(TENSOR, range(1, site.pool.count + 1), (1, 2, 3, 4, 8), TENSOR):
        ranks = tp * dp
        good = size(site, ranks) and placeable(site, ranks * pp) and ranks * pp <= limit
        good &= tp <= site.pool.scale_up_domain and heads(site, tp) and dense_widths(site, tp)
        good &= pp == 1 or site.model.layer_count >= 2 * pp
        if not good or not allowed(site, tp, None):
            continue
        if moe is None:
            if dp == 1:
                result.add(Layout(tp, 1, 1, tp, pp))
            continue
        ep, rest = divmod(ranks, moe_tp)
        good = rest == 0 and moe.intermediate % moe_tp == 0 and slots(moe.experts, ep or 1) <= 1.5 * moe.experts
        good = good and allowed(site, tp, ep)
        good &= not (dp > 1 and tp > 1) or site.engine.data_parallel_tensor_parallel
        good &= not (dp > 1 and moe_tp > 1 and ep > 1)
        good &= ep != 1 or ranks <= site.pool.scale_up_domain
        if good:
            result |= {
                Layout(tp, dp, ep, moe_tp, pp, slots(moe.experts, ep), overlap)
                for overlap in (False, dp > 1 and pp == 1)
            }
    return result


def naive_afd_units(near: Site, far: Site) -> set[AfdLayout]:
    """AFD units of two pools, or of one."""
    result: set[AfdLayout] = set()
    moe, same = near.moe, near.pool.name == far.pool.name
    if moe is None:
        return result
    for tp, ep, moe_tp in product(TENSOR, range(1, far.pool.count + 1), TENSOR):
        ffn = ep * moe_tp
        good = size(far, ffn) and placeable(near, tp) and heads(near, tp) and dense_widths(near, tp)
        good &= moe.intermediate % moe_tp == 0 and moe_tp <= far.pool.gpus_per_node
        good &= moe_tp == 1 or moe.experts % ffn != 0
        good &= slots(moe.experts, ep) <= 1.5 * moe.experts and allowed(near, tp, ep)
        good &= tp <= near.pool.scale_up_domain
        if not good:
            continue
        limit = near.service.limits.max_gpus_per_replica or 10**9
        for replicas, batches in product(range(1, near.pool.count // tp + 1), (1, 2, 3, 4)):
            gpus = tp * replicas + ffn
            unit = (tp, replicas, ep, moe_tp, slots(moe.experts, ep), batches)
            if gpus > limit:
                continue
            if tp * replicas + (ffn if same else 0) <= near.pool.count:
                result.add(AfdLayout(*unit, scale_up=False))
            node, domain = far.pool.gpus_per_node, far.pool.scale_up_domain
            if same and gpus <= domain and (gpus <= node or gpus % node == 0):
                result.add(AfdLayout(*unit, scale_up=True))
    return result
