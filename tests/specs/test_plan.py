import copy
from typing import Any

import pytest
from pydantic import ValidationError

from specs.plan import Plan, PoolPlan

PREFILL = {
    "role": "prefill", "gpu_pool": "b200", "replicas": 4, "gpus_per_replica": 8, "tp": 2, "dp": 4, "ep": 8,
    "batch": 4, "chunk_tokens": 16384, "utilisation": 0.7,
}  # fmt: skip
ATTENTION = {
    "role": "attention", "gpu_pool": "b200", "replicas": 6, "gpus_per_replica": 4, "tp": 4,
    "batch": 64, "microbatches": 3, "utilisation": 1.0, "unit": "coding-0", "units": 2,
}  # fmt: skip
FFN = {
    "role": "ffn", "gpu_pool": "b200", "replicas": 2, "gpus_per_replica": 16, "ep": 16, "expert_slots": 256,
    "batch": 192, "microbatches": 3, "utilisation": 1.0, "unit": "coding-0", "units": 2,
}  # fmt: skip
PLAN: dict[str, Any] = {
    "schema": "cleave.plan/1",
    "status": "optimal",
    "objective": {"maximize": "throughput"},
    "certificate": {
        "incumbent": 4000.0, "bound": 4002.0, "gap": 0.0005, "gap_solver": 0.0005, "gap_discretisation": 0.0,
        "space": {"batches": "every integer", "tp": [1, 2, 4], "options": 336},
    },
    "services": [
        {
            "name": "coding", "mode": "prefill_decode_afd", "throughput_tok_s": 4000.0, "request_rate_rps": 4.0,
            "ttft_ms": 90.0, "tpot_ms": 14.0,
            "deployments": [
                {"mode": "prefill_decode_afd", "share": 1.0, "throughput_tok_s": 4000.0, "ttft_ms": 90.0,
                 "tpot_ms": 14.0, "binding": ["TTFT"], "pools": [PREFILL, ATTENTION, FFN]},
            ],
        },
    ],
    "gpus_used": {"b200": 88},
    "gpus_idle": {"b200": 40},
    "cost_per_hour": 343.2,
    "cost_per_million_tokens": 23.8,
    "power_kw": 123.0,
    "provenance": {"kernels": "analytic", "linearisation_error": 0.01, "versions": {"cleave": "0.1.0"}},
}  # fmt: skip


def changed(path: str, value: object) -> dict[str, Any]:
    """Return the plan with the value at a dotted path replaced."""
    plan = copy.deepcopy(PLAN)
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node: Any = plan
    for part in parts:
        node = node[part]
    node[last] = value
    return plan


