"""Laws of worker steps: what is harder is never faster, batches never lose rate, and every charge is there."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.costs.attention import decode_work
from planner.costs.layout import Layout
from planner.costs.worker import Worker
from specs.catalog import gpu_ids, model_ids
from specs.model import MoeFfn
from specs.service import Engine
from tests.costs.sites import both_kernels, make_site

V3, V32, LLAMA = "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2", "meta-llama/Llama-3.1-70B"
QWEN, GPT_OSS = "Qwen/Qwen3-235B-A22B", "openai/gpt-oss-120b"
BATCHES = np.array([1.0, 2, 3, 5, 8, 13, 32, 64, 100, 128, 256, 300, 512, 1000, 1024, 4096])


def wide(model: str = V3, ep: int = 32, *, overlap: bool = False, **site: Any) -> Worker:
    return Worker(make_site(model=model, **site), Layout(1, ep, ep, 1, 1, -(-256 // ep) * ep, overlap))


@st.composite
def workers(draw: st.DrawFn) -> Worker:
    model, gpu = draw(st.sampled_from(model_ids())), draw(st.sampled_from(gpu_ids()))
    prefix = draw(st.sampled_from([0, 1000, 200_000]))
    speculative = {"draft_tokens": 2, "accept_length": 2.1} if draw(st.booleans()) else None
    precision = draw(st.sampled_from(["bf16", "fp8", "fp4"]))
    skew = draw(st.sampled_from([0.0, 1.0]))
    engine, analytic = draw(st.sampled_from(list(Engine))), draw(st.booleans())
    site = make_site(
        gpu,
        model,
        tokens=(draw(st.sampled_from([100, 4000])), 500, prefix),
        count=384 * 6,
        precision=precision,
        speculative=speculative,
        routing_skew=skew,
        engine=engine.value,
        analytic=analytic,
    )
    tp, pp = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2]))
    assume(tp <= site.fabric.domain)
    if site.moe is None:
        return Worker(site, Layout(tp, 1, 1, tp, pp))
    dp = draw(st.sampled_from([1, 2, 8, 32]))
    ranks = tp * dp
    assume(ranks <= site.fabric.domain or ranks % site.fabric.domain == 0)
    assume(ranks <= site.moe.experts)
    slots = -(-site.moe.experts // ranks) * ranks
    return Worker(site, Layout(tp, dp, ranks, 1, pp, slots, overlap=dp > 1 and draw(st.booleans())))


@settings(max_examples=300, deadline=None)
@given(worker=workers(), step=st.sampled_from(["decode", "mixed", "prefill"]))
def test_more_requests_take_longer_and_never_lose_rate(worker: Worker, step: str) -> None:
    """The batch search relies on it: at full multiples of the parts, t(b) never falls and t(b) / b never rises."""
    batch = np.arange(1, 40) * float(worker.layout.parts)
    if step == "decode":
        time = worker.decode_step_ms(batch)
    elif step == "mixed":
        time = worker.mixed_step_ms(batch, None, 2)
    else:
        time = worker.prefill_ms(np.arange(1, 40) * float(worker.layout.dp), 2)
    rounding = 1e-9
    assert (time[1:] >= time[:-1] * (1 - rounding)).all()
    assert (time[1:] / batch[1:] <= time[:-1] / batch[:-1] * (1 + rounding)).all()


@settings(max_examples=150, deadline=None)
@given(worker=workers())
def test_every_kernel_is_subhomogeneous(worker: Worker) -> None:
    at = np.geomspace(1.0, 2e6, 300)
    attention, lengths = worker.attention, worker.site.lengths
    times = list(worker.once_parts.values())
    for index in range(len(worker.site.model.layers)):
        times += attention.token_parts(index).values()
        times += [worker.experts.expert_time(index), attention.decode_core(index, 100.0, 5000.0)]
        times.append(attention.prefill_core(index, lengths.input, lengths.prefix))
        times += [*worker.exchange(index, low_latency=True), *worker.exchange(index, low_latency=False)]
    for time in times:
        value = time(at)
        assert (np.diff(value) >= -1e-12 * value[1:]).all()
        assert (np.diff(value / at) <= 1e-12 * value[1:]).all()


@pytest.mark.parametrize("overlap", [False, True])
@both_kernels
def test_batches_that_share_a_fullest_part_never_lose_rate(overlap: bool, analytic: bool) -> None:
    worker = wide(overlap=overlap, analytic=analytic)
    parts = worker.layout.parts
    batch = np.arange(5 * parts + 1, 6 * parts + 1, dtype=float)
    time = worker.decode_step_ms(batch)
    assert (np.diff(time) >= -1e-9).all()
    assert (np.diff(time / batch) <= 1e-9).all()


HARDER: dict[str, dict[str, Any]] = {
    "less memory bandwidth and FLOP/s": {"kernel_slowdown": 1.3},
    "a slower network": {"network_slowdown": 1.3},
    "a longer prompt": {"tokens": (3000, 500, 1000)},
    "a longer output": {"tokens": (2000, 5000, 1000)},
    "a longer prefix": {"tokens": (2000, 500, 9000)},
    "weights of more bytes": {"precision": "bf16", "kv_cache_dtype": "fp8"},
    "half the scale-out": {"pool": {"scale_out_gbit_per_s": 200}},
    "a slower hop": {"pool": {"scale_out_latency_us": 50.0}},
}


def assert_never_faster(hard: Worker, easy: Worker) -> None:
    rounding = 1 - 1e-9
    assert (hard.decode_step_ms(BATCHES) >= easy.decode_step_ms(BATCHES) * rounding).all()
    assert (hard.mixed_step_ms(BATCHES, None, 2) >= easy.mixed_step_ms(BATCHES, None, 2) * rounding).all()
    assert (hard.prefill_ms(BATCHES, 2) >= easy.prefill_ms(BATCHES, 2) * rounding).all()


@pytest.mark.parametrize("what", HARDER)
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("model", [V3, V32])
@both_kernels
def test_harder_is_never_faster(what: str, overlap: bool, model: str, analytic: bool) -> None:
    easy: dict[str, Any] = {"kv_cache_dtype": "fp8", "tokens": (2000, 500, 1000), "overlap": overlap, "model": model}
    easy["analytic"] = analytic
    assert_never_faster(wide(**{**easy, **HARDER[what]}), wide(**easy))


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("model", [V3, V32])
def test_a_cache_of_more_bytes_is_never_faster(overlap: bool, model: str) -> None:
    """By bytes alone; another format has other kernels, and measured MLA on Hopper decodes BF16 faster than FP8."""
    easy: dict[str, Any] = {"tokens": (2000, 500, 1000), "overlap": overlap, "model": model, "analytic": True}
    assert_never_faster(wide(kv_cache_dtype="bf16", **easy), wide(kv_cache_dtype="fp8", **easy))


@both_kernels
def test_skewed_routing_costs_at_large_batches(analytic: bool) -> None:
    """At small ones it may activate fewer experts; where experts are compute-bound the hottest rank sets the pace."""
    even, skewed = wide(analytic=analytic), wide(routing_skew=0.8, analytic=analytic)
    batch = np.array([8192.0, 32_768.0])
    assert (skewed.decode_step_ms(batch) > 1.1 * even.decode_step_ms(batch)).all()


@pytest.mark.parametrize("model", [V3, V32, LLAMA, GPT_OSS, "stepfun-ai/step3"])
@both_kernels
def test_the_prefix_is_charged_at_every_batch_size(model: str, analytic: bool) -> None:
    batch = np.arange(1.0, 17.0)
    moe = make_site(model=model).moe
    layout = Layout(4, 1, 1, 4, 1, moe.experts if moe else 0)
    with_prefix, without = (
        Worker(make_site(model=model, tokens=(256, 100, n), analytic=analytic), layout) for n in (60_000, 0)
    )
    gap = with_prefix.decode_step_ms(batch) - without.decode_step_ms(batch)
    # One sequence's share at least: what the cores of 60,000 more tokens take, which grows with the batch.
    one = gap[0]
    assert one > 0
    if analytic:
        np.testing.assert_allclose(gap, batch * one, rtol=1e-9)
    # No kernel reads the prefix (with sparse attention its index keys and the selection) faster than memory allows.
    assert (gap >= batch * prefix_read_ms(with_prefix, without)).all()
    assert (np.diff(gap) > 0).all()
    for chunks in (1, 4):
        prefill = with_prefix.prefill_ms(batch, chunks) - without.prefill_ms(batch, chunks)
        np.testing.assert_allclose(prefill, batch * prefill[0], rtol=1e-9)
        assert prefill[0] > one


def prefix_read_ms(with_prefix: Worker, without: Worker) -> float:
    """Time at the data-sheet bandwidth for the bytes that one sequence's decode step reads more."""
    moved = []
    for worker in (with_prefix, without):
        site, lengths = worker.site, worker.site.lengths
        context = lengths.first_context, lengths.last_context
        moved.append(
            sum(
                group.count * work.bytes_moved
                for group in site.model.layers
                if group.attention is not None
                for work in decode_work(group.attention, worker.layout.tp, site.service.kv_cache_dtype, *context)
            )
        )
    return (moved[0] - moved[1]) / (with_prefix.site.pool.gpu.memory_gbyte_per_s * 1e6)


