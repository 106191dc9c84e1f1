"""What a time limit may change: what is found, never what is true. No test asserts how long anything takes."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from planner import api
from planner.ceiling import ceiling, most_rps_per_gpu
from planner.clock import UNLIMITED, Clock, OutOfTimeError
from planner.comparison import compare_modes
from planner.fractional import fractional_bound
from planner.ranking import best_plans
from planner.relax import least_tpot_ms, relaxations
from planner.solve import Solved, solve
from planner.space import FULL_SPEED, Space
from specs.objective import Objective
from specs.plan import Status
from specs.scenario import Scenario
from specs.service import Mode, Phase
from specs.workload import Arrival, ArrivalProcess, Workload
from tests.planner.scenarios import COLOCATED, MOE, bound, incumbent, only, scenario, service

GAP = 1e-4
PAST = Clock(-math.inf)


@dataclass(frozen=True)
class Countdown(Clock):
    """A clock that runs out when it has been looked at so often, whatever the time."""

    looks: list[int] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        self.looks[0] -= 1
        return 60.0 if self.looks[0] > 0 else 0.0

    def part(self, share: float) -> Clock:
        return self


def closed_loop(base: Scenario, *, clients: int) -> Scenario:
    (part,) = base.services
    arrival = Arrival(process=ArrivalProcess.CLOSED_LOOP, concurrency=clients)
    assert isinstance(part.workload, Workload)
    workload = part.workload.model_copy(update={"arrival": arrival})
    return base.model_copy(update={"services": (part.model_copy(update={"workload": workload}),)})


def questions() -> dict[str, Scenario]:
    moe: dict[str, Any] = {"model": MOE, "modes": tuple(Mode)}
    served: dict[str, Any] = {"model": MOE, "modes": tuple(Mode), "demand_rps": 20.0}
    cheapest = Objective(minimize="cost")
    return {
        "all modes": scenario(service(**moe), count=4),
        "a demand": scenario(service(**served), count=4),
        "cheapest": scenario(service(**served), objective=cheapest, count=4),
        "two services": scenario(service("a"), service("b", weight=2.0)),
        "two services, cheapest": scenario(
            service("a", demand_rps=2.0), service("b", demand_rps=3.0), objective=cheapest
        ),
        "mixed modes": scenario(service(modes=COLOCATED, split=True)),
        "prefill": scenario(service(phase=Phase.PREFILL, modes=COLOCATED)),
        "decode": scenario(service(phase=Phase.DECODE, **moe), count=4),
        "a closed loop": closed_loop(scenario(service()), clients=8),
        "launchable": scenario(service(**moe, launchable=True, engine="sglang"), count=4),
    }


QUESTIONS = questions()


def interrupted(monkeypatch: pytest.MonkeyPatch, space: Space, looks: int) -> Solved:
    """The space, solved until the clock has been looked at so often."""
    clock = Countdown(math.inf, [looks])
    monkeypatch.setattr(Clock, "start", staticmethod(lambda time_limit_s: clock))
    return solve(space, gap=GAP, time_limit_s=60.0)


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_time_at_all_is_a_status(name: str) -> None:
    plan = api.plan(QUESTIONS[name], time_limit_s=0.0)
    assert plan.status is Status.TIME_LIMIT
    assert plan.certificate.incumbent is None
    assert not plan.services


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_interruption_makes_a_wrong_claim(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space.of(QUESTIONS[name])
    whole = solve(space, gap=GAP, time_limit_s=60.0)
    assert whole.solution.found
    assert not whole.unlisted
    sign = 1.0 if space.scenario.objective.maximizing else -1.0
    statuses = set()
    for looks in (1, 8, 32, 64, 128, 512):
        with monkeypatch.context() as patch:
            part = interrupted(patch, Space.of(QUESTIONS[name]), looks)
        statuses.add(part.solution.status)
        if not part.solution.found:
            assert part.solution.status == "time_limit"
            continue
        assert math.isfinite(part.bound)
        assert sign * part.bound >= sign * whole.solution.incumbent * (1.0 - 1e-9 * sign)
        assert sign * part.solution.incumbent <= sign * whole.bound * (1.0 + 1e-9 * sign)
    assert "time_limit" in statuses


def test_listed_modes_make_a_plan_and_the_others_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    made = QUESTIONS["all modes"]
    real = Space.of(made)

    def listed_only(mode: Mode) -> Callable[..., object]:
        whole = type(real.services[0]).groups

        def groups(self: object, asked: Mode, **rest: object) -> object:
            if asked is not mode:
                raise OutOfTimeError
            return whole(self, asked, **rest)  # type: ignore[arg-type]

        return groups

    monkeypatch.setattr(type(real.services[0]), "groups", listed_only(Mode.AGGREGATED))
    plan = api.plan(made, gap=GAP)
    monkeypatch.undo()
    alone = api.plan(only((Mode.AGGREGATED,), made), gap=GAP)
    best = api.plan(made, gap=GAP)
    assert plan.status is Status.FEASIBLE
    assert incumbent(plan) == pytest.approx(incumbent(alone), rel=GAP)
    assert bound(plan) >= incumbent(best)
    assert any("time ran out" in note and "prefill_decode" in note for note in plan.explanation.notes)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_ceiling_lies_above_every_mode(name: str) -> None:
    space = Space.of(QUESTIONS[name])
    sign = 1.0 if space.scenario.objective.maximizing else -1.0
    whole = solve(space, gap=GAP, time_limit_s=60.0).solution.incumbent
    modes = {part.index: part.service.modes for part in space.services}
    assert sign * ceiling(space, modes, UNLIMITED) >= sign * whole
    if len(space.services) > 1:
        return
    for mode in space.services[0].service.modes:
        alone = solve(Space.of(only((mode,), QUESTIONS[name])), gap=GAP, time_limit_s=60.0).solution
        if alone.found:
            assert sign * ceiling(space, {0: (mode,)}, UNLIMITED) >= sign * alone.incumbent


def test_a_ceiling_out_of_time_is_what_demand_says() -> None:
    space = Space.of(QUESTIONS["all modes"])
    with pytest.raises(OutOfTimeError):
        most_rps_per_gpu(space.services[0], Mode.AFD, PAST)
    assert ceiling(space, {0: (Mode.AFD,)}, PAST) == math.inf
    asked = Space.of(QUESTIONS["a demand"])
    assert ceiling(asked, {0: (Mode.AFD,)}, PAST) == pytest.approx(20.0 * 256.0)
    assert ceiling(Space.of(QUESTIONS["cheapest"]), {0: (Mode.AFD,)}, PAST) == 0.0


@pytest.mark.parametrize("mode", Mode)
def test_an_interrupted_listing_leaves_nothing_behind(mode: Mode) -> None:
    space = Space.of(QUESTIONS["all modes"])
    for looks in (1, 3, 10, 30):
        clock = Countdown(math.inf, [looks])
        with contextlib.suppress(OutOfTimeError):
            space.services[0].groups(mode, clock=clock)
    again = solve(space, gap=GAP, time_limit_s=60.0)
    fresh = solve(Space.of(QUESTIONS["all modes"]), gap=GAP, time_limit_s=60.0)
    assert (again.solution.incumbent, again.bound) == (fresh.solution.incumbent, fresh.bound)


def test_a_generous_limit_changes_nothing() -> None:
    made = QUESTIONS["all modes"]
    short, long = (api.plan(made, time_limit_s=limit) for limit in (1e3, 1e9))
    assert short.certificate == long.certificate
    assert short.services == long.services
    assert short.status is Status.OPTIMAL


def test_an_infeasible_question_out_of_time_is_not_called_infeasible() -> None:
    impossible = scenario(service(tpot_ms=0.01))
    assert api.plan(impossible, explain=False).status is Status.INFEASIBLE
    assert api.plan(impossible, explain=False, time_limit_s=0.0).status is Status.TIME_LIMIT


def test_the_other_questions_keep_to_the_clock() -> None:
    made = QUESTIONS["all modes"]
    space = Space.of(made)
    assert api.explain(made, time_limit_s=0.0).status is Status.TIME_LIMIT
    assert best_plans(space, 3, gap=GAP, clock=PAST) == []
    found, notes = relaxations(Space.of(scenario(service(tpot_ms=0.01))), clock=PAST, slowdown=FULL_SPEED)
    assert found == []
    assert "time ran out" in notes[0]
    with pytest.raises(OutOfTimeError):
        least_tpot_ms(space.services[0], Mode.AFD, PAST)
    whole = solve(space, gap=GAP, time_limit_s=60.0)
    assert fractional_bound(space, whole, GAP, 0.0).bound == math.inf


def test_a_comparison_without_time_says_so_for_every_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    space, clock = Space.of(QUESTIONS["all modes"]), Countdown(math.inf, [1])
    monkeypatch.setattr(Clock, "start", staticmethod(lambda time_limit_s: clock))
    compared = compare_modes(space, gap=GAP, clock=clock, slowdown=FULL_SPEED, pareto=True)
    assert [each.status for each in compared.modes] == [Status.TIME_LIMIT] * len(Mode)
    assert any("Pareto" in note for note in compared.notes)
