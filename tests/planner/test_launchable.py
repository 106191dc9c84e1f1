"""What engines launch: the rules against a second reading of the documentation, and plans that keep them."""

from __future__ import annotations

from collections import Counter
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from planner import api, comparison
from planner.costs.layout import Layout
from planner.costs.site import Site
from planner.launchable import Launchable, blocked_by
from planner.options.layouts import afd_units, layouts
from planner.space import Space
from planner.table import items_of
from planner.view.compare_view import compare_view
from specs.engine_table import default_version
from specs.errors import SpecError
from specs.launch_rules import FACTS, LaunchRules, Rule, Subject, launch_rules, versions
from specs.plan import Plan, Role, Status
from specs.scenario import Cluster, Pool, Scenario, resolve_pool
from specs.service import Engine, Mode, Phase, Service, Speculative
from tests.planner.naive_launchable import mode_launches, unit_launches, worker_launches
from tests.planner.scenarios import DENSE, MOE, ROUNDING, bound, incumbent, scenario, service

GAP = 1e-3
AFD_MODES = (Mode.AFD, Mode.PREFILL_DECODE_AFD)
DRAFTS = Speculative(draft_tokens=1, accept_length=1.7)
HANDED = {Role.MIXED: None, Role.PREFILL: "prefill", Role.DECODE: "decode"}


def asks(**changes: Any) -> Service:
    return service(**{"launchable": True, **changes})


def site_of(asked: Service, gpu: str, count: int, **pool: Any) -> Site:
    return Site.of(asked, resolve_pool(Pool(name=gpu, gpu=gpu, count=count, **pool)))


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize(
    ("model", "gpu", "changes"),
    [
        (MOE, "h100", {}),
        (MOE, "h200", {"speculative": DRAFTS}),
        (MOE, "a100", {}),
        (MOE, "l40s", {}),
        (MOE, "rtx-pro-6000-96gb", {}),
        (MOE, "mi300x", {}),
        (MOE, "a100", {"precision": "bf16", "kv_cache_dtype": "bf16"}),
        (DENSE, "l40s", {}),
        ("openai/gpt-oss-120b", "b200", {"precision": "fp4"}),
        ("openai/gpt-oss-120b", "h100", {"precision": "fp4"}),
        ("deepseek-ai/DeepSeek-V3", "gb200", {}),
        ("moonshotai/Kimi-K2-Instruct", "b200", {"speculative": DRAFTS}),
        ("Qwen/Qwen3.5-397B-A17B", "h200", {}),
        ("zai-org/GLM-5", "h200", {}),
    ],
)
def test_rules_on_workers_are_those_of_the_documentation(
    engine: Engine, model: str, gpu: str, changes: dict[str, Any]
) -> None:
    asked = asks(model=model, engine=engine, **changes)
    site = site_of(asked, gpu, 48 if gpu != "gb200" else 36)
    rules = Launchable.of(asked, site.model)
    experts = site.moe.experts if site.moe else 0
    found = list(layouts(site, Counter()))
    assert found
    for layout in found:
        for role, handed in HANDED.items():
            mode = Mode.AGGREGATED if role is Role.MIXED else Mode.PREFILL_DECODE
            allowed = rules.worker(mode, role, site.pool, layout) is None
            assert allowed == worker_launches(asked, site.pool, layout, experts, handed=handed), (layout, role)