@pytest.mark.parametrize("ep", [8, 16, 32, 64, 128, 256])
@both_kernels
def test_baselines_overlap_at_every_width(ep: int, analytic: bool) -> None:
    """Two-batch overlap lies between the serial step of one half and that of both, and pays at large batches."""
    serial, overlapped = (wide(ep=ep, overlap=overlap, analytic=analytic) for overlap in (False, True))
    batch = BATCHES[BATCHES >= 1] * ep
    half = serial.decode_step_ms(np.maximum(batch / 2, ep))
    both = overlapped.decode_step_ms(batch)
    assert (both >= half * (1 - 1e-9)).all()
    assert (both <= 2 * half).all()
    assert both[-1] < serial.decode_step_ms(batch)[-1]
    if ep > 8:  # very small halves pay the floor of every kernel twice
        assert both[0] > serial.decode_step_ms(batch)[0]


@both_kernels
def test_overlap_hides_no_more_than_the_shorter_of_both(analytic: bool) -> None:
    worker = wide(overlap=True, analytic=analytic)
    dispatch, combine = worker.exchange(1, low_latency=True)
    tokens = 128.0
    compute = worker.attention.token_time(1)(tokens) + worker.experts.expert_time(1)(tokens * 32)
    exchange = dispatch(tokens) + combine(tokens)
    step = float(worker.decode_step_ms(2 * tokens * 32))
    assert step >= 58 * 2 * max(float(compute), float(exchange))


