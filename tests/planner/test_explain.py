"""Explanations against independent plans: what binds, what a change is worth, what would make a plan possible.

The laws of plans (harder never better, Little, memory, re-evaluation, launchable layouts) are here too: figures are
recomputed from the plan's fields and published model parameters.
"""

import math
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import api
from planner.clock import Clock
from planner.reevaluate import Load, evaluate
from planner.relax import PRECISION, relaxations, smallest, smallest_index
from planner.solve import solve
from planner.space import FULL_SPEED, Space
from specs import catalog
from specs.errors import SpecError
from specs.objective import Objective
from specs.plan import Plan, Relaxation, Role, Status
from specs.scenario import Scenario
from specs.service import Limits, Mode, Phase, Statistic
from tests.planner.scenarios import COLOCATED, DENSE, MOE, ROUNDING, bound, incumbent, scenario, service

GAP = 1e-3
BELOW = 0.98
"""A value this much below the smallest sufficient one must not suffice."""

LLAMA_KV_BYTES_PER_TOKEN = 2 * 32 * 8 * 128
"""Keys and values of 32 layers with 8 KV heads of 128 elements, one byte each (FP8)."""
LLAMA_WEIGHT_BYTES = 8.03e9
LLAMA_HEADS = 32


def feasible(asked: Scenario) -> bool:
    return api.plan(asked, gap=0.5, explain=False).status is not Status.INFEASIBLE


def by_key(plan: Plan) -> dict[tuple[Mode, str], Relaxation]:
    return {(each.mode, each.dimension): each for each in plan.explanation.relaxations}


def feasible_with(kind: str, needed: float, asked: Scenario, mode: Mode) -> bool:
    """Whether a mode has a plan on a cluster with a factor on its GPU memory or its links."""
    one = asked.model_copy(update={"services": (asked.services[0].model_copy(update={"modes": (mode,)}),)})
    (pool,) = Space.of(one).pools
    if kind == "memory":
        pool = pool.model_copy(update={"gpu": pool.gpu.model_copy(update={"memory_bytes": int(needed * 1e9)})})
    else:
        factor = needed / pool.scale_out_gbit_per_s
        links = {"scale_out_gbit_per_s": needed, "scale_up_gbyte_per_s": pool.scale_up_gbyte_per_s * factor}
        pool = pool.model_copy(update=links)
    return solve(Space.of(one, [pool]), gap=0.5, time_limit_s=30.0).solution.found


@pytest.mark.parametrize(("dimension", "slo"), [("ttft", {"ttft_ms": 2.0}), ("tpot", {"tpot_ms": 0.5})])
def test_slo_relaxations_are_the_smallest(dimension: str, slo: dict[str, float]) -> None:
    plan = api.plan(scenario(service(**slo)))
    assert plan.status is Status.INFEASIBLE
    found = by_key(plan)
    for mode in COLOCATED:
        change = found[mode, dimension]
        assert change.confirmed
        assert change.needed is not None
        key = f"{dimension}_ms"
        assert change.current == slo[key]
        assert feasible(scenario(service(**{key: change.needed * (1 + ROUNDING), "modes": (mode,)})))
        assert not feasible(scenario(service(**{key: change.needed * BELOW, "modes": (mode,)})))
        # Nothing else helps a mode whose SLO is under what one request takes on any hardware of this kind.
        assert all(found[mode, other].needed is None for other in ("memory", "gpus"))
        assert all(found[mode, other].detail for other in ("memory", "gpus"))


