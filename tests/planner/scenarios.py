"""Small scenarios of catalogue models, each solved within half a second or so, and figures recomputed from plans."""

from collections.abc import Sequence
from typing import Any

from specs.objective import Objective
from specs.plan import Plan
from specs.scenario import SCENARIO_SCHEMA, Cluster, Pool, Scenario
from specs.service import Mode, Service, Slo
from specs.workload import Workload

MOE = "Qwen/Qwen3-30B-A3B"
DENSE = "meta-llama/Llama-3.1-8B"
COLOCATED = (Mode.AGGREGATED, Mode.PREFILL_DECODE)
ROUNDING = 1e-6


def service(name: str = "chat", **changes: Any) -> Service:
    """A chat service, whatever engines launch; `changes` are fields of the service, its workload or its SLO."""
    workload: dict[str, Any] = {"input_tokens": 1024, "output_tokens": 256, "prefix_tokens": 0}
    slo: dict[str, Any] = {"ttft_ms": 300.0, "tpot_ms": 20.0}
    fields: dict[str, Any] = {"model": DENSE, "modes": COLOCATED, "launchable": False}
    for key, value in changes.items():
        for part in (workload, slo):
            if key in part or (part is slo and key == "statistic"):
                part[key] = value
                break
        else:
            fields[key] = value
    return Service(name=name, workload=Workload(**workload), slo=Slo(**slo), **fields)


def scenario(*services: Service, objective: Objective | None = None, **pool: Any) -> Scenario:
    """Services on 8 H100 GPUs; further arguments are fields of the pool."""
    given = {"name": "h100", "gpu": "h100-sxm-80gb", "count": 8, **pool}
    return Scenario(
        schema=SCENARIO_SCHEMA,
        cluster=Cluster(pools=(Pool(**given),)),
        services=services or (service(),),
        objective=objective or Objective(maximize="throughput"),
    )


def incumbent(plan: Plan) -> float:
    assert plan.certificate.incumbent is not None
    return plan.certificate.incumbent


def bound(plan: Plan) -> float:
    assert plan.certificate.bound is not None
    return plan.certificate.bound


def only(modes: Sequence[Mode], base: Scenario) -> Scenario:
    """The same scenario with its services restricted to some modes."""
    services = tuple(each.model_copy(update={"modes": tuple(modes)}) for each in base.services)
    return base.model_copy(update={"services": services})
