"""The fit of the engines' parameters finds those that made the points."""

from dataclasses import replace

import pytest

from planner.accuracy.estimate import CostModel
from planner.accuracy.fit import DELAYS_MS, LAG_STEPS, fitted
from planner.accuracy.points import Measured, Point, Workers
from planner.accuracy.recipes import Recipe
from planner.configured import SiteCache
from planner.costs.engines import ENGINES
from specs.model import Precision
from specs.plan import Role
from specs.service import Engine, Mode, Phase
from specs.workload import Arrival, ArrivalProcess, MeanLength, Workload

TRUE = replace(ENGINES[Engine.VLLM], sequence_us=20.0, lag_steps=2.0, delay_ms=45.0)


def point(line: int, clients: int, tokens: int) -> Point:
    lengths = MeanLength(mean=float(tokens), cv=0.1), MeanLength(mean=200.0, cv=0.1)
    arrival = Arrival(process=ArrivalProcess.CLOSED_LOOP, concurrency=clients)
    return Point(
        line=line,
        source="made up",
        model="Qwen/Qwen3-32B",
        precision=Precision.FP8,
        kv_cache_dtype=Precision.FP8,
        gpu="h200-sxm-141gb",
        engine=Engine.VLLM,
        mode=Mode.AGGREGATED,
        phase=Phase.FULL,
        workers=(Workers(Role.MIXED, 1, 4, 1, 1),),
        workload=Workload(input_tokens=lengths[0], output_tokens=lengths[1], arrival=arrival),
        concurrency=clients,
        requests=5 * clients,
        measured=Measured(1.0, 1.0, 1.0),
        notes="",
        speculative=None,
        recipe=Recipe(),
    )


def test_the_fit_finds_the_parameters_that_made_the_points() -> None:
    sites = SiteCache()
    truth = CostModel(sites.with_engines({**ENGINES, Engine.VLLM: TRUE}))
    asked = [
        point(10 * i + j, clients, tokens)
        for i, clients in enumerate((4, 16, 64, 128))
        for j, tokens in enumerate((500, 2000))
    ]
    points = []
    for each in asked:
        seen = truth(each)
        points.append(replace(each, measured=Measured(seen.ttft_ms, seen.tpot_ms, seen.throughput_tok_s_per_gpu)))
    model = fitted(points, sites)
    found = model.sites.engines[Engine.VLLM]
    assert found.sequence_us == pytest.approx(20.0, abs=2.0)
    assert found.lag_steps in LAG_STEPS
    assert found.delay_ms in DELAYS_MS
    assert (found.lag_steps, found.delay_ms) == (2.0, 45.0)
    for engine in (Engine.SGLANG, Engine.TRTLLM):
        assert model.sites.engines[engine] == ENGINES[engine]  # no point of theirs: nothing to learn
