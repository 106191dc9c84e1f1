"""Pools of workers as plans and predictions write them down."""

from __future__ import annotations

import math

from planner.costs.worker import Worker
from specs.plan import PoolPlan, Role


def worker_pool(worker: Worker, role: Role, replicas: int, slots: int, chunks: int) -> PoolPlan:
    """The pool of equal workers, busy all the time.

    Args:
        worker: one of them.
        role: of the pool.
        replicas: workers.
        slots: most requests in flight on one replica; prompts that start together, of a prefill pool.
        chunks: equal chunks of one prompt; 0 where the pool computes none.
    """
    layout, site = worker.layout, worker.site
    prompts = slots if role is Role.PREFILL else layout.dp
    return PoolPlan(
        role=role,
        gpu_pool=site.pool.name,
        replicas=replicas,
        gpus_per_replica=layout.gpus,
        tp=layout.tp,
        dp=layout.dp,
        ep=layout.ep,
        moe_tp=layout.moe_tp,
        pp=layout.pp,
        expert_slots=layout.expert_slots,
        batch=slots,
        chunk_tokens=math.ceil(prompts * site.lengths.input / chunks) if chunks else 0,
        microbatches=layout.pp * (2 if layout.overlap else 1),
        utilisation=1.0,
    )