def test_a_plan_survives_its_own_json() -> None:
    plan = Plan.model_validate(PLAN)
    assert Plan.model_validate_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("status", "best", "status"),
        ("status", "infeasible", "must be empty"),
        ("services", [], "must not be empty"),
        ("gpus_used", {"b200": 87}, "must be the GPUs of the deployments, 88"),
        ("gpus_used", {"b200": 88, "h200": 1}, "gpus_used.h200"),
        ("certificate.gap", 0.0, "gap"),
        ("certificate.bound", None, "bound: is required"),
        ("services.0.mode", "mixed", "prefill_decode_afd"),
        ("services.0.deployments.0.share", 0.5, "must sum to 1"),
        ("services.0.deployments.0.share", 0.0, "greater than 0"),
        ("services.0.deployments.0.mode", "aggregated", "has the roles"),
        ("services.0.deployments.0.pools", [PREFILL, ATTENTION], "has the roles"),
        ("services.0.deployments.0.pools.0.gpus_per_replica", 16, "tp x dp x pp = 8"),
        ("services.0.deployments.0.pools.0.ep", 4, "must be tp x dp = 8"),
        ("services.0.deployments.0.pools.0.unit", "coding-0", "must be left out"),
        ("services.0.deployments.0.pools.0.utilisation", 1.1, "less than or equal to 1"),
        ("services.0.deployments.0.pools.0.utilisation", 0, "greater than 0"),
        ("services.0.deployments.0.pools.1.replicas", 5, "multiple of units"),
        ("services.0.deployments.0.pools.1.units", 3, "must agree on units"),
        ("services.0.deployments.0.pools.1.unit", None, "is required for role attention"),
        ("services.0.deployments.0.pools.2.gpus_per_replica", 8, "ep x moe_tp x pp = 16"),
        ("services.0.deployments.0.pools.2.replicas", 4, "one ffn replica per unit"),
        ("services.0.deployments.0.pools.2.unit", "coding-1", "exactly one ffn pool"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Plan.model_validate(changed(path, value))


def test_pipeline_stages_multiply_the_gpus_of_either_side() -> None:
    attention = {**ATTENTION, "pp": 2, "gpus_per_replica": 8}
    ffn = {**FFN, "pp": 2, "moe_tp": 2, "ep": 8, "gpus_per_replica": 32}
    assert PoolPlan.model_validate(attention).gpus == 48
    assert PoolPlan.model_validate(ffn).gpus == 64


def test_an_infeasible_plan_has_no_services_and_an_explanation() -> None:
    plan = Plan.model_validate(
        {
            "schema": "cleave.plan/1",
            "status": "infeasible",
            "objective": {"minimize": "gpus"},
            "certificate": {"space": {}},
            "provenance": {"kernels": "analytic"},
            "explanation": {
                "relaxations": [
                    {"mode": "afd", "dimension": "tpot", "current": 15, "needed": 16.2, "unit": "ms", "confirmed": True}
                ],
                "rejected": {"memory": 12},
            },
        }
    )
    assert plan.services == ()
    assert plan.certificate.incumbent is None
    assert plan.explanation.relaxations[0].needed == 16.2


def test_gpus_used_is_the_peak_over_periods() -> None:
    night = {**PLAN["services"][0]["deployments"][0], "period": 1, "mode": "prefill_decode_afd"}
    night["pools"] = [{**PREFILL, "replicas": 1}, {**ATTENTION, "replicas": 2}, FFN]
    plan = changed("services.0.deployments", [PLAN["services"][0]["deployments"][0], night])
    assert Plan.model_validate(plan).gpus_used == {"b200": 88}


SCENARIO: dict[str, Any] = {
    "schema": "cleave.scenario/1",
    "cluster": {"pools": [{"name": "b200", "gpu": "b200", "count": 128, "cost_per_gpu_hour": 3.9}]},
    "services": [
        {"name": "coding", "model": "deepseek-ai/DeepSeek-V3.2", "slo": {"ttft_ms": 100, "tpot_ms": 15},
         "workload": {"input_tokens": 4000, "output_tokens": 1000}},
    ],
    "objective": {"maximize": "throughput"},
}  # fmt: skip


def test_a_plan_may_carry_its_scenario() -> None:
    plan = Plan.model_validate({**PLAN, "scenario": SCENARIO})
    assert plan.scenario is not None
    assert Plan.model_validate_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("cost_per_hour", 300.0, "must be the price of the GPUs used, 343.2"),
        ("gpus_idle", {"b200": 39}, "must be the pool's 128, got 88 \\+ 39"),
        ("gpus_idle", {"b200": 40, "h200": 8}, "unknown pool; the cluster has b200"),
        ("objective", {"minimize": "cost"}, "must be that of the scenario"),
        ("services.0.name", "chat", "must be those of the scenario in its order, coding; got chat"),
        ("services.0.throughput_tok_s", 4400.0, "must be that of its deployments, 4000"),
        ("certificate", {"incumbent": 5000.0, "bound": 5000.0, "gap": 0.0}, "must be the plan's throughput, 4000"),
    ],
)
def test_a_plan_that_contradicts_its_scenario_is_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Plan.model_validate({**changed(path, value), "scenario": SCENARIO})


def test_a_mode_that_the_service_does_not_allow_is_refused() -> None:
    scenario = copy.deepcopy(SCENARIO)
    scenario["services"][0]["modes"] = ["aggregated", "afd"]
    with pytest.raises(ValidationError, match="must be a mode of the service \\(aggregated, afd\\)"):
        Plan.model_validate({**PLAN, "scenario": scenario})
