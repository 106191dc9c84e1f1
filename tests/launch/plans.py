"""Plans put together by hand: any pools on any cluster, none of them solved for."""

from collections.abc import Sequence
from typing import Any

from specs.plan import PLAN_SCHEMA, Plan, PoolPlan, Role
from specs.scenario import Cluster, Pool, Scenario, resolve_pool
from specs.service import Engine, Mode, Service, Slo
from specs.workload import Workload

MODEL = "Qwen/Qwen3-30B-A3B"


def worker(replicas: int, gpus: int, role: Role = Role.MIXED, pool: str = "h100") -> PoolPlan:
    """Replicas that are tensor-parallel over all their GPUs."""
    return PoolPlan(
        role=role,
        gpu_pool=pool,
        replicas=replicas,
        gpus_per_replica=gpus,
        tp=gpus,
        moe_tp=gpus,
        batch=8,
        utilisation=1.0,
    )


def unit(
    units: int,
    attention: int,
    ffn: int,
    *,
    tp: int = 1,
    name: str = "unit-1",
    pools: tuple[str, str] = ("h100", "h100"),
) -> tuple[PoolPlan, PoolPlan]:
    """AFD units of `attention` replicas of `tp` GPUs and one FFN replica of `ffn` GPUs."""
    common: dict[str, Any] = {"batch": 8, "utilisation": 1.0, "microbatches": 2, "unit": name, "units": units}
    return (
        PoolPlan(
            role=Role.ATTENTION, gpu_pool=pools[0], replicas=units * attention, gpus_per_replica=tp, tp=tp, **common
        ),
        PoolPlan(
            role=Role.FFN, gpu_pool=pools[1], replicas=units, gpus_per_replica=ffn, ep=ffn, expert_slots=128, **common
        ),
    )


def plan_of(
    pools: Sequence[PoolPlan],
    *,
    mode: Mode = Mode.AGGREGATED,
    cluster: Sequence[Pool] = (),
    services: Sequence[str] = ("chat",),
    **service: Any,
) -> Plan:
    """A plan that deploys the same pools for every service.

    Args:
        pools: of one deployment.
        mode: its mode.
        cluster: by default one pool `h100` that just holds the plan, in whole nodes of 8.
        services: names.
        service: fields of every service.
    """
    used: dict[str, int] = {}
    for pool in pools:
        used[pool.gpu_pool] = used.get(pool.gpu_pool, 0) + pool.gpus * len(services)
    given = tuple(cluster) or tuple(Pool(name=name, gpu=name, count=-(-gpus // 8) * 8) for name, gpus in used.items())
    fields: dict[str, Any] = {
        "model": MODEL,
        "engine": Engine.VLLM,
        "workload": Workload(input_tokens=1000, output_tokens=200),
        "slo": Slo(ttft_ms=500.0, tpot_ms=50.0),
        **service,
    }
    scenario = Scenario(
        schema="cleave.scenario/1",
        cluster=Cluster(pools=given),
        services=tuple(Service(name=name, **fields) for name in services),
        objective={"maximize": "throughput"},
    )
    total = 200.0 * len(services)
    cost = sum(used.get(pool.name, 0) * resolve_pool(pool).cost_per_gpu_hour for pool in given)
    return Plan.model_validate(
        {
            "schema": PLAN_SCHEMA,
            "status": "optimal",
            "objective": {"maximize": "throughput"},
            "scenario": scenario.model_dump(by_alias=True),
            "certificate": {"incumbent": total, "bound": total, "gap": 0.0},
            "services": [
                {
                    "name": name,
                    "mode": mode,
                    "throughput_tok_s": 200.0,
                    "request_rate_rps": 1.0,
                    "deployments": [
                        {
                            "mode": mode,
                            "share": 1.0,
                            "throughput_tok_s": 200.0,
                            "pools": [pool.model_dump() for pool in pools],
                        }
                    ],
                }
                for name in services
            ],
            "gpus_used": {pool.name: used.get(pool.name, 0) for pool in given},
            "gpus_idle": {pool.name: pool.count - used.get(pool.name, 0) for pool in given},
            "cost_per_hour": cost,
            "provenance": {"kernels": "analytic"},
        }
    )
