"""Work of attention cores against loops over tokens."""

import math

import numpy as np
import pytest

from planner.costs.attention import CoreWork, clipped_area, decode_work, kv_bytes, mean_clipped, prefill_work
from specs.model import (
    Attention,
    FactoredAttention,
    LatentAttention,
    LinearAttention,
    Precision,
    SoftmaxAttention,
)

GQA = SoftmaxAttention(heads=64, kv_heads=8, head_dim=128)
WINDOW = SoftmaxAttention(heads=64, kv_heads=8, head_dim=64, window_tokens=128)
MFA = FactoredAttention(heads=64, kv_heads=1, head_dim=256, q_lora_rank=2048)
DIMENSIONS = {"heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512}
HEAD = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
MLA = LatentAttention(**DIMENSIONS, **HEAD)
DSA = LatentAttention(**DIMENSIONS, **HEAD, index_heads=64, index_head_dim=128, index_topk=2048)
REUSED = LatentAttention(**DIMENSIONS, **HEAD, index_topk=2048)
LINEAR = LinearAttention(projection_params=1000, state_elements=5000, flops_per_token=70)
ALL: list[Attention] = [GQA, WINDOW, MFA, MLA, DSA, REUSED, LINEAR]


def seen(attention: Attention, context: int) -> int:
    """Tokens that the core of one query attends to."""
    if isinstance(attention, SoftmaxAttention) and attention.window_tokens:
        return min(context, attention.window_tokens)
    if isinstance(attention, LatentAttention) and attention.index_topk:
        return min(context, attention.index_topk)
    return context


def naive_query(attention: Attention, tp: int, context: int) -> tuple[float, float, float]:
    """FLOPs in BF16, FLOPs in FP8 and cache elements (indexer and states apart) of one decode query."""
    keys = seen(attention, context)
    match attention:
        case SoftmaxAttention() | FactoredAttention():
            heads = attention.heads // tp
            kv_heads = max(1, -(-attention.kv_heads // tp))
            per_key = sum(2 * attention.head_dim for _ in ("score", "value")) * heads
            return keys * per_key, 0.0, keys * 2 * kv_heads * attention.head_dim
        case LatentAttention():
            heads, latent = attention.heads // tp, attention.kv_lora_rank
            score = 2 * (latent + attention.qk_rope_head_dim)
            index = 2 * attention.index_heads * attention.index_head_dim * context
            return keys * heads * (score + 2 * latent), index, keys * (latent + attention.qk_rope_head_dim)
        case LinearAttention():
            return attention.flops_per_token / tp, 0.0, 0.0


def flops(work: tuple[CoreWork, ...]) -> tuple[float, float]:
    return sum(phase.flops for phase in work), sum(phase.flops_fp8 for phase in work)


@pytest.mark.parametrize("attention", ALL)
@pytest.mark.parametrize("tp", [1, 4, 16])
@pytest.mark.parametrize(("first", "last"), [(1, 1), (50, 300), (1000, 5000), (4000, 4500)])
def test_decode_is_the_mean_over_steps(attention: Attention, tp: int, first: int, last: int) -> None:
    steps = [naive_query(attention, tp, context) for context in range(first, last + 1)]
    bf16, fp8, elements = np.mean(steps, axis=0)
    work = decode_work(attention, tp, Precision.BF16, first, last)
    # The mean over integers and over the interval differ by a part of one step at the clip.
    assert flops(work) == pytest.approx((bf16, fp8), rel=2e-3)
    if not isinstance(attention, LinearAttention):
        assert work[-1].bytes_moved == pytest.approx(2.0 * elements, rel=2e-3)
    one_byte = decode_work(attention, tp, Precision.FP8, first, last)
    if not isinstance(attention, LinearAttention):
        assert work[-1].bytes_moved == pytest.approx(2.0 * one_byte[-1].bytes_moved)


@pytest.mark.parametrize("attention", [GQA, WINDOW, MFA, DSA, REUSED, LINEAR])
@pytest.mark.parametrize(("new", "context"), [(1, 0), (300, 0), (700, 1500), (3000, 1000), (64, 9000)])
def test_prefill_is_the_sum_over_its_queries(attention: Attention, new: int, context: int) -> None:
    queries = [naive_query(attention, 2, context + i) for i in range(1, new + 1)]
    bf16, fp8, _ = np.sum(queries, axis=0)
    # A query sees itself: the loop has up to one key per query more than the interval.
    assert flops(prefill_work(attention, 2, Precision.BF16, new, context)) == pytest.approx(
        (bf16, fp8), rel=1.0 / (context + new) + 1e-3, abs=sum(flops_of_one_key(attention)) * new
    )


def flops_of_one_key(attention: Attention) -> tuple[float, float]:
    bf16, fp8, _ = naive_query(attention, 2, 1)
    return bf16, fp8


def test_latent_prefill_takes_the_form_with_fewer_operations() -> None:
    heads, pairs = 128, {(4096, 0): 4096**2 / 2, (1, 8192): 8192.5}
    for (new, context), area in pairs.items():
        absorbed = area * heads * 2 * (576 + 512)
        expanded = area * heads * 2 * (192 + 128) + context * 2 * 512 * heads * 256
        found = prefill_work(MLA, 1, Precision.BF16, new, context)
        assert flops(found)[0] == pytest.approx(min(absorbed, expanded))
    assert min(absorbed, expanded) == absorbed  # one query over a long context: as in decode
    # Expanded keys and values of the context are written once and, with the chunk's own, read once.
    found = prefill_work(MLA, 1, Precision.BF16, 4096, 4096)
    assert found[0].bytes_moved == 8192 * 576 * 2 + (4096 + 8192) * heads * 320 * 2


def test_drafts_share_one_read_except_where_each_gathers() -> None:
    for attention in (GQA, MLA, MFA):
        one, three = (decode_work(attention, 1, Precision.FP8, 9000, 9000, queries) for queries in (1, 3))
        assert three[0].flops == 3 * one[0].flops
        assert three[0].bytes_moved == one[0].bytes_moved
    one, three = (decode_work(DSA, 1, Precision.FP8, 9000, 9000, queries) for queries in (1, 3))
    assert three[-1].bytes_moved == 3 * one[-1].bytes_moved
    assert three[0].bytes_moved == one[0].bytes_moved  # index keys
    all_of_it = decode_work(DSA, 1, Precision.FP8, 3000, 3000, 3)
    assert all_of_it[-1].bytes_moved == 3000 * 576


def test_a_reused_selection_costs_no_indexer() -> None:
    phases = decode_work(REUSED, 1, Precision.FP8, 50_000, 50_000)
    assert len(phases) == 1
    assert phases[0] == decode_work(DSA, 1, Precision.FP8, 50_000, 50_000)[-1]
    assert kv_bytes(REUSED, 1, Precision.FP8, 1000) == 1000 * 576
    assert kv_bytes(DSA, 1, Precision.FP8, 1000) == 1000 * (576 + 132)


def test_the_indexer_grows_with_context_and_the_core_does_not() -> None:
    near, far = (decode_work(DSA, 1, Precision.FP8, context, context) for context in (10_000, 100_000))
    assert near[-1] == far[-1]
    assert far[0].flops_fp8 == 10 * near[0].flops_fp8
    assert far[0].bytes_moved == 10 * near[0].bytes_moved


def test_cache_per_token() -> None:
    assert kv_bytes(MLA, 8, Precision.BF16, 10) == 10 * 576 * 2  # the latent is on every rank
    assert kv_bytes(GQA, 1, Precision.BF16, 10) == 10 * 2 * 8 * 128 * 2
    assert kv_bytes(GQA, 16, Precision.BF16, 10) == 10 * 2 * 1 * 128 * 2  # 8 heads on 16 ranks: copies
    assert kv_bytes(WINDOW, 8, Precision.FP8, 10_000) == 128 * 2 * 64
    assert kv_bytes(LINEAR, 2, Precision.FP8, 1) == kv_bytes(LINEAR, 2, Precision.FP8, 10**6) == 5000 * 4 / 2
    assert kv_bytes(None, 1, Precision.BF16, 10) == 0.0


@pytest.mark.parametrize("cap", [3.0, 40.0, 75.5, 1e9, math.inf])
def test_clipped_means_equal_integration(cap: float) -> None:
    for first, last in ((10.0, 60.0), (0.0, 100.0), (70.0, 90.0)):
        middles = first + (np.arange(200_000) + 0.5) / 200_000 * (last - first)
        expected = float(np.minimum(middles, cap).mean())
        assert mean_clipped(first, last, cap) == pytest.approx(expected, rel=1e-6)
        assert clipped_area(last - first, first, cap) == pytest.approx(expected * (last - first), rel=1e-6)
    assert mean_clipped(5.0, 5.0, cap) == min(5.0, cap)