def test_pipeline_stages_cost_no_time_and_save_weights() -> None:
    site = make_site(model=LLAMA)
    one, two = (Worker(site, Layout(4, 1, 1, 4, pp)) for pp in (1, 2))
    # At the same batch per micro-batch a token passes the same layers, and each stage pays the step's overhead.
    for batch in (1.0, 16.0, 64.0):
        short, long = float(one.decode_step_ms(batch)), float(two.decode_step_ms(2 * batch))
        assert short < long < 1.5 * short + 2.0
    assert two.weight_bytes < 0.56 * one.weight_bytes
    slow = make_site(model=LLAMA, pool={"scale_up_domain": 8}, count=64)
    inside, across = (Worker(slow, Layout(tp, 1, 1, tp, 2)) for tp in (4, 8))
    assert inside.hop_ms(np.array(1e5)) < across.hop_ms(np.array(1e5))
    assert across.hop_ms(np.array(1e5)) >= 1e5 * 8192 * 2 / 8 / slow.fabric.scale_out_bytes_per_ms


@both_kernels
def test_a_prompt_in_more_chunks_takes_no_less(analytic: bool) -> None:
    """Weights are read and steps are paid more often. Measured cores may lose efficiency on longer chunks."""
    for model in (V3, V32, LLAMA):
        moe = make_site(model=model).moe
        layout = Layout(8, 1, 1, 8, 1, moe.experts if moe else 0)
        worker = Worker(make_site(model=model, tokens=(16_384, 100, 30_000), analytic=analytic), layout)
        chunks = np.array([1, 2, 4, 8, 16])
        cores = worker.attention.prefill_core_ms(worker.site.lengths, chunks)
        core = sum(group.count * part for group, part in zip(worker.site.model.layers, cores, strict=True)) * chunks
        times = worker.prefill_ms(np.ones(chunks.size), chunks)
        assert (np.diff(times - core) > 0.0).all()
        if analytic:
            assert (np.diff(times) > 0.0).all()


