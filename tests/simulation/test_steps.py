"""Tables of step times against the worker's own step times on the same load."""

from typing import Any

import numpy as np
import pytest

from planner.costs.layout import Layout
from planner.costs.worker import Worker
from planner.simulation.steps import StepTimes
from tests.costs.sites import make_site

V3, LLAMA = "deepseek-ai/DeepSeek-V3", "meta-llama/Llama-3.1-70B"
DRAFTS = {"draft_tokens": 2, "accept_length": 2.1}

LAYOUTS = {
    "tensor parallel": (LLAMA, Layout(8, 1, 1, 8)),
    "two stages": (LLAMA, Layout(4, 1, 1, 4, 2)),
    "three stages, unequal": (LLAMA, Layout(4, 1, 1, 4, 3)),
    "experts over one lane": (V3, Layout(8, 1, 8, 1, 1, 256)),
    "eight lanes": (V3, Layout(1, 8, 8, 1, 1, 256)),
    "lanes of tensor ranks": (V3, Layout(4, 8, 32, 1, 1, 256)),
    "lanes and stages": (V3, Layout(1, 8, 8, 1, 2, 256)),
}


def worker(name: str, *, speculative: bool = False, tokens: int = 2000, **site: Any) -> Worker:
    model, layout = LAYOUTS[name]
    drafts: dict[str, Any] = {"speculative": DRAFTS} if speculative else {}
    return Worker(make_site(model=model, tokens=(tokens, 500, 0), **drafts, **site), layout)


@pytest.mark.parametrize("speculative", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_decode_steps_are_the_workers(name: str, speculative: bool) -> None:
    """Also where lanes are unequally full: experts then follow what all lanes bring, the rest the fullest."""
    served = worker(name, speculative=speculative)
    lanes, slots = served.layout.dp, 64 * served.layout.dp
    times = StepTimes.of(served, slots, 512)
    for on_lane in (1, 2, 3, 5, 8, 33, 64):
        found = times.decode_step_ms(on_lane, on_lane * lanes)
        assert found == pytest.approx(float(served.decode_step_ms(on_lane * lanes)), rel=1e-12)
    if lanes > 1:
        for in_flight in range(1, 3 * lanes):
            fullest = -(-in_flight // lanes)
            found = times.decode_step_ms(fullest, in_flight)
            assert found == pytest.approx(float(served.decode_step_ms(in_flight)), rel=1e-12), in_flight


@pytest.mark.parametrize("speculative", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_mixed_steps_are_the_workers(name: str, speculative: bool) -> None:
    """A chunk in every micro-batch of every lane; for one lane alone, without pipeline stages."""
    served = worker(name, speculative=speculative)
    lanes, stages = served.layout.dp, served.layout.pp
    for chunks in (1, 4):
        size = 2000 // chunks
        times = StepTimes.of(served, 48 * lanes, size)
        assert times.stages == stages
        assert times.round_tokens == size * stages
        for on_lane in (stages, 4 * stages, 16 * stages):
            found = times.mixed_ms([on_lane] * lanes, [size * stages] * lanes)
            expected = float(served.mixed_step_ms(on_lane * lanes, None, chunks))
            assert found == pytest.approx(expected, rel=1e-12)
            if stages == 1:
                found = times.mixed_ms([on_lane] * lanes, [size] + [0] * (lanes - 1))
                expected = float(served.mixed_step_ms(on_lane * lanes, None, chunks, one_lane=True))
                assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", LAYOUTS)
def test_steps_of_prompts_alone_are_the_workers(name: str) -> None:
    """One prompt for each lane in one chunk, whose latency through all stages is the whole prefill."""
    served = worker(name)
    times = StepTimes.of(served, served.layout.dp, 2000)
    found = times.mixed_ms([0] * served.layout.dp, [2000] * served.layout.dp)
    assert found == pytest.approx(float(served.prefill_ms(served.layout.dp, 1)), rel=1e-12)


@pytest.mark.parametrize("name", LAYOUTS)
def test_more_load_is_never_faster(name: str) -> None:
    times = StepTimes.of(worker(name, speculative=True), 40, 300)
    for table in ("decode_expert_ms", "token_ms", "expert_ms", "core_ms", "draft_expert_ms", "fixed_ms"):
        assert (np.diff(getattr(times, table)) >= -1e-12).all(), table
    assert (np.diff(times.decode_ms) >= -1e-9).all()


def test_speculative_decoding() -> None:
    """2.1 tokens a step: 21 further tokens take ten steps, 22 eleven."""
    times = StepTimes.of(worker("eight lanes", speculative=True), 8, 100)
    assert (times.queries, times.tokens_per_step) == (3, 2.1)
    assert [times.decode_steps(tokens) for tokens in (1, 2, 3, 4, 22, 23)] == [0, 1, 1, 2, 10, 11]
    plain = StepTimes.of(worker("eight lanes"), 8, 100)
    assert [plain.decode_steps(tokens) for tokens in (1, 2, 3, 500)] == [0, 1, 2, 499]
    assert times.decode_step_ms(1, 8) > plain.decode_step_ms(1, 8)


def test_overlap_is_refused() -> None:
    overlapped = Worker(make_site(), Layout(1, 8, 8, 1, 1, 256, overlap=True))
    with pytest.raises(ValueError, match="overlap"):
        StepTimes.of(overlapped, 8, 100)