def test_memory_and_gpu_relaxations_are_the_smallest() -> None:
    # 141 GB of weights on 80 GB.
    asked = scenario(
        service(model="meta-llama/Llama-3.1-70B", precision="bf16", ttft_ms=5000.0, tpot_ms=200.0), count=1
    )
    found = by_key(api.plan(asked))
    memory = found[Mode.AGGREGATED, "memory"]
    assert memory.confirmed
    assert memory.needed is not None
    assert memory.needed > 141.0
    assert feasible_with("memory", memory.needed * (1 + ROUNDING), asked, Mode.AGGREGATED)
    assert not feasible_with("memory", memory.needed * BELOW, asked, Mode.AGGREGATED)
    for mode, smaller in ((Mode.AGGREGATED, 1), (Mode.PREFILL_DECODE, 2)):
        gpus = found[mode, "gpus"]
        assert gpus.confirmed
        assert gpus.needed is not None
        for count, expected in ((int(gpus.needed), True), (int(gpus.needed) // 2, False)):
            pool = asked.cluster.pools[0].model_copy(update={"count": count})
            larger = asked.model_copy(update={"cluster": asked.cluster.model_copy(update={"pools": (pool,)})})
            one = larger.model_copy(update={"services": (asked.services[0].model_copy(update={"modes": (mode,)}),)})
            assert feasible(one) is expected
        assert gpus.needed > smaller


def test_network_relaxation_is_the_smallest() -> None:
    # 67 MB of cache at 0.5 Gbit/s take a second, and TTFT may take 0.3.
    handed_over = service(modes=(Mode.PREFILL_DECODE,), limits=Limits(tp=(1,)))
    asked = scenario(handed_over, scale_out_gbit_per_s=0.5, count=2)
    change = by_key(api.plan(asked))[Mode.PREFILL_DECODE, "network"]
    assert change.confirmed
    assert change.needed is not None
    assert 1.0 < change.needed < 10.0
    assert feasible_with("network", change.needed * (1 + ROUNDING), asked, Mode.PREFILL_DECODE)
    assert not feasible_with("network", change.needed * BELOW, asked, Mode.PREFILL_DECODE)


def test_relaxation_of_a_demand_counts_it() -> None:
    asked = scenario(service(demand_rps=400.0), objective=Objective(minimize="gpus"), count=2, gpus_per_node=2)
    plan = api.plan(asked)
    assert plan.status is Status.INFEASIBLE
    for mode in COLOCATED:
        gpus = by_key(plan)[mode, "gpus"]
        assert gpus.confirmed
        assert gpus.needed is not None
        for count, expected in ((int(gpus.needed), True), (int(gpus.needed) - 2, False)):
            one = service(demand_rps=400.0, modes=(mode,))
            assert (
                feasible(scenario(one, objective=Objective(minimize="gpus"), count=count, gpus_per_node=2)) is expected
            )


def test_with_several_services_the_one_at_fault_is_named() -> None:
    modes = (Mode.AGGREGATED,)
    asked = scenario(service("dead", ttft_ms=2.0, modes=modes), service("alive", modes=modes), count=4)
    plan = api.plan(asked)
    assert plan.status is Status.INFEASIBLE
    found = {(each.service, each.mode, each.dimension): each for each in plan.explanation.relaxations}
    assert found["dead", Mode.AGGREGATED, "ttft"].confirmed
    alive = found["alive", Mode.AGGREGATED, "ttft"]
    assert alive.needed is None
    assert "dead" in alive.detail


def test_time_that_runs_out_is_said() -> None:
    space = Space.of(scenario(service(ttft_ms=2.0)))
    found, notes = relaxations(space, clock=Clock.start(0.0), slowdown=FULL_SPEED)
    assert found == []
    assert "time ran out" in notes[0]


@given(
    threshold=st.floats(1.0001, 900.0),
    guess=st.none() | st.floats(0.1, 2000.0),
    near=st.booleans(),
)
def test_search_brackets_the_threshold(threshold: float, guess: float | None, near: bool) -> None:
    asked: dict[float, bool] = {}

    def suffices(factor: float) -> bool:
        asked[factor] = factor >= threshold
        return asked[factor]

    between = smallest(suffices, threshold / 1.002 if near else guess, 1000.0)
    assert between is not None
    low, high = between
    assert asked[high]
    assert low == 1.0 or not asked[low]
    assert low < threshold <= high <= low * PRECISION * (1 + 1e-9)
    assert len(asked) <= (2 if near and threshold > 1.01 else 25)


def test_search_says_where_nothing_suffices() -> None:
    assert smallest(lambda factor: False, 2.0, 1000.0) is None
    assert smallest_index(lambda index: False, 10) is None


@given(threshold=st.integers(0, 200), count=st.integers(1, 201))
def test_index_search_finds_the_first(threshold: int, count: int) -> None:
    expected = threshold if threshold < count else None
    assert smallest_index(lambda index: index >= threshold, count) == expected


# -- what binds and what changes are worth ----------------------------------------------------------------------------


def test_what_ifs_are_those_of_the_changed_scenarios() -> None:
    base = scenario(service(modes=(Mode.AGGREGATED,)))
    plan = api.explain(base, gap=GAP)
    changed = {
        "one more node": scenario(service(modes=(Mode.AGGREGATED,)), count=16),
        "TPOT": scenario(service(modes=(Mode.AGGREGATED,), tpot_ms=21.0)),
        "TTFT": scenario(service(modes=(Mode.AGGREGATED,), ttft_ms=310.0)),
    }
    assert len(plan.explanation.what_if) == len(changed) + 1
    for opening, asked in changed.items():
        (what_if,) = [each for each in plan.explanation.what_if if each.change.startswith(opening)]
        direct = api.plan(asked, gap=GAP, explain=False)
        assert what_if.objective_before == incumbent(plan)
        assert what_if.objective_after is not None
        assert what_if.objective_after <= bound(direct) * (1 + ROUNDING)
        assert what_if.objective_after >= incumbent(direct) * (1 - 2 * GAP)
        assert ("certain, beyond" in what_if.note) == (what_if.objective_after > bound(plan))


def test_an_extra_gpu_never_costs() -> None:
    plan = api.explain(scenario(count=4), gap=GAP)
    afters = [each.objective_after for each in plan.explanation.what_if if "GPU" in each.change]
    assert afters
    assert all(after is not None and after >= incumbent(plan) for after in afters)


def test_what_binds_binds() -> None:
    def whats(asked: Scenario) -> set[str]:
        plan = api.plan(asked)
        return {binding.what for binding in plan.explanation.binding}

    fast = whats(scenario(service(tpot_ms=6.0, modes=(Mode.AGGREGATED,))))
    assert "TPOT" in fast
    assert "GPUs" in fast
    # 30,000 tokens of context with nothing else in the way fill the memory of the GPUs.
    slow = service(input_tokens=256, prefix_tokens=30_000, ttft_ms=60_000.0, tpot_ms=2_000.0, modes=(Mode.AGGREGATED,))
    assert "KV memory" in whats(scenario(slow, count=1))
    assert whats(scenario(service(demand_rps=1.0, modes=(Mode.AGGREGATED,)))) >= {"demand"}
    handed_over = whats(scenario(service(modes=(Mode.PREFILL_DECODE,))))
    assert handed_over & {"prefill capacity", "decode capacity"}


# -- input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"prefix_tokens": 9_000_000}, "services[0].workload", "GB of KV cache"),
        ({"modes": (Mode.AFD,)}, "services[0].modes", "dense"),
        (
            {"modes": (Mode.PREFILL_DECODE,), "phase": Phase.DECODE},
            "services[0].modes",
            "hand-over",
        ),
    ],
)
def test_what_no_cluster_can_serve_is_refused(changes: dict[str, Any], field: str, says: str) -> None:
    for door in (api.plan, api.compare, lambda asked: api.alternatives(asked, 2)):
        with pytest.raises(SpecError, match=says) as error:
            door(scenario(service(**changes), count=4))
        assert error.value.field == field


