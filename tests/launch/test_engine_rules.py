"""What the planner may propose, engines' commands can say: launch rules against the writers of commands."""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import pytest

from planner.costs.layout import AfdLayout, Layout
from planner.costs.site import Site
from planner.launch.address import Address
from planner.launch.component import Component
from planner.launch.process import engine_process
from planner.launchable import Launchable
from planner.options.layouts import afd_units, layouts
from specs import engine_table, launch_rules
from specs.errors import SpecError
from specs.model import MoeFfn
from specs.plan import Role
from specs.scenario import Pool, resolve_pool
from specs.service import Engine, Mode
from tests.launch.components import DEEPSEEK, LLAMA, QWEN, component, unit

AFD_MODES = (Mode.AFD, Mode.PREFILL_DECODE_AFD)
POOLS = {"h200": 8, "gb200": 4}
"""GPU type -> GPUs of a node: one with a node as its domain, one whose domain has many nodes."""
MODELS = (DEEPSEEK, QWEN, LLAMA, "Qwen/Qwen3.5-397B-A17B", "openai/gpt-oss-120b")
ROLES = {
    Role.MIXED: Mode.AGGREGATED,
    Role.PREFILL: Mode.PREFILL_DECODE,
    Role.DECODE: Mode.PREFILL_DECODE,
}
STRICTER = {
    "no pipeline parallelism in P/D (NixlConnector)",
    "no redundant experts for this model",
    "decode pipelines only with the stages of prefill",
    "no exchange for both prompts and decoding beyond one scale-up domain, or in dual batch overlap",
    "DeepEP's normal mode needs EP of 2, 4, 8, 16, 24, 32, 64, 128, 144 or 160",
    "DeepEP's high-throughput mode needs EP of 2, 4, 8, 16, 24, 32, 64, 128, 144 or 160",
    "DeepEP's normal mode spans only nodes of 8 GPUs",
    "DeepEP's high-throughput mode spans only nodes of 8 GPUs",
    "DeepEP needs fewer than 8 EP ranks or a multiple of 8",
    "two-batch overlap needs EP over all ranks",
    "two-batch overlap only for DeepSeek (and models of its layers), Qwen3 MoE and MiMo V2",
}
"""Rules, each with its source, that block what a command could say: the engine reads the flags and then stops."""
COPIES = {1, 2, 3, 4, 7, 8, 12, 16, 24}
"""Attention replicas of the units that are tried."""
RULES = [(engine, version) for engine in Engine for version in launch_rules.versions(engine)]


@lru_cache
def _site(engine: Engine, of: str, gpu: str) -> Site:
    pool = resolve_pool(Pool(name="gpus", gpu=gpu, count=32, gpus_per_node=POOLS[gpu]))
    return Site.of(component(engine.value, of).service, pool)


def _rules(engine: Engine, version: str, of: str) -> Launchable:
    site = _site(engine, of, "h200")
    rules = launch_rules.launch_rules(engine, version)
    return Launchable(site.service.model_copy(update={"launchable": True}), site.model, dict.fromkeys(Mode, rules))


def _worker(engine: Engine, of: str, gpu: str, layout: Layout, role: Role) -> Component:
    degrees = {name: getattr(layout, name) for name in ("tp", "dp", "ep", "moe_tp", "pp", "expert_slots")}
    return component(
        engine.value, of, role.value, ROLES[role].value, gpu=gpu, gpus_per_node=POOLS[gpu], count=32, **degrees,
        batch=6 * layout.dp * layout.pp, microbatches=layout.pp * (2 if layout.overlap else 1),
        chunk_tokens=0 if role is Role.DECODE else 4096 * layout.dp,
    )  # fmt: skip


def _sides(engine: Engine, of: str, gpu: str, layout: AfdLayout, mode: Mode) -> tuple[Component, Component]:
    shape = {"a": layout.attention_replicas, "tp": layout.tp, "microbatches": layout.microbatches}
    return unit(
        engine.value, of, mode=mode.value, gpu=gpu, gpus_per_node=POOLS[gpu], count=32, **shape,
        ep=layout.ep, moe_tp=layout.moe_tp, expert_slots=layout.expert_slots,
    )  # fmt: skip