@pytest.mark.parametrize("gpu", ["h100", "b200", "l40s"])
@pytest.mark.parametrize("engine", list(Engine))
def test_a_longer_context_never_takes_less_in_measured_decode(gpu: str, engine: Engine) -> None:
    contexts = np.geomspace(64, 200_000, 24)
    for model in (V3, V32, LLAMA, QWEN, GPT_OSS):
        side = make_site(gpu, model, engine=engine.value).attention(1)
        for index in range(len(side.model.layers)):
            time = np.array([side.decode_core(index, context, 1.1 * context)(BATCHES) for context in contexts])
            assert (np.diff(time, axis=0) >= -1e-9 * time[1:]).all()


def test_a_prefix_on_the_host_is_loaded() -> None:
    tokens = (256, 100, 100_000)
    hbm, host = (wide(tokens=tokens, workload={"prefix_tier": tier}) for tier in ("hbm", "host"))
    moved = 61 * 576 * 100_000 / host.site.fabric.host_bytes_per_ms
    assert host.prefill_ms(32.0, 1) - hbm.prefill_ms(32.0, 1) == pytest.approx(moved)


def test_tensor_ranks_add_up_once_per_attention_and_per_ffn() -> None:
    """All-reduces of one layer: two on a dense or MoE layer, whether or not shared experts join the second."""
    for model in (LLAMA, V3, QWEN):
        site = make_site(model=model)
        layout = Layout(8, 1, 8 if site.moe else 1, 1 if site.moe else 8, 1, site.moe.experts if site.moe else 0)
        worker = Worker(site, layout)
        index = len(site.model.layers) - 1
        reduce = site.fabric.all_reduce(8, site.model.hidden * 2.0)
        reduced = worker.attention.token_parts(index)["all_reduce"](64.0)
        dispatch, combine = worker.exchange(index, low_latency=True)
        assert not dispatch(64.0)
        assert reduced + combine(64.0) == pytest.approx(float(2 * reduce(64.0)))


def test_drafting_is_charged_and_paid_by_accepted_tokens() -> None:
    plain = wide(engine="sglang")
    drafting = wide(engine="sglang", speculative={"draft_tokens": 3, "accept_length": 2.5})
    batch = 32 * 8.0
    one, four = float(plain.decode_step_ms(batch)), float(drafting.decode_step_ms(batch))
    head = plain.once_parts["head"](8.0)
    assert four > one + 3 * float(head)
    assert four < 2.5 * one
    assert drafting.site.tokens_per_step == 2.5


def test_every_engine_and_an_indivisible_layout() -> None:
    for engine in Engine:
        assert wide(engine=engine.value).decode_step_ms(64.0) > 0
    with pytest.raises(ValueError, match="differs from tp x dp"):
        Layout(2, 4, 4)
    assert isinstance(make_site(model=V3).moe, MoeFfn)