@pytest.mark.parametrize(
    ("model", "near", "far"),
    [
        (MOE, "h100", "h100"),
        (MOE, "h20", "h100"),
        (MOE, "gb200", "gb200"),
        (MOE, "mi300x", "mi300x"),
        ("deepseek-ai/DeepSeek-V3.2", "h200", "h200"),
        ("Qwen/Qwen3.5-397B-A17B", "b200", "b200"),
        ("Qwen/Qwen3.5-397B-A17B", "gb200", "gb200"),
    ],
)
def test_rules_on_units_are_those_of_the_documentation(model: str, near: str, far: str) -> None:
    asked = asks(model=model, engine=Engine.VLLM, modes=AFD_MODES)
    a, f = site_of(asked, near, 24), site_of(asked, far, 24)
    if near == far:
        f = a
    rules = Launchable.of(asked, a.model)
    assert a.moe is not None
    refused = Counter[str]()
    seen = 0
    for server in afd_units(a, f, Counter()):
        every = {
            server.unit.layout(copies, batches)
            for copies, batches in zip(server.copies.tolist(), server.microbatches.tolist(), strict=True)
        }
        kept = rules.units(server, refused)
        left = (
            set()
            if kept is None
            else {
                kept.unit.layout(copies, batches)
                for copies, batches in zip(kept.copies.tolist(), kept.microbatches.tolist(), strict=True)
            }
        )
        expected = {unit for unit in every if unit_launches(asked, a.pool, f.pool, unit, a.moe.experts)}
        assert left == expected
        seen += len(every) - len(left)
    assert seen == sum(refused.values()) > 0


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("model", [MOE, "openai/gpt-oss-120b", "deepseek-ai/DeepSeek-R1", "Qwen/Qwen3.5-397B-A17B"])
@pytest.mark.parametrize("phase", [Phase.FULL, Phase.DECODE])
@pytest.mark.parametrize("speculative", [None, DRAFTS])
def test_rules_on_modes_are_those_of_the_documentation(
    engine: Engine, model: str, phase: Phase, speculative: Speculative | None
) -> None:
    asked = asks(model=model, engine=engine, phase=phase, speculative=speculative, modes=tuple(Mode))
    site = site_of(asked, "h100", 16)
    rules = Launchable.of(asked, site.model)
    for mode in Mode:
        reason = rules.mode(mode, [site.pool])
        assert (reason is None) == mode_launches(asked, mode), (mode, reason)
        assert reason is None or reason.startswith(launch_rules(engine, mode=mode).title)


def test_the_newest_version_that_launches_the_mode_answers() -> None:
    assert versions(Engine.VLLM) == ("0.33.0", "0.30.0")
    assert launch_rules(Engine.VLLM, mode=Mode.AGGREGATED).version == "0.33.0"
    assert launch_rules(Engine.VLLM, mode=Mode.AFD).version == "0.30.0"
    assert launch_rules(Engine.SGLANG, mode=Mode.AFD) is launch_rules(Engine.SGLANG)
    with pytest.raises(SpecError, match=r"no launch rules for vllm '0\.1'; accepted: 0\.33\.0, 0\.30\.0"):
        launch_rules(Engine.VLLM, "0.1")


@pytest.mark.parametrize("engine", Engine)
def test_rules_and_flag_tables_are_of_the_same_versions(engine: Engine) -> None:
    for mode in Mode:
        assert launch_rules(engine, mode=mode).version == default_version(engine, mode)


def test_every_rule_has_its_source_and_every_source_its_rule() -> None:
    for engine in Engine:
        for version in versions(engine):
            rules = launch_rules(engine, version)
            assert {rule.source for rule in rules.rules} == set(rules.sources)
            assert all(rule.blocks[-1] != "." for rule in rules.rules)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"require": [["speed", ">=", 1]]}, "unknown fact 'speed' of a worker"),
        ({"require": [["tp", "~", 1]]}, "unknown operation"),
        ({"require": [["tp", "in", 1]]}, "a list of numbers"),
        ({"require": [["tp", "==", [1, 2]]]}, "a fact or a number"),
        ({"source": "hearsay"}, "unknown source"),
        ({"when": {"planets": ["mars"]}}, "planets"),
    ],
)
def test_mistakes_in_the_data_are_refused(change: dict[str, Any], message: str) -> None:
    rule = {"name": "x", "subject": "worker", "blocks": "x", "source": "page", **change}
    with pytest.raises(ValueError, match=message):
        LaunchRules.model_validate({"engine": "vllm", "version": "1.0", "sources": {"page": "a page"}, "rules": [rule]})