def _units(engine: Engine, of: str, gpu: str) -> Iterator[AfdLayout]:
    site = _site(engine, of, gpu)
    seen = set()
    for server in afd_units(site, site, Counter()):
        for copies, batches in zip(server.copies.tolist(), server.microbatches.tolist(), strict=True):
            found = server.unit.layout(copies, batches)
            shape = (found.tp, copies, found.ep, found.moe_tp, found.expert_slots, batches)
            if copies in COPIES and shape not in seen:
                seen.add(shape)
                yield found


def _refusal(engine: Engine, version: str, each: Component, partner: Component | None = None) -> str | None:
    """Why a component cannot be started on one of its nodes; None where it can."""
    table = engine_table.engine_table(engine, version)
    try:
        _ = each.gpus_on_node
        for rank in range(each.nodes):
            engine_process(each, table, Address(str(rank), "10.0.0.1"), partner=partner)
    except SpecError as error:
        return str(error)
    return None


@pytest.mark.parametrize("of", MODELS)
@pytest.mark.parametrize(("engine", "version"), RULES)
def test_workers_that_rules_allow_have_commands(engine: Engine, version: str, of: str) -> None:
    rules, allowed, stricter = _rules(engine, version, of), 0, set[str]()
    for gpu in POOLS:
        for layout in layouts(_site(engine, of, gpu), Counter()):
            for role, mode in ROLES.items():
                each = _worker(engine, of, gpu, layout, role)
                blocked = rules.deployment_blocked_by(mode, {"gpus": each.pool}, [each.plan])
                refusal = _refusal(engine, version, each)
                assert blocked or refusal is None, (layout, role)
                allowed += not blocked
                stricter |= set(blocked[:1]) if refusal is None else set()
    assert allowed > 20
    assert {sentence.partition(": ")[2] for sentence in stricter} <= STRICTER


@pytest.mark.parametrize("mode", AFD_MODES)
@pytest.mark.parametrize("of", MODELS)
@pytest.mark.parametrize(("engine", "version"), RULES)
def test_units_that_rules_allow_have_commands(engine: Engine, version: str, of: str, mode: Mode) -> None:
    rules, allowed = _rules(engine, version, of), 0
    if mode in launch_rules.launch_rules(engine, version).launches:
        for gpu in POOLS:
            for layout in _units(engine, of, gpu):
                attention, ffn = _sides(engine, of, gpu, layout, mode)
                if rules.deployment_blocked_by(mode, {"gpus": attention.pool}, [attention.plan, ffn.plan]):
                    continue
                assert _refusal(engine, version, attention, ffn) is None, layout
                assert _refusal(engine, version, ffn, attention) is None, layout
                allowed += 1
    assert (allowed > 0) == _launches(engine, version, of, mode)


def _launches(engine: Engine, version: str, of: str, mode: Mode) -> bool:
    """Whether AFD of a model is in the documentation at all, phase `full`."""
    if engine is Engine.SGLANG:
        return "+" in version and of == QWEN and mode is Mode.AFD
    plugin = (engine, version) == (Engine.VLLM, "0.30.0")
    return plugin and mode is Mode.PREFILL_DECODE_AFD and of not in (LLAMA, "openai/gpt-oss-120b")


def test_rules_have_flag_tables_and_the_same_defaults() -> None:
    for engine in Engine:
        tables = engine_table.versions(engine)
        assert set(launch_rules.versions(engine)) <= set(tables)
        for mode in Mode:
            assert launch_rules.launch_rules(engine, mode=mode).version == engine_table.default_version(engine, mode)


def test_redundant_experts_follow_from_slots() -> None:
    """The grids above have layouts with and without them."""
    site = _site(Engine.VLLM, DEEPSEEK, "h200")
    moe = next(group.ffn for group in site.model.layers if isinstance(group.ffn, MoeFfn))
    assert {layout.expert_slots > moe.experts for layout in layouts(site, Counter())} == {False, True}
