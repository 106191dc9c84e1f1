"""Curves against the step functions that they stand for."""

import numpy as np
import pytest

from planner.costs.afd import AfdUnit
from planner.costs.layout import AfdLayout, Layout
from planner.costs.queueing import in_flight
from planner.costs.worker import Worker
from planner.curves import CURVE_TOLERANCE, curve, knots, smallest_batch
from planner.fractional import slots_of
from tests.costs.sites import make_site

POINTS = 1000
EXACT = 1e-9
"""Relative error allowed: ten times that at which a stretch of a curve counts as straight."""

DRAFTS = {"speculative": {"draft_tokens": 2, "accept_length": 2.1}}

WORKERS = {
    "dense tp1": ("h100", "meta-llama/Llama-3.1-8B", Layout(1), {}),
    "dense tp4 pp2": ("h200", "meta-llama/Llama-3.1-70B", Layout(4, pp=2, moe_tp=4), {}),
    "dense tp2 dp2": ("h100", "Qwen/Qwen3-32B", Layout(2, dp=2, moe_tp=4), {}),
    "moe ep4": ("h100", "Qwen/Qwen3-30B-A3B", Layout(1, dp=4, ep=4, expert_slots=128), {}),
    "moe tp8": ("h100", "mistralai/Mixtral-8x7B-v0.1", Layout(8, moe_tp=8, expert_slots=8), {"precision": "bf16"}),
    "sliding window": ("b200", "openai/gpt-oss-120b", Layout(2, dp=4, ep=8, expert_slots=128), {}),
    "mla overlap": ("h100", "deepseek-ai/DeepSeek-V3", Layout(1, dp=32, ep=32, expert_slots=288, overlap=True), {}),
    "dsa overlap": ("b200", "deepseek-ai/DeepSeek-V3.2", Layout(2, dp=8, ep=16, expert_slots=256, overlap=True), {}),
    "dsa drafts": (
        "b200",
        "deepseek-ai/DeepSeek-V3.2",
        Layout(1, dp=16, ep=16, expert_slots=256, overlap=True),
        DRAFTS,
    ),
}
UNITS = {
    "mla": ("h100", "deepseek-ai/DeepSeek-V3", AfdLayout(1, 5, 16, 1, 256, 1, False), {}),
    "dsa scale-up": ("gb200", "deepseek-ai/DeepSeek-V3.2", AfdLayout(2, 7, 8, 1, 256, 1, True), {}),
    "drafts": ("h100", "deepseek-ai/DeepSeek-V3", AfdLayout(1, 3, 16, 1, 256, 1, False), DRAFTS),
    "gqa": ("h200", "Qwen/Qwen3-235B-A22B", AfdLayout(4, 3, 8, 1, 128, 1, False), {}),
    "sliding window": ("b200", "openai/gpt-oss-120b", AfdLayout(1, 4, 4, 1, 128, 1, False), {}),
}


