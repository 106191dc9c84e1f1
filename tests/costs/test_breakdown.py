"""Breakdowns add up to the steps they break down."""

import pytest

from planner.costs.afd import AfdUnit
from planner.costs.breakdown import afd_breakdown, decode_breakdown, mixed_breakdown, prefill_breakdown
from planner.costs.layout import Layout
from planner.costs.worker import Worker
from tests.costs.sites import make_site

V3, V32, LLAMA = "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2", "meta-llama/Llama-3.1-70B"
NEMOTRON = "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16"
DRAFT = {"draft_tokens": 2, "accept_length": 2.2}
WORKERS = {
    "wide EP": Worker(make_site(model=V3), Layout(1, 32, 32, 1, 1, 256)),
    "wide EP with TP, sparse attention": Worker(make_site(model=V32), Layout(4, 8, 32, 1, 1, 256)),
    "TP and PP": Worker(make_site(model=LLAMA), Layout(4, 1, 1, 4, 2)),
    "experts in one node, drafts": Worker(make_site(model=V3, speculative=DRAFT), Layout(8, 1, 8, 1, 1, 256)),
    "mixed layers": Worker(make_site(model=NEMOTRON), Layout(2, 4, 8, 1, 1, 512)),
    "PP and EP, drafts": Worker(make_site(model=V3, speculative=DRAFT), Layout(1, 16, 16, 1, 2, 256)),
}
OVERLAPPED = Worker(make_site(model=V3), Layout(1, 32, 32, 1, 1, 256, overlap=True))


@pytest.mark.parametrize("name", WORKERS)
def test_without_overlap_the_operators_are_the_step(name: str) -> None:
    worker = WORKERS[name]
    for in_flight, slots in ((1.0, None), (300.0, 512.0), (4096.0, None)):
        found = decode_breakdown(worker, in_flight, slots)
        assert "overlap" not in found
        assert sum(found.values()) == pytest.approx(float(worker.decode_step_ms(in_flight, slots)), rel=1e-9)
        found = mixed_breakdown(worker, in_flight, slots, 3)
        assert "overlap" not in found
        assert sum(found.values()) == pytest.approx(float(worker.mixed_step_ms(in_flight, slots, 3)), rel=1e-9)
    for prompts, chunks in ((1.0, 1), (70.0, 4)):
        found = prefill_breakdown(worker, prompts, chunks)
        assert "overlap" not in found
        assert sum(found.values()) == pytest.approx(float(worker.prefill_ms(prompts, chunks)), rel=1e-9)


def test_overlap_is_what_running_side_by_side_saves() -> None:
    found = decode_breakdown(OVERLAPPED, 8192.0)
    assert found["overlap"] < 0
    assert sum(found.values()) == pytest.approx(float(OVERLAPPED.decode_step_ms(8192.0)), rel=1e-9)
    # At most all communication hides.
    assert -found["overlap"] <= found["dispatch"] + found["combine"]
    for found in (mixed_breakdown(OVERLAPPED, 8192.0, None, 2), prefill_breakdown(OVERLAPPED, 64.0, 1)):
        assert found["overlap"] < 0


def test_a_prefix_on_the_host_has_an_entry() -> None:
    site = make_site(model=V3, tokens=(2000, 100, 50_000), workload={"prefix_tier": "host"})
    worker = Worker(site, Layout(1, 32, 32, 1, 1, 256))
    found = prefill_breakdown(worker, 64.0, 2)
    assert found["prefix_load"] == pytest.approx(float(worker.prefix_load_ms(2.0)))
    assert sum(found.values()) == pytest.approx(float(worker.prefill_ms(64.0, 2)), rel=1e-9)


@pytest.mark.parametrize("speculative", [None, DRAFT])
@pytest.mark.parametrize("model", [V3, NEMOTRON])
def test_a_unit_adds_up(model: str, speculative: dict[str, float] | None) -> None:
    site = make_site(model=model, speculative=speculative)
    assert site.moe is not None
    unit = AfdUnit(site, site, 2, 16, 1, site.moe.experts, False)
    for count in (1, 2, 4):
        found = afd_breakdown(unit, 120.0, 10, count, 128.0)
        assert sum(found.values()) == pytest.approx(float(unit.decode_step_ms(120.0, 10, count, 128.0)), rel=1e-9)
        assert ("overlap" in found) == (count > 1)
        assert found["a2f"] < found["f2a"]


def test_operators_have_their_names() -> None:
    found = decode_breakdown(WORKERS["wide EP"], 4096.0)
    assert {"down", "q_up", "kv_up", "out", "router", "shared_up", "shared_down", "ffn_up", "ffn_down"} <= set(found)
    assert {"decode_attention", "dispatch", "experts", "combine", "elementwise", "head", "sampling", "engine"} <= set(
        found
    )
