"""Modes side by side against plans of one mode each."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import api
from planner.comparison import SAME, undominated
from specs.comparison import ParetoPoint
from specs.errors import SpecError
from specs.objective import Objective
from specs.plan import Status
from specs.service import Mode
from tests.planner.scenarios import MOE, ROUNDING, bound, incumbent, only, scenario, service

GAP = 1e-3


def test_every_mode_gets_the_plan_that_it_gets_alone() -> None:
    asked = scenario(service(model=MOE, modes=tuple(Mode)), count=4)
    compared = api.compare(asked, gap=GAP, pareto=False)
    assert [result.mode for result in compared.modes] == list(Mode)
    for result in compared.modes:
        alone = api.plan(only([result.mode], asked), gap=GAP, explain=False)
        assert result.status is alone.status
        assert result.value == pytest.approx(incumbent(alone), rel=ROUNDING)
        assert result.plan is not None
        assert {deployment.mode for each in result.plan.services for deployment in each.deployments} == {result.mode}
    together = api.plan(asked, gap=GAP, explain=False)
    values = {result.mode: result.value for result in compared.modes if result.value is not None}
    assert compared.best is max(values, key=lambda mode: values[mode])
    assert max(values.values()) <= bound(together) * (1 + ROUNDING)
    assert max(values.values()) >= incumbent(together) * (1 - GAP)
    for result in compared.modes:
        assert "limited by" in result.reason
        if result.mode is not compared.best:
            assert result.value is not None
            assert f"{1 - result.value / max(values.values()):.1%} below" in result.reason


def test_the_least_cost_is_best_where_cost_is_minimised() -> None:
    asked = scenario(service(demand_rps=60.0), objective=Objective(minimize="cost"), count=4)
    compared = api.compare(asked, pareto=False)
    values = {result.mode: result.value for result in compared.modes if result.value is not None}
    assert len(values) == 2
    assert compared.best is min(values, key=lambda mode: values[mode])
    loser = next(result for result in compared.modes if result.mode is not compared.best)
    assert " above " in loser.reason or "as good as" in loser.reason


def test_a_dead_mode_says_what_kills_it() -> None:
    # Two 80 GB GPUs that serve whole requests, but no GPU for the other side of a hand-over; and no experts for AFD.
    asked = scenario(
        service(model="meta-llama/Llama-3.1-70B", precision="bf16", ttft_ms=5e3, tpot_ms=200.0, modes=tuple(Mode)),
        count=2,
    )
    compared = api.compare(asked, pareto=False)
    by_mode = {result.mode: result for result in compared.modes}
    assert compared.best is Mode.AGGREGATED
    dead = by_mode[Mode.PREFILL_DECODE]
    assert dead.status is Status.INFEASIBLE
    (gpus,) = [change for change in dead.relaxations if change.dimension == "gpus"]
    assert gpus.needed == 4
    assert gpus.confirmed
    assert "GPUs 4" in dead.reason
    for mode in (Mode.AFD, Mode.PREFILL_DECODE_AFD):
        assert by_mode[mode].status is Status.INFEASIBLE
        assert "dense" in by_mode[mode].reason


def test_only_modes_that_every_service_allows_are_compared() -> None:
    asked = scenario(service("a", modes=(Mode.AGGREGATED, Mode.PREFILL_DECODE)), service("b", modes=(Mode.AGGREGATED,)))
    compared = api.compare(asked)
    assert [result.mode for result in compared.modes] == [Mode.AGGREGATED]
    assert any("prefill_decode is not compared: b" in note for note in compared.notes)
    assert any("no Pareto curves" in note for note in compared.notes)
    with pytest.raises(SpecError, match="every service allows"):
        api.compare(scenario(service("a", modes=(Mode.AGGREGATED,)), service("b", modes=(Mode.PREFILL_DECODE,))))


def test_points_of_a_curve_are_plans() -> None:
    asked = scenario(service())
    compared = api.compare(asked, gap=GAP)
    slowest = 100.0 * (1 + ROUNDING)
    for result in compared.modes:
        curve = result.pareto
        assert len(curve) >= 3
        assert all(point.tpot_ms <= slowest for point in curve)
        for faster, slower in itertools.pairwise(curve):
            assert faster.tokens_per_s_per_user > slower.tokens_per_s_per_user
            assert faster.tokens_per_s_per_gpu < slower.tokens_per_s_per_gpu
        # A plan for a point's TPOT is worth what the point is, up to the gap of the curve and to the room that a plan
        # leaves under its target.
        point = curve[len(curve) // 2]
        same = service(tpot_ms=point.tpot_ms * (1 + ROUNDING), modes=(result.mode,))
        best = bound(api.plan(scenario(same), gap=GAP, explain=False))
        assert point.tokens_per_s_per_gpu <= best / 8 * 1.02
        assert point.tokens_per_s_per_gpu >= best / 8 * 0.98
        assert point.tokens_per_s_per_user == pytest.approx(1e3 / point.tpot_ms)
        # The SLO is one of the targets, so the curve reaches what the plan does.
        assert result.value is not None
        at_slo = [p.tokens_per_s_per_gpu for p in curve if p.tpot_ms <= 20.0 * (1 + ROUNDING)]
        assert max(at_slo) >= result.value / 8 * 0.98


@given(st.lists(st.tuples(st.floats(1.0, 100.0), st.floats(1.0, 100.0)), max_size=12))
def test_undominated_points_are_those_that_nothing_beats(pairs: list[tuple[float, float]]) -> None:
    points = [
        ParetoPoint(tokens_per_s_per_gpu=gpu, tokens_per_s_per_user=user, tpot_ms=1e3 / user, layout="x")
        for gpu, user in pairs
    ]
    kept = {(p.tokens_per_s_per_gpu, p.tokens_per_s_per_user) for p in undominated(points)}
    for gpu, user in pairs:
        beaten = any(g >= gpu and u >= user and (g, u) != (gpu, user) for g, u in pairs)
        if beaten:
            assert (gpu, user) not in kept
        else:
            assert any(g * (1 + SAME) >= gpu and u >= user for g, u in kept)
