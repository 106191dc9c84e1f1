"""AFD steps: against the flow-shop simulation, and laws of their stages."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.costs.afd import SERVERS, AfdUnit
from planner.costs.fabric import COLLECTIVE_SETUP_US, MESSAGE_ISSUE_US
from planner.costs.pipeline import identical_layers_ms
from planner.costs.worker import dispatch_bytes
from specs.catalog import model_ids
from specs.model import Precision
from tests.costs.sites import make_site
from tests.oracles.flow_shop import flow_shop_ms

V3, QWEN, MINIMAX = "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-235B-A22B", "MiniMaxAI/MiniMax-M2.5"
MOE = [name for name in model_ids() if make_site(model=name).moe is not None]


def make_unit(
    model: str = V3,
    gpu: str = "h800",
    *,
    tp: int = 1,
    ep: int = 16,
    moe_tp: int = 1,
    scale_up: bool = False,
    **site: Any,
) -> AfdUnit:
    pool = make_site(gpu, model, **site)
    assert pool.moe is not None
    return AfdUnit(pool, pool, tp, ep, moe_tp, -(-pool.moe.experts // ep) * ep, scale_up)


def once_ms(unit: AfdUnit, positions: float) -> float:
    parts = unit.attention.head_parts().values()
    return sum(float(part(positions)) for part in parts) + float(unit.attention_site.engine.step_ms(positions))


@pytest.mark.parametrize("microbatches", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [4, 64, 512])
@pytest.mark.parametrize("replicas", [1, 8, 40])
def test_a_step_equals_the_simulation(microbatches: int, batch: int, replicas: int) -> None:
    unit = make_unit()
    sequences = np.ceil(batch / microbatches)
    dense, sparse = unit.stage_ms(sequences, sequences, replicas)
    simulated = flow_shop_ms(
        [[list(sparse)] * microbatches] * 58, SERVERS, prologue_ms=[[float(dense[0])] * microbatches] * 3
    )
    step = float(unit.decode_step_ms(float(batch), replicas, microbatches))
    assert step - once_ms(unit, sequences * microbatches) == pytest.approx(simulated, rel=1e-9)


@pytest.mark.parametrize("model", [QWEN, MINIMAX])
def test_identical_layers_take_the_closed_form(model: str) -> None:
    unit = make_unit(model)
    layers = unit.attention_site.model.layer_count
    for count in (1, 2, 3, 4):
        (stages,) = unit.stage_ms(60.0, 60.0, 12)
        step = float(unit.decode_step_ms(60.0 * count, 12, count))
        expected = float(identical_layers_ms(stages, layers, count))
        assert step - once_ms(unit, 60.0 * count) == pytest.approx(expected, rel=1e-9)
        if count == 1:
            assert expected == pytest.approx(layers * float(stages.sum()))


@pytest.mark.parametrize(
    "model", ["Qwen/Qwen3.5-397B-A17B", "meta-llama/Llama-4-Maverick-17B-128E-Instruct", "stepfun-ai/step3"]
)
def test_mixed_layers_equal_the_simulation_of_their_pattern(model: str) -> None:
    unit = make_unit(model)
    stages = unit.stage_ms(40.0, 40.0, 8)
    ((pattern, repeats),) = unit.pattern.runs
    assert sorted(pattern * repeats) == [
        i for i, g in enumerate(unit.attention_site.model.layers) for _ in range(g.count)
    ]
    for count in (1, 3):
        simulated = flow_shop_ms([[list(stages[i])] * count for i in pattern * repeats], SERVERS)
        step = float(unit.decode_step_ms(40.0 * count, 8, count))
        assert step - once_ms(unit, 40.0 * count) == pytest.approx(simulated, rel=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    model=st.sampled_from(MOE),
    gpu=st.sampled_from(["h100", "h20", "b200", "gb200-nvl72-186gb"]),
    ep=st.sampled_from([2, 4, 8, 16]),
    tp=st.sampled_from([1, 2]),
    count=st.integers(1, 4),
    replicas=st.integers(1, 60),
    scale_up=st.booleans(),
)
def test_more_requests_take_longer_and_never_lose_rate(
    model: str, gpu: str, ep: int, tp: int, count: int, replicas: int, scale_up: bool
) -> None:
    unit = make_unit(
        model, gpu, ep=min(ep, make_site(gpu).fabric.domain), tp=tp, scale_up=scale_up, tokens=(500, 500, 300)
    )
    batch = np.arange(1, 60) * float(count)
    for time in (unit.decode_step_ms(batch, replicas, count), unit.mixed_step_ms(batch, replicas, count, None, 2)):
        assert (np.diff(time) >= -1e-9 * time[1:]).all()
        assert (np.diff(time / batch) <= 1e-9 * time[1:]).all()


@pytest.mark.parametrize("model", MOE)
def test_a_step_respects_both_bounds(model: str) -> None:
    unit = make_unit(model)
    for count in (1, 2, 3, 4):
        stages = unit.stage_ms(32.0, 32.0, 10)
        layers = unit.attention_site.model.layers
        step = float(unit.decode_step_ms(32.0 * count, 10, count)) - once_ms(unit, 32.0 * count)
        chain = sum(float(stage.sum()) * group.count for stage, group in zip(stages, layers, strict=True))
        busiest = max(sum(count * float(s[k]) * g.count for s, g in zip(stages, layers, strict=True)) for k in range(4))
        assert step >= max(chain, busiest) * (1 - 1e-9)
        assert step <= chain * count * (1 + 1e-9)


def test_the_prefix_is_charged_at_every_batch_and_micro_batch() -> None:
    near, far = make_unit(tokens=(256, 100, 0)), make_unit(tokens=(256, 100, 100_000))
    for count in (1, 2, 3, 4):
        batch = np.arange(count, 17.0)
        core = 61 * (far.attention.decode_core(1, 1e5, 1e5)(1.0) - near.attention.decode_core(1, 0.0, 0.0)(1.0)) * 0.9
        assert (far.decode_step_ms(batch, 4, count) - near.decode_step_ms(batch, 4, count) >= core).all()
        both = [unit.mixed_step_ms(batch, 4, count, None, 1) for unit in (near, far)]
        prefill = far.attention.prefill_core(1, 256.0, 1e5)(1.0) - far.attention.prefill_core(1, 256.0, 0.0)(1.0)
        assert (both[1] - both[0] >= 58 * prefill / count).all()


def test_more_attention_replicas_bring_the_experts_more_tokens() -> None:
    unit = make_unit()
    replicas = np.array([1.0, 4, 16, 64, 200])
    _, stages = unit.stage_ms(np.full(5, 64.0), np.full(5, 64.0), replicas)
    assert (np.diff(stages[:, 2]) > 0).all()
    assert np.ptp(stages[:, 0]) == 0.0  # attention does not know of the other replicas
    _, fewer = make_unit(ep=8).stage_ms(np.full(5, 64.0), np.full(5, 64.0), replicas)
    assert (fewer[:, 2] > stages[:, 2]).all()
    assert (stages[:, 1] < stages[:, 3]).all()  # FP8 out, BF16 back


def test_a_crossing_is_set_by_its_busiest_link() -> None:
    unit = make_unit(ep=16, tp=2)
    crossing, fabric = unit.crossing, unit.attention_site.fabric
    for replicas, busiest in ((2.0, 64.0 / 2), (100.0, 64.0 * 100 / 16)):
        found = float(unit.crossing_ms(np.array(64.0), np.array(replicas), 7392.0))
        moved = crossing.scale_out * busiest * 7392.0 / fabric.scale_out_bytes_per_ms
        messages = MESSAGE_ISSUE_US * max(replicas * 2, 16)
        assert found == pytest.approx((COLLECTIVE_SETUP_US + fabric.scale_out_latency_us + messages) * 1e-3 + moved)
    assert dispatch_bytes(7168, Precision.FP8) == 7392.0


def test_crossings_between_pools_run_at_the_slower_nic() -> None:
    fast, slow = make_site("b300"), make_site("h20")
    assert fast.fabric.scale_out_bytes_per_ms == 2 * slow.fabric.scale_out_bytes_per_ms
    tokens, replicas = np.array(256.0), np.array(8.0)
    times = [
        float(AfdUnit(a, f, 1, 8, 1, 256, False).crossing_ms(tokens, replicas, 7392.0))
        for a, f in ((fast, fast), (fast, slow), (slow, fast), (slow, slow))
    ]
    assert times[0] < times[1] == pytest.approx(times[3])
    assert times[1] == pytest.approx(times[2])
    # Kernels run where they are: attention on the one pool, experts on the other.
    mixed = AfdUnit(slow, fast, 1, 8, 1, 256, False).stage_ms(64.0, 64.0, 8)[1]
    alike = AfdUnit(slow, slow, 1, 8, 1, 256, False).stage_ms(64.0, 64.0, 8)[1]
    assert mixed[0] == alike[0]
    assert mixed[2] < alike[2]


@settings(max_examples=40, deadline=None)
@given(
    ep=st.sampled_from([1, 2, 4, 8, 16, 32]),
    moe_tp=st.sampled_from([1, 2, 4, 8, 16]),
    tokens=st.integers(1, 2000),
    replicas=st.integers(1, 64),
)
def test_nothing_crosses_between_domains_at_scale_up_speed(ep: int, moe_tp: int, tokens: int, replicas: int) -> None:
    unit = make_unit(QWEN, ep=ep, moe_tp=moe_tp)
    time = float(unit.crossing_ms(np.array(float(tokens)), np.array(float(replicas)), 4096.0))
    # Every token crosses at least once, over as many links as either side has, and once per domain of one expert.
    links = min(replicas, ep * moe_tp)
    copies = max(1, moe_tp // 8)
    assert time >= copies * tokens * replicas / links * 4096.0 / unit.attention_site.fabric.scale_out_bytes_per_ms


def test_tensor_ranks_of_attention_add_up_shared_experts_too() -> None:
    """Shared experts stay with attention: their partial sums need an all-reduce of their own there."""
    for model, times in ((V3, 2), (QWEN, 1)):
        unit = make_unit(model, tp=4)
        index = len(unit.attention_site.model.layers) - 1
        reduce = unit.attention_site.fabric.all_reduce(4, unit.attention_site.model.hidden * 2.0)
        assert unit.attention.token_parts(index)["all_reduce"](64.0) == pytest.approx(float(times * reduce(64.0)))


def test_sides_hold_what_they_compute() -> None:
    unit = make_unit(ep=16)
    routed = 58 * 256 * 3 * 7168 * 2048
    assert unit.ffn_weight_bytes == pytest.approx(routed / 16)
    assert unit.attention_weight_bytes == pytest.approx(671.0e9 - routed + 2 * 7168 * 129_280, rel=0.05)
    assert not unit.ffn_fits(np.array([1e9])).any()
    assert unit.ffn_fits(np.array([1e4])).all()
    assert not make_unit(ep=4).ffn_fits(np.array([1.0])).any()  # 163 GB of experts on 80 GB


def test_drafting_adds_a_layer_and_a_head() -> None:
    plain, drafting = make_unit(), make_unit(speculative={"draft_tokens": 1, "accept_length": 1.8})
    for count in (1, 3):
        draft = float(drafting.draft_ms(np.array(64.0), 8, count))
        stages = drafting.stage_ms(64.0, 64.0, 8)[1]
        head = sum(float(part(64.0 * count)) for part in drafting.attention.head_parts().values())
        assert draft == pytest.approx(float(stages.sum() + (count - 1) * stages.max()) + head)
        step = float(drafting.decode_step_ms(64.0 * count, 8, count))
        assert step > float(plain.decode_step_ms(64.0 * count, 8, count)) + draft


def test_dense_models_have_nothing_to_split() -> None:
    site = make_site(model="meta-llama/Llama-3.1-70B")
    with pytest.raises(ValueError, match="no experts"):
        AfdUnit(site, site, 1, 8, 1, 0, False).crossing  # noqa: B018
