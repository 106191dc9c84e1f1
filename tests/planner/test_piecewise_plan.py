"""Fractional batches on real models: against a fine search over batches, and in order with the integer ones."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formulations import columns, dominance, piecewise, seam
from planner.assemble import build
from planner.costs.worker import Worker
from planner.curves import curve
from planner.fractional import (
    Fractional,
    fractional_bound,
    fractional_space,
    solve_fractional,
    with_curves,
    with_fractional_batches,
)
from planner.options.server import AfdServer
from planner.solve import Solved, solve
from planner.space import HandOver, Space
from planner.table import Tables, tables
from specs.load import load_scenario
from specs.plan import Plan, Status
from specs.scenario import Scenario
from specs.service import Mode

GAP = 1e-3
LIMIT_S = 60.0
FINE = 10_001
"""Batches of the brute force."""
GRID_STEP = np.log(1e5) / FINE
"""Relative step between them, over five orders of magnitude at most; the rate rises by no more than the batch."""
ROUNDING = 1e-7
"""Relative tolerance on an objective: that of the solver on a row."""
WAIT = 0.00148
"""Probability of waiting for a slot with three standard deviations in reserve (Halfin-Whitt)."""


def scenario(
    *,
    model: str = "Qwen/Qwen3-32B",
    gpu: str = "h100",
    count: int = 8,
    tokens: tuple[int, int] = (2000, 400),
    slo: dict[str, Any] | None = None,
    modes: tuple[str, ...] = ("prefill_decode",),
    objective: dict[str, str] | None = None,
    pool: dict[str, Any] | None = None,
    **service: Any,
) -> Scenario:
    described = {
        "name": "s",
        "model": model,
        "workload": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
        "slo": slo or {"ttft_ms": 600, "tpot_ms": 40},
        "modes": list(modes),
        "launchable": False,
    }
    return Scenario.model_validate(
        {
            "schema": "cleave.scenario/1",
            "cluster": {"pools": [{"name": "a", "gpu": gpu, "count": count, **(pool or {})}]},
            "services": [{**described, **service}],
            "objective": objective or {"maximize": "throughput"},
        }
    )


EXAMPLES = Path(__file__).parents[2] / "examples"
DRAFTS = {"draft_tokens": 2, "accept_length": 1.9}
CASES: dict[str, dict[str, Any]] = {
    "dense decode": {
        "modes": ("aggregated",),
        "phase": "decode",
        "slo": {"tpot_ms": 30},
        "limits": {"tp": [2], "max_gpus_per_replica": 2},
    },
    "expert decode": {
        "model": "Qwen/Qwen3-30B-A3B",
        "count": 16,
        "modes": ("aggregated",),
        "phase": "decode",
        "slo": {"tpot_ms": 11.3},
        "limits": {"tp": [1], "ep": [4], "max_gpus_per_replica": 4},
    },
    "unit decode": {
        "model": "openai/gpt-oss-120b",
        "modes": ("afd",),
        "phase": "decode",
        "slo": {"tpot_ms": 12},
        "limits": {"tp": [1], "ep": [4]},
    },
    "dense hand-over": {"limits": {"tp": [2], "max_gpus_per_replica": 2}},
    "expert hand-over": {
        "model": "Qwen/Qwen3-30B-A3B",
        "slo": {"ttft_ms": 150, "tpot_ms": 9},
        "limits": {"tp": [1]},
    },
    "unit hand-over": {
        "model": "openai/gpt-oss-120b",
        "count": 16,
        "slo": {"ttft_ms": 200, "tpot_ms": 10},
        "modes": ("prefill_decode", "prefill_decode_afd"),
        "limits": {"tp": [1], "ep": [1, 4]},
    },
    "drafts": {"model": "deepseek-ai/DeepSeek-V3.2", "gpu": "b200", "count": 16, "speculative": DRAFTS},
    "slow links": {
        "tokens": (8000, 20),
        "slo": {"ttft_ms": 5000, "tpot_ms": 40},
        "limits": {"tp": [2], "max_gpus_per_replica": 2},
        "pool": {"scale_out_gbit_per_s": 15},
    },
    "cheapest": {"count": 32, "demand_rps": 20.0, "objective": {"minimize": "cost"}},
    "two pools": {},
}


@cache
def space(name: str) -> Space:
    if name == "two pools":
        return Space.of(load_scenario(EXAMPLES / "heterogeneous-pd.yaml"))
    return Space.of(scenario(**CASES[name]))


@cache
def integer(name: str) -> Solved:
    return solve(space(name), gap=GAP, time_limit_s=LIMIT_S)


@cache
def fractional(name: str) -> Fractional:
    return solve_fractional(space(name), gap=GAP, time_limit_s=LIMIT_S)


# -- a fine search over batches, from the cost model alone, for mean statistics and Poisson arrivals -------------------


def fine_rates(server: Any, part: Any, limits_ms: np.ndarray) -> np.ndarray:
    """Best requests/s of a server over a fine grid of batches, under limits on the decode part of TTFT.

    `server` is (worker,) or (unit, copies, micro-batches).
    """
    family, copies, count = (*server, 1, 1)[:3]
    site = part.sites[0]
    if isinstance(family, Worker):
        cap = family.largest_slots(512.0, decode=True)

        def step(in_flight: np.ndarray) -> np.ndarray:
            return family.decode_step_ms(in_flight, np.full(in_flight.shape, float(family.layout.parts)))
    else:
        cap = family.largest_slots(512.0) if family.ffn_fits(512.0 * copies) else 0
        cap = cap if cap >= count else 0

        def step(in_flight: np.ndarray) -> np.ndarray:
            return family.decode_step_ms(in_flight / copies, copies, count, np.full(in_flight.shape, float(count)))

    if not cap:
        return np.zeros(limits_ms.size)
    # slots = b + 3 sqrt(b), solved for b
    low, high = ((np.sqrt(9.0 / 4.0 + slots) - 1.5) ** 2 for slots in (copies, copies * cap))
    batch = np.geomspace(low, high, FINE)
    free = 3.0 * np.sqrt(batch)
    tokens = site.lengths.decode_tokens / site.tokens_per_step
    stay = tokens * step(batch)
    # A request sees itself beside the mean, but never more than there are slots.
    seen = step(np.minimum(batch + 1.0, batch + free))
    # An engine that emits the first token from a decode step waits half a step for the running one on average.
    steps = site.engine.first_token_steps
    first = WAIT * stay / free + (steps + 0.5 * (steps > 0)) * seen
    good = seen / site.tokens_per_step <= part.targets.tpot_ms
    rate = 1e3 * batch / stay
    if part.service.phase.value == "full":
        gpus = family.layout.gpus if isinstance(family, Worker) else copies * family.tp
        nics = 1e3 * site.fabric.scale_out_bytes_per_ms * gpus / part.transfer().bytes_per_request
        rate = np.minimum(rate, nics)
    return np.array([np.max(rate * (good & (first <= limit))) for limit in limits_ms])


def servers(part: Any, mode: Mode) -> list[tuple[Any, int]]:
    """Every server of a mode with its GPUs."""
    if mode in (Mode.AFD, Mode.PREFILL_DECODE_AFD):
        assert all(isinstance(each, AfdServer) for each in part.units)
        return [
            ((each.unit, int(copies), int(count)), int(copies) * each.unit.tp + each.unit.ffn_gpus)
            for each in part.units
            for copies, count in zip(each.copies, each.microbatches, strict=True)
        ]
    return [((worker,), worker.layout.gpus) for worker in part.workers]


def packed(rates: list[tuple[float, int]], gpus: int) -> np.ndarray:
    """Largest sum of rates of servers that 0..gpus GPUs hold."""
    best = np.zeros(gpus + 1)
    for size in range(1, gpus + 1):
        best[size] = max([best[size - 1], *(best[size - need] + rate for rate, need in rates if need <= size)])
    return best


@pytest.mark.parametrize("name", ["dense decode", "expert decode", "unit decode"])
def test_decode_alone_is_the_best_of_a_fine_search(name: str) -> None:
    (part,), (pool,) = space(name).services, space(name).pools
    (mode,) = part.service.modes
    no_limit = np.array([np.inf])
    rates = [(float(fine_rates(server, part, no_limit)[0]), gpus) for server, gpus in servers(part, mode)]
    best = packed(rates, pool.count)[-1] * part.sites[0].lengths.output
    found = fractional(name)
    assert best * (1.0 - ROUNDING) <= found.solution.incumbent <= best * (1.0 + GRID_STEP)
    assert found.bound >= best * (1.0 - ROUNDING)


@pytest.mark.parametrize("name", ["dense hand-over", "expert hand-over", "slow links"])
def test_hand_over_is_the_best_of_a_fine_search(name: str) -> None:
    (part,), (pool,) = space(name).services, space(name).pools
    handed = part.groups(Mode.PREFILL_DECODE)
    assert isinstance(handed, HandOver)
    level = handed.first_levels()[0]
    parts_ms = np.linspace(0.0, part.targets.ttft_ms, 121)
    decode = [(fine_rates(server, part, parts_ms), gpus) for server, gpus in servers(part, Mode.PREFILL_DECODE)]
    prefill = [handed.prefill.at([level], [part.targets.ttft_ms - float(each)]) for each in parts_ms]
    least, most = 0.0, 0.0
    for number, block in enumerate(prefill):
        sizes = [block.families[int(i)].layout.gpus for i in block.family]
        holds = packed([(float(rate), size) for rate, size in zip(block.rate_rps, sizes, strict=True)], pool.count)
        for limit in (number, min(number + 1, parts_ms.size - 1)):
            serves = packed([(float(rates[limit]), gpus) for rates, gpus in decode], pool.count)
            reached = float(np.minimum(holds, serves[::-1]).max()) * part.sites[0].lengths.output
            # Both phases at one point of the grid are a plan; decode at the next point is a bound on what lies between.
            most = max(most, reached)
            least = max(least, reached) if limit == number else least
    found = fractional(name)
    assert found.bound >= least * (1.0 - ROUNDING)
    assert least * (1.0 - GAP) <= found.solution.incumbent <= most * (1.0 + GRID_STEP)


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_integer_and_fractional_intervals_are_ordered(name: str) -> None:
    whole, real = integer(name), fractional(name)
    assert whole.solution.found
    assert real.solution.found
    side = 1.0 if space(name).scenario.objective.maximizing else -1.0
    assert side * whole.solution.incumbent <= side * real.bound * (1.0 + side * ROUNDING)
    assert side * real.solution.incumbent >= side * whole.solution.incumbent * (1.0 - side * GAP)
    assert side * real.solution.incumbent <= side * real.bound * (1.0 + side * ROUNDING)


@pytest.mark.parametrize("name", CASES)
def test_curves_are_worth_their_largest_batches(name: str) -> None:
    # `piecewise` on whole curves reaches what `columns` reaches on the largest batches, to the solver's gap.
    found = fractional(name)
    assert found.solution.incumbent == pytest.approx(found.levels.solution.incumbent, rel=GAP)
    assert found.solution.segments


def test_curves_end_where_the_links_are_full() -> None:
    (part,) = space("slow links").services
    found = fractional("slow links")
    (segment,) = found.solution.segments.values()
    site = part.sites[0]
    request_rate = segment.tokens_per_s / segment.replicas / site.lengths.decode_tokens
    links = 2 * site.fabric.scale_out_bytes_per_ms * 1e3
    assert request_rate * part.transfer().bytes_per_request == pytest.approx(links)


def test_fractional_batches_are_worth_something() -> None:
    assert any(fractional(name).solution.incumbent > integer(name).bound * (1.0 + ROUNDING) for name in CASES)


def test_segments_in_use_run_at_their_step_time() -> None:
    name = "dense decode"
    (part,) = space(name).services
    (worker,) = part.workers
    for segment in fractional(name).solution.segments.values():
        line = curve(worker, 1, 1, 0.1, segment.batch + 1.0)
        step_s = 1e-3 * float(line(np.array(segment.batch)))
        assert segment.steps_per_s == pytest.approx(segment.replicas / step_s)
        assert segment.tokens_per_s == pytest.approx(segment.steps_per_s * segment.batch)


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense decode", "unit decode", "expert hand-over"])
def test_plan_with_fractional_batches(name: str) -> None:
    plan = build(space(name), integer(name), gap=GAP)
    widened = with_fractional_batches(plan, space(name), integer(name), gap=GAP, time_limit_s=LIMIT_S)
    assert Plan.model_validate_json(widened.to_json()) == widened
    assert widened.services == plan.services
    certificate, incumbent = widened.certificate, plan.certificate.incumbent
    assert incumbent is not None
    assert certificate.bound is not None
    assert certificate.gap is not None
    bound, value = fractional_bound(space(name), integer(name), GAP, LIMIT_S)
    assert certificate.bound == pytest.approx(bound)
    assert certificate.gap == pytest.approx((bound - incumbent) / incumbent)
    assert certificate.gap_solver + certificate.gap_discretisation == pytest.approx(certificate.gap)
    assert 0.0 <= value <= certificate.gap + ROUNDING
    assert widened.status is (Status.OPTIMAL if certificate.gap <= GAP else Status.FEASIBLE)
    assert widened.provenance.formulation == "piecewise"
    assert any("Fractional batches" in note for note in widened.explanation.notes)


def test_infeasible_plan_stays_so() -> None:
    hopeless = Space.of(scenario(slo={"ttft_ms": 600, "tpot_ms": 0.5}))
    solved = solve(hopeless, gap=GAP, time_limit_s=LIMIT_S)
    plan = build(hopeless, solved, gap=GAP)
    widened = with_fractional_batches(plan, hopeless, solved, gap=GAP, time_limit_s=LIMIT_S)
    assert widened.status is Status.INFEASIBLE
    # Nothing was proven about fractional batches, and the plan does not say so.
    assert widened.provenance == plan.provenance
    assert "not tried" in widened.explanation.notes[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {
            "workload": {
                "input_tokens": 500,
                "output_tokens": 200,
                "arrival": {"process": "closed_loop", "concurrency": 40},
            }
        },
        {"tokens": (2000, 1)},
        {"phase": "prefill", "modes": ("aggregated",)},
        {"modes": ("aggregated",)},
    ],
    ids=["closed loop", "one output token", "prefill", "mixed pools"],
)
def test_servers_without_curves_stay_as_they_are(changes: dict[str, Any]) -> None:
    made = Space.of(scenario(**changes))
    whole, real = solve(made, gap=GAP, time_limit_s=LIMIT_S), solve_fractional(made, gap=GAP, time_limit_s=LIMIT_S)
    assert not real.solution.segments
    assert real.solution.incumbent == pytest.approx(whole.solution.incumbent, rel=GAP)


# -- relaxations -------------------------------------------------------------------------------------------------------


def at_first_levels(made: Space, whole: Space) -> Tables:
    """Tables of one space at the first TTFT levels of another."""
    groups = []
    for part, other in zip(made.services, whole.services, strict=True):
        for mode in part.service.modes:
            found, reference = part.groups(mode), other.groups(mode)
            assert isinstance(found, HandOver)
            assert isinstance(reference, HandOver)
            groups += found.options(reference.first_levels()).exact
    return tables(made, groups)


@pytest.mark.parametrize(
    ("name", "of_columns", "of_piecewise"),
    [("expert hand-over", 9357.190190, 9539.869604), ("unit hand-over", 9865.120524, 10261.639300)],
)
def test_relaxations_are_as_tight_as_ever(name: str, of_columns: float, of_piecewise: float) -> None:
    whole = at_first_levels(space(name), space(name))
    kept = dominance.prune(whole.problem, whole.options)
    relaxed = seam.relax(seam.extract(columns.build(whole.problem, whole.options.take(kept)).assembly.model))
    real = at_first_levels(fractional_space(space(name)), space(name))
    options, curves = with_curves(space(name), real)
    kept = dominance.prune(real.problem, piecewise.as_options(real.problem, options, curves))
    curved = seam.relax(seam.extract(piecewise.build(real.problem, options, curves, kept).assembly.model))
    assert relaxed.incumbent == pytest.approx(of_columns, rel=1e-6)
    assert curved.incumbent == pytest.approx(of_piecewise, rel=1e-6)
    assert curved.incumbent >= relaxed.incumbent * (1.0 - ROUNDING)
