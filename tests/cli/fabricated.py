"""Plans and comparisons that no planner made, for the tests of what is printed."""

from pathlib import Path
from typing import Any

from specs.comparison import Comparison
from specs.plan import Plan

SCENARIO = """\
schema: cleave.scenario/1
cluster:
  pools:
    - {name: b200, gpu: b200, count: 128}
services:
  - name: coding
    model: deepseek-ai/DeepSeek-V3.2
    workload: {input_tokens: 4000, output_tokens: 1000, prefix_tokens: 2000}
    slo: {ttft_ms: 100, tpot_ms: 15}
objective: {maximize: throughput}
"""

_PREFILL = {
    "role": "prefill", "gpu_pool": "b200", "replicas": 4, "gpus_per_replica": 8, "tp": 2, "dp": 4, "ep": 8,
    "batch": 4, "chunk_tokens": 16384, "utilisation": 0.713,
}  # fmt: skip
_ATTENTION = {
    "role": "attention", "gpu_pool": "b200", "replicas": 6, "gpus_per_replica": 4, "tp": 4,
    "batch": 64, "microbatches": 3, "utilisation": 1.0, "unit": "coding-0", "units": 2,
}  # fmt: skip
_FFN = {
    "role": "ffn", "gpu_pool": "b200", "replicas": 2, "gpus_per_replica": 16, "ep": 16, "expert_slots": 256,
    "batch": 192, "microbatches": 3, "utilisation": 1.0, "unit": "coding-0", "units": 2,
}  # fmt: skip
_DECODE = {
    "role": "decode", "gpu_pool": "b200", "replicas": 3, "gpus_per_replica": 16, "tp": 1, "dp": 16, "ep": 16,
    "batch": 256, "utilisation": 0.95,
}  # fmt: skip
_MIXED = {
    "role": "mixed", "gpu_pool": "b200", "replicas": 16, "gpus_per_replica": 8, "tp": 8, "ep": 8,
    "batch": 12, "chunk_tokens": 512, "utilisation": 0.5,
}  # fmt: skip

_POOLS: dict[str, list[dict[str, Any]]] = {
    "aggregated": [_MIXED],
    "prefill_decode": [_PREFILL, _DECODE],
    "prefill_decode_afd": [_PREFILL, _ATTENTION, _FFN],
}


def found_plan(
    mode: str = "prefill_decode_afd", tokens_s: float = 4321.0, tpot_ms: float = 14.25, status: str = "optimal"
) -> Plan:
    """Return a plan of one deployment."""
    pools = _POOLS[mode]
    gpus = sum(pool["replicas"] * pool["gpus_per_replica"] for pool in pools)
    timed = {"throughput_tok_s": tokens_s, "ttft_ms": 91.5, "tpot_ms": tpot_ms}
    return Plan.model_validate(
        {
            "schema": "cleave.plan/1",
            "status": status,
            "objective": {"maximize": "throughput"},
            "certificate": {
                "incumbent": tokens_s, "bound": tokens_s * 1.0005, "gap": 0.0005, "gap_solver": 0.0003,
                "gap_discretisation": 0.0002,
                "space": {"batches": "every whole number", "tp": [1, 2, 4], "options": 336},
            },
            "services": [
                {
                    "name": "coding", "mode": mode, "request_rate_rps": tokens_s / 1000, **timed,
                    "deployments": [
                        {"mode": mode, "share": 1.0, **timed, "binding": ["TTFT of prefill"], "pools": pools}
                    ],
                }
            ],
            "gpus_used": {"b200": gpus},
            "gpus_idle": {"b200": 128 - gpus},
            "cost_per_hour": 431.2,
            "cost_per_million_tokens": 27.72,
            "power_kw": 123.4,
            "provenance": {"kernels": "analytic", "seconds": {"options": 0.75, "solve": 0.5}},
            "explanation": {
                "binding": [{"what": "TTFT", "detail": "prefill of coding [4 replicas] takes all but 8.5 ms"}],
                "what_if": [
                    {"change": "8 more GPUs in b200", "objective_before": tokens_s, "objective_after": tokens_s * 1.1},
                    {"change": "TPOT of coding 1 ms tighter", "objective_before": tokens_s, "objective_after": None},
                ],
                "rejected": {"memory": 1234},
                "notes": ["speculative decoding is off"],
            },
        }
    )  # fmt: skip


_RELAXATIONS: list[dict[str, Any]] = [
    {"mode": "afd", "dimension": "tpot", "current": 15.0, "needed": 16.25, "unit": "ms", "confirmed": True},
    {"mode": "afd", "dimension": "network", "current": 50.0, "needed": None, "unit": "GB/s", "confirmed": False},
]


def missing_plan(status: str = "infeasible") -> Plan:
    """Return a plan that was not found."""
    return Plan.model_validate(
        {
            "schema": "cleave.plan/1",
            "status": status,
            "objective": {"maximize": "throughput"},
            "certificate": {"space": {"options": 0}},
            "provenance": {"kernels": "analytic"},
            "explanation": {"relaxations": _RELAXATIONS, "notes": ["no layout meets both times"]},
        }
    )


def _curve(yield_tok_s: float, steps: int) -> list[dict[str, Any]]:
    """Points of one curve: as a user gets faster, a GPU yields less."""
    speeds = [20 * 1.45**i for i in range(steps)]
    return [
        {
            "tokens_per_s_per_gpu": yield_tok_s / (1 + (speed / 60) ** 1.5),
            "tokens_per_s_per_user": speed,
            "tpot_ms": 1000 / speed,
            "ttft_ms": 95.0,
            "layout": "prefill 4x(tp2 dp4 ep8)",
        }
        for speed in speeds
    ]


def comparison() -> Comparison:
    """Return the four modes, of which AFD alone has no plan."""
    modes: list[dict[str, Any]] = [
        {"mode": "aggregated", "status": "optimal", "value": 1850.0, "plan": found_plan("aggregated", 1850.0),
         "reason": "prefill chunks stretch the decode step past 15 ms", "pareto": _curve(240.0, 5)},
        {"mode": "prefill_decode", "status": "feasible", "value": 3700.0,
         "plan": found_plan("prefill_decode", 3700.0, status="feasible"),
         "reason": "decode holds 16 fewer requests per GPU", "pareto": _curve(410.0, 7)},
        {"mode": "afd", "status": "infeasible", "reason": "TPOT cannot be met", "relaxations": _RELAXATIONS},
        {"mode": "prefill_decode_afd", "status": "optimal", "value": 4321.0, "plan": found_plan(),
         "pareto": _curve(480.0, 8)},
    ]  # fmt: skip
    return Comparison.model_validate(
        {
            "schema": "cleave.comparison/1",
            "objective": {"maximize": "throughput"},
            "modes": modes,
            "best": "prefill_decode_afd",
            "notes": ["every mode got the same kernels"],
        }
    )


def no_mode(status: str) -> Comparison:
    """Return a comparison in which the only mode has no plan."""
    return Comparison.model_validate(
        {
            "schema": "cleave.comparison/1",
            "objective": {"maximize": "throughput"},
            "modes": [{"mode": "afd", "status": status, "reason": "TPOT", "relaxations": _RELAXATIONS}],
        }
    )


def write_scenario(folder: Path) -> Path:
    """Write the scenario to a file."""
    path = folder / "scenario.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path
