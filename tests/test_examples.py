"""Every example loads, is planned with its proof, and is listed; those that make a claim keep it."""

import re
from pathlib import Path

import pytest

from specs.load import load_scenario, parse_scenario
from specs.plan import Deployment, Plan, Role, Status
from specs.scenario import Cluster, Scenario, resolve_pool
from specs.service import Mode, Phase, Statistic

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))
INFEASIBLE = "infeasible.yaml"
GAP = 1e-3
ROUNDING = 1e-6
"""Relative error allowed where a plan's figures are recomputed from one another."""


def solve(scenario: Scenario, *, explain: bool = False) -> Plan:
    # Imported here so that the examples are read and listed even where planning is broken.
    from planner.api import plan

    return plan(scenario, gap=GAP, time_limit_s=60.0, explain=explain)


def incumbent(plan: Plan) -> float:
    assert plan.certificate.incumbent is not None
    return plan.certificate.incumbent


def bound(plan: Plan) -> float:
    assert plan.certificate.bound is not None
    return plan.certificate.bound


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_example_says_what_it_asks(path: Path) -> None:
    load_scenario(path)
    opening = path.read_text().partition("schema:")[0].splitlines()
    assert opening
    assert all(line.startswith("# ") for line in opening)


@pytest.mark.parametrize("path", [path for path in FILES if path.name != INFEASIBLE], ids=lambda path: path.stem)
def test_example_is_planned_with_proof(path: Path) -> None:
    scenario = load_scenario(path)
    plan = solve(scenario)
    assert plan.status is Status.OPTIMAL
    assert plan.certificate.gap is not None
    assert plan.certificate.gap <= GAP
    slack = ROUNDING * abs(incumbent(plan))
    if scenario.objective.maximizing:
        assert bound(plan) >= incumbent(plan) - slack
        worth = {service.name: service.weight for service in scenario.services}
        reached = sum(worth[service.name] * service.throughput_tok_s for service in plan.services)
        assert incumbent(plan) == pytest.approx(reached, rel=ROUNDING)
    else:
        assert scenario.objective.quantity == "cost"
        assert bound(plan) <= incumbent(plan) + slack
        assert incumbent(plan) == pytest.approx(plan.cost_per_hour, rel=ROUNDING)
    check_promises(scenario, plan)


def check_promises(scenario: Scenario, plan: Plan) -> None:
    """GPUs of the cluster, SLOs, modes and demand of every service."""
    for pool in scenario.cluster.pools:
        assert plan.gpus_used.get(pool.name, 0) + plan.gpus_idle.get(pool.name, 0) == pool.count
    assert [service.name for service in plan.services] == [service.name for service in scenario.services]
    for asked, given in zip(scenario.services, plan.services, strict=True):
        for deployment in given.deployments:
            assert deployment.mode in asked.modes
            if asked.phase is not Phase.DECODE:
                assert deployment.ttft_ms is not None
                assert asked.slo.ttft_ms is not None
                assert deployment.ttft_ms <= asked.slo.ttft_ms * (1 + ROUNDING)
            if asked.phase is not Phase.PREFILL:
                assert deployment.tpot_ms is not None
                assert asked.slo.tpot_ms is not None
                assert deployment.tpot_ms <= asked.slo.tpot_ms * (1 + ROUNDING)
        if asked.demand_rps is not None and scenario.objective.maximizing:
            assert given.request_rate_rps <= asked.demand_rps * (1 + ROUNDING)
        elif asked.demand_rps is not None:
            assert given.request_rate_rps >= asked.demand_rps * (1 - ROUNDING)


def test_infeasible_names_the_smallest_change() -> None:
    scenario = load_scenario(EXAMPLES / INFEASIBLE)
    plan = solve(scenario, explain=True)
    assert plan.status is Status.INFEASIBLE
    assert {change.mode for change in plan.explanation.relaxations} == set(scenario.services[0].modes)
    limit_ms = scenario.services[0].slo.ttft_ms
    assert limit_ms is not None
    confirmed = [change for change in plan.explanation.relaxations if change.dimension == "ttft" and change.confirmed]
    assert all(change.current == limit_ms for change in confirmed)
    easiest_ms = min(change.needed for change in confirmed if change.needed is not None)
    assert easiest_ms > limit_ms
    # The promise behind it: with that much time for the first token there is a plan.
    service = scenario.services[0]
    slo = service.slo.model_copy(update={"ttft_ms": easiest_ms * (1 + GAP)})
    eased = scenario.model_copy(update={"services": (service.model_copy(update={"slo": slo}),)})
    assert solve(eased).status is Status.OPTIMAL


@pytest.mark.parametrize(
    ("name", "compute_rich_role", "memory_rich_role"),
    [("heterogeneous-pd", Role.PREFILL, Role.DECODE), ("heterogeneous-afd", Role.FFN, Role.ATTENTION)],
)
def test_both_gpu_types_together_beat_them_apart(name: str, compute_rich_role: Role, memory_rich_role: Role) -> None:
    scenario = load_scenario(EXAMPLES / f"{name}.yaml")
    memory_rich = "h20"
    (compute_rich,) = {pool.name for pool in scenario.cluster.pools} - {memory_rich}
    together = solve(scenario)
    assert any(
        uses(deployment, compute_rich_role, compute_rich) and uses(deployment, memory_rich_role, memory_rich)
        for service in together.services
        for deployment in service.deployments
    )
    # Not only more than either alone, which more GPUs always are, but more than the sum of both, proven by the bounds.
    apart = sum(
        bound(solve(scenario.model_copy(update={"cluster": Cluster(pools=(pool,))}))) for pool in scenario.cluster.pools
    )
    assert incumbent(together) > apart


def uses(deployment: Deployment, role: Role, gpu_pool: str) -> bool:
    return any(pool.role is role and pool.gpu_pool == gpu_pool for pool in deployment.pools)


@pytest.mark.parametrize("name", ["launchable-afd-gb200", "launchable-afd-h100-h200"])
def test_the_best_launchable_plan_uses_afd(name: str) -> None:
    scenario = load_scenario(EXAMPLES / f"{name}.yaml")
    (service,) = scenario.services
    assert service.launchable
    best = solve(scenario)
    assert {deployment.mode for deployment in best.services[0].deployments} == {Mode.AFD}
    whole = service.model_copy(update={"modes": (Mode.AGGREGATED,)})
    assert incumbent(best) > bound(solve(scenario.model_copy(update={"services": (whole,)})))


def test_the_tail_costs_throughput() -> None:
    tail = load_scenario(EXAMPLES / "p99.yaml")
    service = tail.services[0]
    assert service.slo.statistic is Statistic.P99
    slo = service.slo.model_copy(update={"statistic": Statistic.MEAN})
    mean = tail.model_copy(update={"services": (service.model_copy(update={"slo": slo}),)})
    assert mean == load_scenario(EXAMPLES / "aiconfigurator-qwen3-32b-fp8-32xh200.yaml")
    assert bound(solve(tail)) < incumbent(solve(mean))


def test_every_example_is_listed_once() -> None:
    rows = re.findall(r"^\| \[`([^`]+)`\]\(([^)]+)\) \| \S.* \|$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert all(name == target for name, target in rows)
    assert sorted(name for name, _ in rows) == [path.name for path in FILES]


def test_the_scenario_of_the_readme_is_the_coding_example() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), re.DOTALL)
    shown, coding = parse_scenario(text), load_scenario(EXAMPLES / "coding.yaml")
    assert shown.services == coding.services
    assert resolve_pool(shown.cluster.pools[0]) == resolve_pool(coding.cluster.pools[0])
    assert shown.objective == coding.objective
