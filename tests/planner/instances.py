"""Small scenarios from catalogue models, deterministic by number.

They are free of what engines launch, so that all of the space is compared; `launchable_scenario` has the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.scenario import Scenario
from specs.service import Engine, Mode

DENSE = ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B")
SPARSE = ("Qwen/Qwen3-30B-A3B", "openai/gpt-oss-120b", "mistralai/Mixtral-8x7B-v0.1")
STATISTICS = ("mean", "mean", "p90", "p99")


def scenario(number: int) -> Scenario:
    """The scenario of a number: every 10th has two services, every 5th two pools, every 4th minimises."""
    rng = np.random.default_rng([2026, number])
    modes = list(Mode)
    mode = modes[number % 4]
    pools = [_pool(rng, "a")]
    if number % 5 == 3:
        pools = [_pool(rng, "a", counts=(2, 4)), _pool(rng, "b", counts=(2, 4))]
    if number % 10 == 7:
        pools = [_pool(rng, "a", counts=(4, 8))]
    services = [_service(rng, "s", [mode] if number % 3 else [mode, modes[int(rng.integers(4))]])]
    if number % 10 == 7:
        services.append(_service(rng, "t", [modes[int(rng.integers(2))]], small=True))
    objective: dict[str, Any] = {"maximize": "throughput"}
    if number % 8 == 6:
        objective = {"minimize": str(rng.choice(["cost", "gpus", "power"]))}
        for service in services:
            service["demand_rps"] = float(rng.choice([0.2, 1.0, 3.0]))
    elif rng.random() < 0.1:
        services[0]["demand_rps"] = float(rng.choice([1.0, 5.0]))
    return Scenario.model_validate(
        {"schema": "cleave.scenario/1", "cluster": {"pools": pools}, "services": services, "objective": objective}
    )


def launchable_scenario(number: int) -> Scenario:
    """The scenario of a number, limited to what its engine launches; where it has AFD, with AFD that launches."""
    asked = scenario(number)
    services = []
    for each in asked.services:
        change: dict[str, Any] = {"launchable": True}
        if {Mode.AFD, Mode.PREFILL_DECODE_AFD} & set(each.modes):
            modes = [Mode.PREFILL_DECODE_AFD if mode is Mode.AFD else mode for mode in each.modes]
            change |= {"engine": Engine.VLLM, "model": "Qwen/Qwen3-30B-A3B", "modes": tuple(dict.fromkeys(modes))}
        services.append(each.model_copy(update=change))
    return asked.model_copy(update={"services": tuple(services)})


def _pool(rng: np.random.Generator, name: str, counts: tuple[int, ...] = (4, 8, 8, 16)) -> dict[str, Any]:
    gpu = str(rng.choice(["h100", "h200", "b200", "l40s", "gb200"]))
    count = int(rng.choice(counts))
    pool: dict[str, Any] = {"name": name, "gpu": gpu, "count": count}
    if gpu == "gb200":
        pool["scale_up_domain"] = 16
    elif rng.random() < 0.3:
        pool["gpus_per_node"] = 4
    return pool


def _service(rng: np.random.Generator, name: str, modes: list[Mode], *, small: bool = False) -> dict[str, Any]:
    model = str(rng.choice(DENSE if small else (*DENSE, *SPARSE)))
    units = Mode.AFD in modes or Mode.PREFILL_DECODE_AFD in modes
    if units:
        model = str(rng.choice(SPARSE))
    tokens = int(rng.choice([1000, 4000, 8000, 20_000, 50_000]))
    loose, strict = (30_000.0, 200.0), (float(rng.uniform(0.04, 0.4) * tokens + 60), float(rng.uniform(12, 50)))
    hopeless = 0.6
    first, per_token = [loose, (strict[0], loose[1]), strict, strict, strict, (strict[0], hopeless)][
        int(rng.integers(6))
    ]
    workload: dict[str, Any] = {"input_tokens": tokens, "output_tokens": int(rng.choice([64, 300, 1000, 4000]))}
    if rng.random() < 0.3:
        workload["prefix_tokens"] = int(rng.choice([500, 4000]))
        at = [["prefill", "decode"], ["prefill"], ["decode"], []][int(rng.integers(4))]
        workload |= {"prefix_at": at, "prefix_tier": str(rng.choice(["hbm", "host"]))}
    if rng.random() < 0.2:
        workload["arrival"] = {"process": "gamma", "cv": float(rng.choice([0.5, 2.0]))}
    if rng.random() < 0.2:
        workload["output_tokens"] = {"mean": float(workload["output_tokens"]), "cv": 0.7}
        workload["input_tokens"] = {"mean": float(tokens), "cv": 0.5}
    return {
        "name": name,
        "model": model,
        "engine": str(rng.choice(["vllm", "sglang", "trtllm"])),
        "precision": str(rng.choice(["fp8", "bf16"])),
        "workload": workload,
        "slo": {"ttft_ms": first, "tpot_ms": per_token, "statistic": str(rng.choice(STATISTICS))},
        "modes": list(dict.fromkeys(modes)),
        "limits": {"tp": [1, 2]} if units and not small else {},
        "weight": float(rng.choice([1.0, 2.5])),
        "launchable": False,
    }
