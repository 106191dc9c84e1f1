"""Launches put together by hand, for layouts that no quickly planned example has."""

from pathlib import Path
from typing import Any

from planner.launch.component import Launch, launch
from specs.plan import Plan, PoolPlan, Role
from specs.scenario import Pool
from specs.service import Engine, Mode
from tests.launch.plans import plan_of, unit, worker

CONFIG = Path(__file__).parent.parent / "specs" / "configs" / "deepseek-v3.json"


def stages(replicas: int, tp: int, pp: int, role: Role = Role.PREFILL, pool: str = "b200") -> PoolPlan:
    """Replicas of pipeline stages that are each as wide as a node."""
    return PoolPlan(
        role=role,
        gpu_pool=pool,
        replicas=replicas,
        gpus_per_replica=tp * pp,
        tp=tp,
        pp=pp,
        ep=tp,
        expert_slots=128,
        batch=8,
        chunk_tokens=1024 if role is not Role.DECODE else 0,
        microbatches=pp,
        utilisation=0.5,
    )


def spread(replicas: int, dp: int, role: Role = Role.DECODE, pool: str = "b200") -> PoolPlan:
    """Replicas of one data-parallel rank per GPU, experts over all of them."""
    return PoolPlan(
        role=role,
        gpu_pool=pool,
        replicas=replicas,
        gpus_per_replica=dp,
        dp=dp,
        ep=dp,
        expert_slots=128,
        batch=8 * dp,
        chunk_tokens=0 if role is Role.DECODE else 1024 * dp,
        utilisation=0.5,
    )


def deep(engine: Engine = Engine.VLLM, **fields: Any) -> Launch:
    """P/D: prefill in eight stages over eight nodes, decode on single nodes."""
    return launch(
        plan_of((stages(1, 8, 8), worker(3, 8, Role.DECODE, "b200")), mode=Mode.PREFILL_DECODE, engine=engine, **fields)
    )


def wide(engine: Engine = Engine.VLLM, **fields: Any) -> Launch:
    """P/D: two decode instances, each over four nodes, one rank per GPU."""
    return launch(
        plan_of((spread(2, 8, Role.PREFILL), spread(2, 32)), mode=Mode.PREFILL_DECODE, engine=engine, **fields)
    )


def twins(engine: Engine = Engine.VLLM) -> Launch:
    """Aggregated on two pools of the same GPU."""
    pools = (Pool(name="east", gpu="h200", count=16), Pool(name="west", gpu="h200", count=16))
    return launch(plan_of((worker(2, 8, pool="east"), worker(4, 4, pool="west")), cluster=pools, engine=engine))


def rack(engine: Engine = Engine.VLLM) -> Launch:
    """Decode alone, instances over the nodes of a rack-wide scale-up domain."""
    pool = Pool(name="rack", gpu="gb200", count=72)
    return launch(plan_of((spread(1, 16, pool="rack"),), cluster=(pool,), engine=engine, phase="decode"))


def twin_sides() -> Launch:
    """P/D on two pools of the same GPU."""
    pools = (Pool(name="east", gpu="h200", count=16), Pool(name="west", gpu="h200", count=16))
    sides = (worker(2, 8, Role.PREFILL, "east"), worker(2, 8, Role.DECODE, "west"))
    return launch(plan_of(sides, mode=Mode.PREFILL_DECODE, cluster=pools))


def two_modes() -> Plan:
    """An AFD service beside an aggregated one, on one engine."""
    pools = (Pool(name="h100", gpu="h100", count=32),)
    parts = (
        plan_of(unit(1, 8, 8), mode=Mode.AFD, cluster=pools, services=("units",), phase="decode"),
        plan_of((worker(2, 8),), cluster=pools, services=("chat",)),
    )
    first, second = (part.model_dump(by_alias=True, mode="json") for part in parts)
    first["services"] += second["services"]
    first["scenario"]["services"] += second["scenario"]["services"]
    total = {
        "gpus_used": {"h100": 32},
        "gpus_idle": {"h100": 0},
        "cost_per_hour": first["cost_per_hour"] + second["cost_per_hour"],
        "certificate": {"incumbent": 400.0, "bound": 400.0, "gap": 0.0},
    }
    return Plan.model_validate(first | total)


def single() -> Launch:
    """One instance on one node."""
    return launch(plan_of((worker(1, 4),)))


def units(count: int = 2, engine: Engine = Engine.VLLM) -> Launch:
    """AFD: units of 16 attention GPUs over two nodes and 8 FFN GPUs."""
    return launch(plan_of(unit(count, 16, 8), mode=Mode.AFD, engine=engine))


def units_behind_prefill() -> Launch:
    """P/D: three prefill instances, and AFD units as their decode side."""
    pools = (worker(3, 4, Role.PREFILL), *unit(2, 4, 4))
    return launch(plan_of(pools, mode=Mode.PREFILL_DECODE_AFD))


def hostile(folder: Path) -> str:
    """A model whose name means something to shells, to Kubernetes, to Helm and to YAML."""
    config = folder / "$(HF_TOKEN) $$ '\"; touch x #{{ .Values }}" / "config.json"
    config.parent.mkdir()
    config.write_text(CONFIG.read_text())
    return str(config.parent)