def test_a_context_that_fits_is_not_refused() -> None:
    needed = 1_000_000 * LLAMA_KV_BYTES_PER_TOKEN
    assert 0.7 * 80e9 < needed < 80e9
    long = service(input_tokens=1000, prefix_tokens=999_000 - 256, ttft_ms=1e6, tpot_ms=1e4, modes=(Mode.AGGREGATED,))
    plan = api.plan(scenario(long))
    assert any("131,072" in note for note in plan.explanation.notes)


def test_an_unknown_formulation_is_refused() -> None:
    with pytest.raises(SpecError, match="columns"):
        api.plan(scenario(), formulation=cast(Any, "other"))


# -- laws -------------------------------------------------------------------------------------------------------------

EASIER_AND_HARDER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "input tokens": ({}, {"input_tokens": 1400}),
    "prefix tokens": ({}, {"prefix_tokens": 3000}),
    "KV bytes": ({"kv_cache_dtype": "fp8"}, {"kv_cache_dtype": "bf16"}),
    "TTFT": ({}, {"ttft_ms": 120.0}),
    "TPOT": ({}, {"tpot_ms": 12.0}),
    "statistic": ({}, {"statistic": Statistic.P99}),
}


@pytest.mark.parametrize("model", [DENSE, MOE])
@pytest.mark.parametrize("change", EASIER_AND_HARDER)
def test_harder_is_never_better(change: str, model: str) -> None:
    easy, hard = EASIER_AND_HARDER[change]
    easier = api.plan(scenario(service(model=model, **easy)), gap=GAP, explain=False)
    harder = api.plan(scenario(service(model=model, **hard)), gap=GAP, explain=False)
    assert incumbent(harder) <= bound(easier) * (1 + ROUNDING)