def test_facts_of_a_rule_are_facts_of_its_subject() -> None:
    assert not FACTS[Subject.MODE]
    with pytest.raises(ValueError, match="accepted: none"):
        Rule.model_validate(
            {"name": "x", "subject": "mode", "blocks": "x", "source": "y", "require": [["tp", "==", 1]]}
        )


# -- plans -------------------------------------------------------------------------------------------------------------


def free(asked: Scenario) -> Scenario:
    services = tuple(each.model_copy(update={"launchable": False}) for each in asked.services)
    return asked.model_copy(update={"services": services})


CASES = {
    "vllm": scenario(asks(model=MOE, engine=Engine.VLLM, modes=(Mode.AGGREGATED, Mode.PREFILL_DECODE))),
    "vllm units": scenario(asks(model=MOE, engine=Engine.VLLM, modes=(Mode.PREFILL_DECODE_AFD,), ttft_ms=1000.0)),
    "vllm decode": scenario(asks(model=MOE, engine=Engine.VLLM, modes=(Mode.AFD,), phase=Phase.DECODE), count=16),
    "sglang": scenario(asks(model=MOE, engine=Engine.SGLANG, modes=tuple(Mode))),
    "trtllm": scenario(asks(model="openai/gpt-oss-120b", engine=Engine.TRTLLM, modes=tuple(Mode)), gpu="b200"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_launchable_and_no_better_than_one_that_need_not_be(name: str) -> None:
    asked = CASES[name]
    plan = api.plan(asked, gap=GAP, explain=False)
    assert plan.status is Status.OPTIMAL
    assert blocked_by(asked.services, plan) == ()
    assert independent(plan)
    assert incumbent(plan) <= bound(api.plan(free(asked), gap=GAP, explain=False)) * (1 + ROUNDING)
    titles = plan.certificate.space["launchable"]
    assert isinstance(titles, tuple)
    assert titles == Launchable.of(asked.services[0], model_of(asked)).titles
    assert "launchable" not in api.plan(free(asked), gap=GAP, explain=False).certificate.space


def model_of(asked: Scenario) -> Any:
    from specs import catalog

    return catalog.model(asked.services[0].model)


def independent(plan: Plan) -> bool:
    """Whether every worker of a plan launches, by the second reading."""
    assert plan.scenario is not None
    pools = {pool.name: resolve_pool(pool) for pool in plan.scenario.cluster.pools}
    model = model_of(plan.scenario)
    experts = next((group.ffn.experts for group in model.layers if group.ffn and group.ffn.kind == "moe"), 0)
    asked = plan.scenario.services[0]
    return all(
        worker_launches(
            asked,
            pools[pool.gpu_pool],
            Layout(pool.tp, pool.dp, pool.ep, pool.moe_tp, pool.pp, pool.expert_slots, pool.microbatches > pool.pp),
            experts,
            handed=HANDED[pool.role],
        )
        for served in plan.services
        for deployment in served.deployments
        for pool in deployment.pools
        if pool.unit is None
    )


def test_modes_that_no_layout_launches_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"SGLang 0\.5\.23: no release has AFD"):
        api.plan(scenario(asks(model=MOE, engine=Engine.SGLANG, modes=(Mode.AFD,))))
    with pytest.raises(SpecError, match=r"vLLM 0\.30\.0: AFD decodes only"):
        api.plan(scenario(asks(model=MOE, engine=Engine.VLLM, modes=(Mode.AFD,))))
    with pytest.raises(SpecError, match=r"TensorRT-LLM 1\.3\.0rc20: NVIDIA GPUs only"):
        api.plan(scenario(asks(engine=Engine.TRTLLM), gpu="mi300x"))
    with pytest.raises(SpecError, match=r"FP4 weights need a Blackwell GPU"):
        api.plan(scenario(asks(engine=Engine.TRTLLM, precision="fp4")))


def test_an_answer_without_a_plan_says_which_rules_refused_layouts() -> None:
    # Qwen3.5 with AFD fits no single node of 8 H100, and rules keep it inside one.
    asked = scenario(
        asks(model="Qwen/Qwen3.5-397B-A17B", engine=Engine.VLLM, modes=(Mode.AFD,), phase=Phase.DECODE), count=16
    )
    plan = api.plan(asked, time_limit_s=30.0)
    assert plan.status is Status.INFEASIBLE
    assert any("does not span nodes" in reason for reason in plan.explanation.rejected)


def test_a_pool_that_the_engine_refuses_is_left_out() -> None:
    pools = (Pool(name="a100", gpu="a100", count=8), Pool(name="h100", gpu="h100", count=8))
    asked = scenario(asks(engine=Engine.TRTLLM)).model_copy(update={"cluster": Cluster(pools=pools)})
    plan = api.plan(asked, gap=GAP, explain=False)
    assert plan.gpus_used["a100"] == 0
    assert plan.gpus_used["h100"] == 8


def test_attention_replicas_of_a_launchable_unit_are_one_block() -> None:
    for launchable, pieces in ((True, {(6, 1), (8, 2)}), (False, {(1, 6), (1, 16)})):
        asked = asks(model=MOE, engine=Engine.VLLM, launchable=launchable)
        site = site_of(asked, "h100", 32)
        unit = next(
            server.unit
            for server in afd_units(site, site, Counter())
            if not server.unit.scale_up and server.unit.tp == 1 and server.unit.ffn_gpus == 4
        )
        found = set()
        for copies in (6, 16):
            items = items_of(unit, copies)
            assert items.pop(("h100", 4)) == 1
            ((_, size), number) = next(iter(items.items()))
            found.add((size, number))
        assert found == pieces


# -- comparison --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [True, False])
def test_both_plans_stand_side_by_side(asked: bool) -> None:
    base = scenario(asks(model=MOE, engine=Engine.VLLM, modes=tuple(Mode), ttft_ms=1000.0))
    compared = api.compare(base if asked else free(base), gap=GAP, pareto=False)
    assert compared.launchable is asked
    by_mode = {result.mode: result for result in compared.modes}
    for mode, result in by_mode.items():
        one = [each.model_copy(update={"modes": (mode,)}) for each in base.services]
        alone = base.model_copy(update={"services": tuple(one)})
        best = api.plan(free(alone), gap=GAP, explain=False)
        assert result.value == pytest.approx(incumbent(best), rel=GAP)
        if mode is Mode.AFD:
            assert result.blocked_by == ("vLLM 0.30.0: AFD decodes only, alone or behind P/D",)
            assert result.launchable_value is None
            assert result.answer(launchable=True) == (None, None)
            continue
        launched = api.plan(alone, gap=GAP, explain=False)
        assert result.launchable_value == pytest.approx(incumbent(launched), rel=GAP)
        value, plan = result.answer(launchable=True)
        assert value == result.launchable_value
        assert plan is not None
        assert blocked_by(base.services, plan) == ()
        assert bool(result.blocked_by) == bool(blocked_by(base.services, result.plan or plan))
    answers = {mode: result.answer(launchable=asked)[0] for mode, result in by_mode.items()}
    assert compared.best is max(answers, key=lambda mode: answers[mode] or 0.0)
    console = Console(width=200, record=True, file=StringIO())
    console.print(compare_view(compared, base))
    shown = console.export_text()
    assert "none launchable" in shown
    assert "blocked by vLLM 0.30.0: AFD decodes only" in shown
    assert ("of plans that the engines can launch" in shown) is asked


def test_a_plan_that_can_be_launched_is_not_searched_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    solves = []

    def counted(space: Space, **given: Any) -> Any:
        solves.append(space.services[0].service.modes)
        return solve(space, **given)

    solve = comparison.solve
    monkeypatch.setattr(comparison, "solve", counted)
    asked = scenario(asks(model=DENSE, engine=Engine.VLLM, modes=(Mode.AGGREGATED,)))
    compared = api.compare(asked, gap=GAP, pareto=False)
    assert len(solves) == 1
    (result,) = compared.modes
    assert result.value == result.launchable_value
    assert result.blocked_by == ()
    assert result.launchable_plan is None
    assert result.plan is not None
    assert result.plan.scenario == asked