def random_batches(low: float, high: float) -> np.ndarray:
    """Half of them spread evenly, half by order of magnitude."""
    rng = np.random.default_rng(7)
    return np.concatenate([rng.uniform(low, high, POINTS // 2), np.exp(rng.uniform(*np.log([low, high]), POINTS // 2))])


@pytest.mark.parametrize("name", WORKERS)
def test_worker_curve_is_the_step_function(name: str) -> None:
    gpu, model, layout, service = WORKERS[name]
    worker = Worker(make_site(gpu, model, **service), layout)
    low, high = 0.05, 400.0 * layout.parts
    batch = random_batches(low, high)
    # Slots that are a full multiple of the parts leave every part equally full.
    step = worker.decode_step_ms(batch, np.full(POINTS, 1000.0 * layout.parts))
    found = curve(worker, 1, 1, low, high)
    np.testing.assert_allclose(found(batch), step, rtol=EXACT)
    assert found.batch[0] == low
    assert found.batch[-1] == high


@pytest.mark.parametrize("microbatches", [1, 2, 3, 4])
@pytest.mark.parametrize("name", UNITS)
def test_unit_curve_is_the_step_function(name: str, microbatches: int) -> None:
    gpu, model, layout, service = UNITS[name]
    site = make_site(gpu, model, **service)
    unit, copies = AfdUnit.of(site, site, layout), layout.attention_replicas
    low, high = 0.05, 300.0 * copies * microbatches
    batch = random_batches(low, high)
    step = unit.decode_step_ms(batch / copies, copies, microbatches, np.full(POINTS, 1000.0 * microbatches))
    found = curve(unit, copies, microbatches, low, high)
    np.testing.assert_allclose(found(batch), step, rtol=EXACT)


def test_overlap_and_units_have_kinks_between_the_knots() -> None:
    # Otherwise the search for kinks would be tested by nothing.
    gpu, model, layout, service = WORKERS["mla overlap"]
    worker = Worker(make_site(gpu, model, **service), layout)
    unit_gpu, unit_model, unit_layout, _ = UNITS["mla"]
    site = make_site(unit_gpu, unit_model)
    for family, copies, count in ((worker, 1, 1), (AfdUnit.of(site, site, unit_layout), 5, 3)):
        found = curve(family, copies, count, 0.05, 20_000.0)
        known = knots(family, copies, count)
        known = known[known > 0.0]
        distance = np.abs(found.batch[1:-1, None] / known[None, :] - 1.0).min(axis=1)
        assert (distance > 1e-6).any()


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["dense tp4 pp2", "moe ep4", "mla overlap"])
def test_integer_slots_lie_on_the_curve_or_above(name: str, cv: float) -> None:
    gpu, model, layout, service = WORKERS[name]
    worker = Worker(make_site(gpu, model, **service), layout)
    slots = np.arange(1.0, 6.0 * layout.parts + 1.0)
    mean = in_flight(slots, cv)
    found = curve(worker, 1, 1, smallest_batch(1, cv), float(mean[-1]))
    step, line = worker.decode_step_ms(mean, slots), found(mean)
    full = slots % layout.parts == 0
    np.testing.assert_allclose(step[full], line[full], rtol=EXACT)
    assert (step >= line * (1.0 - EXACT)).all()
    uneven = ~full & (slots > layout.parts)
    # Beyond one request per part the fullest part sets the pace, strictly.
    assert (step[uneven & (mean > layout.parts)] > line[uneven & (mean > layout.parts)] * (1.0 + EXACT)).all()


@pytest.mark.parametrize("copies", [1, 3])
def test_integer_slots_of_units_lie_on_the_curve_or_above(copies: int) -> None:
    gpu, model, layout, _ = UNITS["gqa"]
    site = make_site(gpu, model)
    unit, count = AfdUnit.of(site, site, layout), 3
    slots = np.arange(1.0, 60.0)
    batch = in_flight(slots * copies)
    found = curve(unit, copies, count, smallest_batch(copies, 1.0), float(batch[-1]))
    step = unit.decode_step_ms(batch / copies, copies, count, slots)
    full = slots % count == 0
    np.testing.assert_allclose(step[full], found(batch[full]), rtol=EXACT)
    assert (step >= found(batch) * (1.0 - EXACT)).all()


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_slots_carry_the_batch(cv: float) -> None:
    batch = np.geomspace(0.01, 1e4, 200)
    np.testing.assert_allclose(in_flight(slots_of(batch, cv), cv), batch, rtol=EXACT)


def test_curve_of_one_batch() -> None:
    worker = Worker(make_site("h100", "meta-llama/Llama-3.1-8B"), Layout(1))
    found = curve(worker, 1, 1, 3.5, 3.5)
    assert found.batch.tolist() == [3.5]
    low, high, slope, intercept = found.lines()
    assert (low[0], high[0], slope[0]) == (3.5, 3.5, 0.0)
    assert intercept[0] == pytest.approx(float(worker.decode_step_ms(3.5, 4.0)), rel=CURVE_TOLERANCE)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.0, 1.0)])
def test_refuses_batches_without_meaning(low: float, high: float) -> None:
    worker = Worker(make_site("h100", "meta-llama/Llama-3.1-8B"), Layout(1))
    with pytest.raises(ValueError, match="0 < low <= high"):
        curve(worker, 1, 1, low, high)