@pytest.mark.parametrize(
    ("easy", "hard"),
    [
        ({"count": 16}, {"count": 8}),
        ({"scale_out_gbit_per_s": 400.0}, {"scale_out_gbit_per_s": 20.0}),
        ({"scale_up_gbyte_per_s": 450.0}, {"scale_up_gbyte_per_s": 50.0}),
    ],
)
def test_less_hardware_is_never_better(easy: dict[str, float], hard: dict[str, float]) -> None:
    asked = service(model=MOE, ttft_ms=150.0)
    easier = api.plan(scenario(asked, **easy), gap=GAP, explain=False)
    harder = api.plan(scenario(asked, **hard), gap=GAP, explain=False)
    assert incumbent(harder) <= bound(easier) * (1 + ROUNDING)


def test_less_memory_is_never_better() -> None:
    asked = scenario(service(prefix_tokens=8000, ttft_ms=1000.0, tpot_ms=60.0))
    (pool,) = Space.of(asked).pools
    less = pool.model_copy(update={"gpu": pool.gpu.model_copy(update={"memory_bytes": 40 * 10**9})})
    harder = solve(Space.of(asked, [less]), gap=GAP, time_limit_s=30.0)
    easier = api.plan(asked, gap=GAP, explain=False)
    assert harder.solution.incumbent < incumbent(easier)


PLANNED = {
    "aggregated": scenario(service(modes=(Mode.AGGREGATED,))),
    "prefill_decode": scenario(service(modes=(Mode.PREFILL_DECODE,))),
    "memory": scenario(
        service(input_tokens=256, prefix_tokens=30_000, ttft_ms=60_000.0, tpot_ms=2_000.0, modes=(Mode.AGGREGATED,))
    ),
    "p99": scenario(service(statistic=Statistic.P99)),
}


@pytest.mark.parametrize("name", PLANNED)
def test_laws_of_a_plan(name: str) -> None:
    asked = PLANNED[name]
    plan = api.plan(asked, gap=GAP, explain=False)
    (given,) = plan.services
    (wanted,) = asked.services
    (space,) = Space.of(asked).services
    tokens = wanted.workload
    assert not isinstance(tokens, str)
    memory = catalog.gpu("h100-sxm-80gb").memory_bytes
    output, context = tokens.mean_output_tokens, tokens.mean_prefix_tokens + tokens.mean_input_tokens
    for deployment in given.deployments:
        rate = given.request_rate_rps * deployment.share
        decoding = [pool for pool in deployment.pools if pool.role is not Role.PREFILL]
        # Law 1: Little, and time-averaged cache beside the weights.
        assert deployment.tpot_ms is not None
        slots = sum(pool.replicas * pool.batch for pool in decoding)
        assert rate * (output - 1) * deployment.tpot_ms * 1e-3 <= slots * (1 + ROUNDING)
        for pool in decoding:
            cache = pool.batch * LLAMA_KV_BYTES_PER_TOKEN * (context + output / 2)
            used = (cache + LLAMA_WEIGHT_BYTES) / pool.gpus_per_replica
            assert used <= memory
            assert name != "memory" or used >= 0.75 * memory
        # Law 7: what is planned can be launched and fits.
        for pool in deployment.pools:
            assert LLAMA_HEADS % pool.tp == 0
            assert 8 % pool.gpus_per_replica == 0
        # Law 5: the second path finds the claims within the SLO.
        roles = [pool.role for pool in deployment.pools]
        assert len(set(roles)) == len(roles)
        loads = [Load((pool,), pool.replicas, rate / pool.replicas) for pool in deployment.pools]
        again = evaluate(space, loads)
        assert again.ttft_ms == pytest.approx(deployment.ttft_ms)
        assert again.tpot_ms == pytest.approx(deployment.tpot_ms)
        assert again.ttft_ms is not None
        assert again.ttft_ms <= (wanted.slo.ttft_ms or math.inf) * (1 + ROUNDING)
        assert deployment.tpot_ms <= (wanted.slo.tpot_ms or math.inf) * (1 + ROUNDING)
    assert sum(pool.gpus for each in given.deployments for pool in each.pools) <= 8
