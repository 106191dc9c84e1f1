"""TTFT levels: knapsack values against exhaustive search and against the program, and the closing of their gap."""

import itertools

import numpy as np
import pytest

from formulations import columns
from planner.levels import best_rates, capacity, fewest_gpus
from planner.options.places import gpus_of
from planner.solve import solve
from planner.space import HandOver, Space
from planner.table import tables
from specs.load import parse_scenario
from specs.service import Mode

SCENARIO = """
schema: cleave.scenario/1
cluster: {{pools: [{{name: pool, gpu: h200, count: {count}}}]}}
services:
  - name: chat
    model: qwen3-30b-a3b
    engine: {engine}
    workload: {{input_tokens: 2000, output_tokens: 300}}
    slo: {{ttft_ms: {ttft}, tpot_ms: {tpot}}}
    modes: [prefill_decode]
    launchable: false
objective: {{maximize: throughput}}
"""


def space(count: int = 8, ttft: float = 120, tpot: float = 12, engine: str = "sglang") -> Space:
    return Space.of(parse_scenario(SCENARIO.format(count=count, ttft=ttft, tpot=tpot, engine=engine)))


def options_of(made: Space):
    handed = made.services[0].groups(Mode.PREFILL_DECODE)
    assert isinstance(handed, HandOver)
    return handed, handed.options(handed.first_levels())


def test_capacity_is_the_best_multiset_of_options():
    _, options = options_of(space())
    block = options.exact[0].block
    table = capacity(block, len(options.levels), 8)
    sizes = gpus_of(block)
    for level in range(len(options.levels)):
        mine = np.flatnonzero(block.level == level)
        # Larger multisets than 8 servers cannot fit 8 GPUs; the best option of each size is enough to enumerate.
        best = {int(s): float(block.rate_rps[mine][sizes[mine] == s].max()) for s in np.unique(sizes[mine])}
        for gpus in (1, 3, 5, 8):
            found = 0.0
            for counts in itertools.product(*(range(gpus // size + 1) for size in best)):
                if sum(n * size for n, size in zip(counts, best, strict=True)) <= gpus:
                    found = max(found, sum(n * rate for n, rate in zip(counts, best.values(), strict=True)))
            assert table[level, gpus] == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("optimistic", [False, True])
def test_the_value_of_a_level_is_the_optimum_of_its_program(optimistic):
    made = space()
    _, options = options_of(made)
    values = best_rates(options, 8, optimistic=optimistic)
    assert (values > 0).any()
    groups = options.optimistic if optimistic else options.exact
    built = tables(made, groups)
    for level, value in enumerate(values):
        rows = np.flatnonzero(built.options.level == level)
        solution = columns.solve(built.problem, built.options.take(rows), gap=0.0)
        reached = solution.incumbent / 300 if solution.found else 0.0
        assert reached == pytest.approx(value, rel=1e-9)


def test_fewest_gpus_carry_the_rate_and_one_fewer_does_not():
    _, options = options_of(space())
    prefill, decode = (capacity(group.block, len(options.levels), 8) for group in options.exact)
    needed = fewest_gpus(options, 8, 5.0, optimistic=False)
    for level, gpus in enumerate(needed):
        splits = [
            p + d for p in range(9) for d in range(9) if min(prefill[level, p], decode[level, d]) >= 5.0 * (1 - 1e-12)
        ]
        assert gpus == min([*splits, 9])


@pytest.mark.parametrize(("ttft", "tpot"), [(60, 8), (80, 12), (120, 12), (400, 30)])
@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_levels_are_split_until_the_gap_is_closed(ttft, tpot, engine):
    solved = solve(space(16, ttft, tpot, engine), gap=1e-3, time_limit_s=60.0)
    if not solved.solution.found:
        assert solved.solution.status == "infeasible"
        return
    assert solved.gap <= 1e-3
    finer = solve(space(16, ttft, tpot, engine), gap=1e-6, time_limit_s=60.0)
    # Neither the bound of the coarse run nor its incumbent may contradict the finer one.
    assert finer.solution.incumbent <= solved.bound * (1 + 1e-9)
    assert finer.bound >= solved.solution.incumbent * (1 - 1e-9)


def test_the_program_without_knapsack_agrees():
    """With two pools the levels are bounded by a program of their own; a second, useless pool must change nothing."""
    text = SCENARIO.format(count=8, ttft=120, tpot=12, engine="sglang")
    alone = solve(Space.of(parse_scenario(text)), gap=1e-4, time_limit_s=60.0)
    two = text.replace("[{name: pool", "[{name: other, gpu: l40s, count: 1}, {name: pool")
    two = two.replace("modes: [prefill_decode]", "modes: [prefill_decode]\n    limits: {pools: [pool]}")
    both = solve(Space.of(parse_scenario(two)), gap=1e-4, time_limit_s=60.0)
    assert both.gap <= 1e-3
    assert both.solution.incumbent <= alone.bound * (1 + 1e-9)
    assert alone.solution.incumbent <= both.bound * (1 + 1e-9)
