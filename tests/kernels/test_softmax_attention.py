"""Measured softmax attention against closed-form laws, numerical integration and fabricated source files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.costs.analytic import AnalyticKernels
from planner.costs.linear import FloatArray, PiecewiseLinear
from planner.costs.operators import DecodeAttention, Gemm, PrefillAttention
from planner.kernels.answer import Answer
from planner.kernels.build.softmax_attention import tables
from planner.kernels.build.source import Source, SourceError
from planner.kernels.curves import CurveSet, Origin, save
from planner.kernels.softmax_attention import AXES, DECODE, PREFILL, VARIABLE, SoftmaxAttentionTables, table_name
from specs import catalog
from specs.model import FactoredAttention, LatentAttention, Precision, SoftmaxAttention

ANALYTIC = AnalyticKernels(catalog.gpu("h200-sxm-141gb"))
ORIGIN = Origin("fabricated", "vllm", "1.0", 1, 0.0, 0.0, 0, 0.0, 0)
BF16, FP8 = Precision.BF16, Precision.FP8

PAIRS = [(8, 1), (64, 1), (8, 8), (64, 8)]
CONTEXTS = [2.0**i for i in range(1, 18)]
PROMPTS = [1.0, 16.0, 64.0, 256.0, 512.0, 1024.0, 1536.0, 2048.0, 3072.0, 4096.0, 6144.0, 8192.0, 12288.0, 16384.0]
BATCHES = np.array([2.0**i for i in range(12)])
MOST_TOKENS = float(1 << 20)
"""Batch x line is capped, as memory caps it in the measurements."""

SLOWER = 1.7

Law = Callable[[float, float, float, FloatArray], FloatArray]
"""ms of (heads, kv_heads, line, batches)."""


def affine(heads: float, kv_heads: float, context: float, batch: FloatArray) -> FloatArray:
    """A decode step: a floor, a part per sequence and a part per context token."""
    return 0.01 + batch * (1e-4 + context * (1e-6 * kv_heads + 1e-8 * heads))


def quadratic(heads: float, kv_heads: float, tokens: float, batch: FloatArray) -> FloatArray:
    """A prompt: a floor, the projections of tokens and the pairs of tokens."""
    return 0.01 + batch * heads * (1e-10 * tokens**2 + 1e-8 * tokens)


def slow_roofline(kind: str, window: int = 0) -> Law:
    """The analytic model of head dimension 128 and BF16, slower by a factor."""

    def law(heads: float, kv_heads: float, line: float, batch: FloatArray) -> FloatArray:
        attention = gqa(int(heads), int(kv_heads), window=window or None)
        return SLOWER * ANALYTIC.time_ms(operator(kind, attention, line, line))(batch)

    return law


def gqa(heads: int = 64, kv_heads: int = 8, head_dim: int = 128, window: int | None = None) -> SoftmaxAttention:
    return SoftmaxAttention(heads=heads, kv_heads=kv_heads, head_dim=head_dim, window_tokens=window)


def operator(kind: str, attention: SoftmaxAttention, first: float, last: float) -> DecodeAttention | PrefillAttention:
    """A decode step while the context grows from `first` to `last`, or a prompt of `first` tokens."""
    if kind == DECODE:
        return DecodeAttention("core", attention, 1, BF16, first, last)
    return PrefillAttention("core", attention, 1, BF16, first, 0.0)


def table(kind: str, law: Law, window: int = 0) -> CurveSet:
    """A table of a law at head dimension 128 in BF16."""
    curves = []
    for (heads, kv_heads), line in itertools.product(PAIRS, CONTEXTS if kind == DECODE else PROMPTS):
        batch = BATCHES[BATCHES * line <= MOST_TOKENS]
        curves.append(((kv_heads, heads, line), batch, law(heads, kv_heads, line, batch)))
    return CurveSet.of(table_name(kind, BF16, 128, window), AXES[kind], VARIABLE[kind], curves, ORIGIN)


def measured(*made: CurveSet) -> SoftmaxAttentionTables:
    return SoftmaxAttentionTables({one.name: one for one in made}, ANALYTIC)


def answer(library: SoftmaxAttentionTables, asked: DecodeAttention | PrefillAttention) -> Answer:
    found = library.time_ms(asked)
    assert found is not None
    return found


def chunk(library: SoftmaxAttentionTables, new: float, context: float, window: int | None = None) -> PiecewiseLinear:
    return answer(library, PrefillAttention("core", gqa(window=window), 1, BF16, new, context)).time


# --- Grid points and between them -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "law", "lines"), [(DECODE, affine, CONTEXTS), (PREFILL, quadratic, PROMPTS)])
def test_measured_points_are_reproduced(kind: str, law: Law, lines: list[float]) -> None:
    library = measured(table(kind, law))
    for (heads, kv_heads), line in itertools.product(PAIRS, lines):
        batch = BATCHES[BATCHES * line <= MOST_TOKENS]
        found = answer(library, operator(kind, gqa(heads, kv_heads), line, line))
        np.testing.assert_allclose(found.time(batch), law(heads, kv_heads, line, batch), rtol=1e-12)
        assert found.outside == 1.0


@pytest.mark.parametrize(("kind", "law", "lines"), [(DECODE, affine, CONTEXTS), (PREFILL, quadratic, PROMPTS)])
def test_long_lines_are_known_to_be_measured_with_few_sequences(kind: str, law: Law, lines: list[float]) -> None:
    library = measured(table(kind, law))
    for line in lines:
        expected = BATCHES[BATCHES * line <= MOST_TOKENS][-1]
        assert answer(library, operator(kind, gqa(), line, line)).last == pytest.approx(expected)


def test_the_mean_context_within_the_window_says_how_many_sequences_were_measured() -> None:
    library = measured(table(DECODE, affine))
    for window, expected in ((None, MOST_TOKENS / 16384), (1024, MOST_TOKENS / 1024)):
        found = answer(library, operator(DECODE, gqa(window=window), 8192.0, 24576.0))
        assert found.last == pytest.approx(expected)


def test_ranks_share_heads_and_copy_kv_heads() -> None:
    library = measured(table(DECODE, affine))
    shared = answer(library, DecodeAttention("core", gqa(64, 8), 8, BF16, 512.0, 512.0)).time
    copied = answer(library, DecodeAttention("core", gqa(512, 8), 64, BF16, 512.0, 512.0)).time
    np.testing.assert_allclose(shared(BATCHES), affine(8, 1, 512.0, BATCHES), rtol=1e-12)
    np.testing.assert_allclose(copied(BATCHES), affine(8, 1, 512.0, BATCHES), rtol=1e-12)


def test_between_contexts_an_affine_law_is_exact() -> None:
    library = measured(table(DECODE, affine))
    for context in (3.3, 777.0, 5000.5, 100_000.0):
        batch = BATCHES[BATCHES * context <= MOST_TOKENS / 2]
        found = answer(library, operator(DECODE, gqa(), context, context)).time
        np.testing.assert_allclose(found(batch), affine(64, 8, context, batch), rtol=1e-12)


def test_between_prompt_lengths_the_error_is_bounded() -> None:
    # A power law over an octave of 1 + r x^2 is at most 3 / sqrt(8) of it (r = 1/2, in the middle).
    library = measured(table(PREFILL, quadratic))
    for tokens in np.geomspace(512.0, 16384.0, 41):
        found = chunk(library, float(tokens), 0.0)(1.0)
        np.testing.assert_allclose(found, quadratic(64, 8, float(tokens), np.array(1.0)), rtol=0.0607)


def test_between_heads_the_efficiency_is_interpolated() -> None:
    library = measured(table(DECODE, affine))
    between = answer(library, operator(DECODE, gqa(24, 4), 4096.0, 4096.0))
    batch = BATCHES[BATCHES * 4096 <= MOST_TOKENS]
    ratios = []
    for heads, kv_heads in PAIRS:
        roof = ANALYTIC.time_ms(operator(DECODE, gqa(heads, kv_heads), 4096.0, 4096.0))(batch)
        ratios.append(affine(heads, kv_heads, 4096.0, batch) / roof)
    share = np.log(4) / np.log(8), np.log(3) / np.log(8)  # of KV heads 1 to 8, of heads 8 to 64
    low = (1 - share[1]) * ratios[0] + share[1] * ratios[1]
    high = (1 - share[1]) * ratios[2] + share[1] * ratios[3]
    efficiency = (1 - share[0]) * low + share[0] * high
    roof = ANALYTIC.time_ms(operator(DECODE, gqa(24, 4), 4096.0, 4096.0))(batch)
    np.testing.assert_allclose(between.time(batch), roof * efficiency, rtol=1e-9)
    assert between.outside == 1.0


# --- Outside the measured ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("kv_dtype", [BF16, FP8])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "context"),
    [(64, 8, 128, 1e6), (128, 8, 128, 4096.0), (128, 128, 128, 300.0), (64, 8, 96, 4096.0), (40, 5, 256, 777.0)],
)
def test_outside_the_efficiency_is_carried_over(
    heads: int, kv_heads: int, head_dim: int, context: float, kv_dtype: Precision, queries: int
) -> None:
    library = measured(table(DECODE, slow_roofline(DECODE)))
    asked = DecodeAttention("core", gqa(heads, kv_heads, head_dim), 1, kv_dtype, context, context, queries)
    found = answer(library, asked)
    batch = np.array([1.0, 7.0, 100.0, 2048.0, 5000.0])
    # Straight lines between contexts bend where the roofline goes from bytes to products: not here.
    np.testing.assert_allclose(found.time(batch), SLOWER * ANALYTIC.time_ms(asked)(batch), rtol=1e-9)
    expected = max(context / CONTEXTS[-1], heads / 64, kv_heads / 8, max(head_dim, 128) / min(head_dim, 128))
    assert found.outside == pytest.approx(max(expected, 2.0 if kv_dtype is FP8 else 1.0, 1.0))


def test_long_prompts_carry_the_efficiency_over() -> None:
    library = measured(table(PREFILL, slow_roofline(PREFILL)))
    asked = PrefillAttention("core", gqa(), 1, BF16, 200_000.0, 0.0)
    found = answer(library, asked)
    np.testing.assert_allclose(found.time([1.0, 3000.0]), SLOWER * ANALYTIC.time_ms(asked)([1.0, 3000.0]), rtol=2e-3)
    assert found.outside == pytest.approx(200_000 / 16384)


def test_continuous_at_the_edges() -> None:
    library = measured(table(DECODE, affine), table(PREFILL, quadratic))
    step = 1e-6
    for context in CONTEXTS:
        below, above = (
            answer(library, operator(DECODE, gqa(), c, c)).time(BATCHES)
            for c in (context * (1 - step), context * (1 + step))
        )
        np.testing.assert_allclose(above, below, rtol=1e-5)
    cap = MOST_TOKENS / 8192.0
    edge = answer(library, operator(DECODE, gqa(), 8192.0, 8192.0)).time
    np.testing.assert_allclose(edge(cap * (1 + step)), edge(cap * (1 - step)), rtol=1e-5)
    for tokens in PROMPTS:
        below, above = (chunk(library, t, 0.0)(BATCHES) for t in (tokens * (1 - step), tokens * (1 + step)))
        np.testing.assert_allclose(above, below, rtol=1e-5)


# --- The growing context ----------------------------------------------------------------------------------------------


def knee(heads: float, kv_heads: float, context: float, batch: FloatArray) -> FloatArray:
    """Flat until the cache outgrows what is on chip, then steep: far from linear in the context."""
    return np.asarray(np.maximum(0.01, batch * context * kv_heads * 1e-7) + 2e-3 * np.sqrt(context / 131072.0))


@pytest.mark.parametrize("window", [None, 3000])
@pytest.mark.parametrize(("first", "last"), [(2.0, 131072.0), (900.0, 7000.0), (5000.0, 5100.0), (1e5, 4e5)])
def test_growing_context_is_the_numerical_mean(first: float, last: float, window: int | None) -> None:
    library = measured(table(DECODE, knee))
    attention = gqa(window=window)
    found = answer(library, operator(DECODE, attention, first, last)).time
    contexts = first + (np.arange(400) + 0.5) * (last - first) / 400
    steps = [answer(library, operator(DECODE, attention, c, c)).time(BATCHES) for c in contexts.tolist()]
    np.testing.assert_allclose(found(BATCHES), np.mean(steps, axis=0), rtol=2e-4)


def test_several_queries_cost_what_the_roofline_says() -> None:
    library = measured(table(DECODE, affine))
    one = DecodeAttention("core", gqa(64, 1), 1, BF16, 4096.0, 4096.0)
    four = replace(one, queries=4)
    ratio = ANALYTIC.time_ms(four)(BATCHES) / ANALYTIC.time_ms(one)(BATCHES)
    assert ratio.max() > 1.5
    np.testing.assert_allclose(answer(library, four).time(BATCHES), ratio * answer(library, one).time(BATCHES))


# --- Chunks with a context, windows -----------------------------------------------------------------------------------


def test_a_chunk_costs_as_much_as_the_prompt_with_as_many_pairs() -> None:
    library = measured(table(PREFILL, quadratic))
    for new, context in [(2048.0, 0.0), (2048.0, 1e-6), (1000.0, 3000.0), (64.0, 8000.0)]:
        same = np.sqrt(new**2 + 2 * new * context)
        np.testing.assert_allclose(chunk(library, new, context)(BATCHES), chunk(library, same, 0.0)(BATCHES), rtol=1e-9)
    # Chunks of one prompt have together the pairs of the prompt.
    pure = measured(table(PREFILL, lambda h, k, n, b: 1e-9 * b * n**2))
    parts = sum(float(chunk(pure, 1000.0, 1000.0 * k)(1.0)) for k in range(8))
    assert parts == pytest.approx(float(chunk(pure, 8000.0, 0.0)(1.0)), rel=1e-9)


def test_a_window_counts_its_pairs() -> None:
    library = measured(table(PREFILL, slow_roofline(PREFILL)))
    new, context, window = 512.0, 700.0, 1000
    pairs = np.minimum(context + (np.arange(51200) + 0.5) / 100.0, window).sum() / 100.0
    same = chunk(library, float(np.sqrt(2.0 * pairs)), 0.0)(BATCHES)
    np.testing.assert_allclose(chunk(library, new, context, window)(BATCHES), same, rtol=1e-5)


def test_measured_windows_answer_for_themselves_and_between() -> None:
    def windowed(window: float) -> Law:
        return lambda h, k, n, b: 0.01 + b * 1e-8 * (min(n, window) ** 2 / 2 + max(n / window - 1.0, 0.0) * window**2)

    library = measured(
        table(PREFILL, windowed(1e6)),
        table(PREFILL, windowed(128), 128),
        table(DECODE, affine),
        table(DECODE, knee, 128),
    )
    law = windowed(128)
    np.testing.assert_allclose(chunk(library, 8192.0, 0.0, 128)(1.0), law(64, 8, 8192.0, np.array(1.0)), rtol=1e-9)
    decode = answer(library, operator(DECODE, gqa(window=128), 4096.0, 4096.0)).time
    np.testing.assert_allclose(decode(BATCHES[:8]), knee(64, 8, 4096.0, BATCHES[:8]), rtol=1e-12)
    # A window that no prompt outgrows is full attention; one just above a measured one is near it.
    full = chunk(library, 4096.0, 0.0)(1.0)
    np.testing.assert_allclose(chunk(library, 4096.0, 0.0, 5000)(1.0), full, rtol=1e-9)
    np.testing.assert_allclose(chunk(library, 8192.0, 0.0, 129)(1.0), law(64, 8, 8192.0, np.array(1.0)), rtol=0.05)


def test_beyond_the_most_sequences_of_a_long_context_the_shorter_one_says_how_time_grows() -> None:
    """A window is all that a step reads, but memory holds fewer sequences of long contexts, and fewer are measured."""

    def law(heads: float, kv_heads: float, context: float, batch: FloatArray) -> FloatArray:
        return 0.01 + batch * 1e-5 * heads * np.ones_like(batch) * min(context, 128.0)

    library = measured(table(DECODE, law, window=128))
    for context in (8192.0, 131_072.0):
        time = answer(library, operator(DECODE, gqa(window=128), context, context)).time
        np.testing.assert_allclose(time(BATCHES), law(64, 8, context, BATCHES), rtol=1e-9)


def test_noise_between_contexts_is_evened_out() -> None:
    """Where a longer context was measured faster by a factor, either gives way by its root."""

    def law(heads: float, kv_heads: float, context: float, batch: FloatArray) -> FloatArray:
        return affine(heads, kv_heads, context, batch) * (1.1 if context == 64.0 else 1.0)

    library = measured(table(DECODE, law))
    contexts = np.array([32.0, 64.0, 128.0, 256.0])
    times = np.array([answer(library, operator(DECODE, gqa(), c, c)).time(BATCHES) for c in contexts])
    assert (np.diff(times, axis=0) >= 0.0).all()
    raw = np.array([law(64, 8, c, BATCHES) for c in contexts])
    falls = np.maximum(raw[1] / raw[2], 1.0)
    assert (falls > 1.0).any()
    np.testing.assert_allclose(times[1], raw[1] / np.sqrt(falls), rtol=1e-9)
    np.testing.assert_allclose(times[2], raw[2] * np.sqrt(falls), rtol=1e-9)
    np.testing.assert_allclose(times[[0, 3]], raw[[0, 3]], rtol=1e-9)


@pytest.mark.parametrize("windows", [(), (128, 8192)])
def test_monotone(windows: tuple[int, ...]) -> None:
    made = [table(kind, slow_roofline(kind, w), w) for kind in (DECODE, PREFILL) for w in (0, *windows)]
    library = measured(*made)
    batch = np.linspace(0.0, 4096.0, 999)
    sizes = np.geomspace(1.0, 40_000.0, 60)
    spans: list[list[FloatArray]] = [[] for _ in range(5)]
    for size in sizes.tolist():
        spans[0].append(answer(library, operator(DECODE, gqa(), size, 2 * size)).time(batch))
        spans[1].append(answer(library, operator(DECODE, gqa(window=max(int(size), 1)), 9000.0, 9500.0)).time(batch))
        spans[2].append(chunk(library, size, 3000.0)(batch))
        spans[3].append(chunk(library, 600.0, size)(batch))
        spans[4].append(chunk(library, 2000.0, 9000.0, max(int(size), 1))(batch))
    for span in spans:
        times = np.array(span)
        assert (times > 0).all()
        assert (np.diff(times, axis=1) >= -1e-12 * times[:, 1:]).all()
        assert (np.diff(times, axis=0) >= -1e-9 * times[1:]).all()


# --- What is not answered ---------------------------------------------------------------------------------------------


def test_other_operators_are_left_to_others() -> None:
    library = measured(table(DECODE, affine))
    latent = LatentAttention(heads=128, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    assert library.time_ms(Gemm("gemm", 8, 8, BF16)) is None
    assert library.time_ms(DecodeAttention("core", latent, 1, BF16, 9.0, 9.0)) is None
    assert library.time_ms(PrefillAttention("core", gqa(), 1, BF16, 9.0, 0.0)) is None
    shared = FactoredAttention(heads=64, kv_heads=1, head_dim=128, q_lora_rank=2048)
    found = library.time_ms(DecodeAttention("core", shared, 1, BF16, 512.0, 512.0))
    assert found is not None
    np.testing.assert_allclose(found.time(BATCHES), affine(64, 1, 512.0, BATCHES))


# --- Building ---------------------------------------------------------------------------------------------------------

Row = dict[str, Any]


def rows(kind: str, *, noise: float = 0.0, seed: int = 0, **same: object) -> list[Row]:
    random = np.random.default_rng(seed)
    made = []
    for (heads, kv_heads), line in itertools.product(PAIRS, CONTEXTS if kind == DECODE else PROMPTS):
        for batch in BATCHES[BATCHES * line <= MOST_TOKENS].tolist():
            law = affine if kind == DECODE else quadratic
            time = float(law(heads, kv_heads, line, np.array(batch))) * (1.0 + noise * random.uniform(-1.0, 1.0))
            made.append(
                {
                    "batch_size": int(batch),
                    "isl": 1 if kind == DECODE else int(line),
                    "num_heads": heads,
                    "num_key_value_heads": kv_heads,
                    "head_dim": 128,
                    "attn_dtype": "bfloat16",
                    "kv_cache_dtype": "bfloat16",
                    "step": int(line) - 1 if kind == DECODE else 0,
                    "window_size": 0,
                    "kernel_source": "kernel",
                    "latency": time,
                    **same,
                }
            )
    return made


def written(root: Path, kind: str, made: list[Row], *, framework: str = "vllm", version: str = "0.24.0") -> Source:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    op = {DECODE: "generation_attention", PREFILL: "context_attention"}[kind]
    path = root / "data" / "gpu" / "attention" / framework / version / f"{op}_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(made), path)
    return Source(root)


def test_build_holds_within_its_error_and_is_reproducible(tmp_path: Path) -> None:
    made = {kind: rows(kind, noise=0.005) for kind in (DECODE, PREFILL)}
    written(tmp_path, PREFILL, made[PREFILL])
    source = written(tmp_path, DECODE, made[DECODE])
    built = tables(source, "gpu", "vllm")
    assert {one.name for one in built} == {"decode_attention.bf16.d128.w0", "prefill_attention.bf16.d128.w0"}
    library = measured(*built)
    for one in built:
        kind = one.name.split(".")[0]
        assert one.origin.rows == len(made[kind])
        assert one.origin.error_p95 <= 0.03
        assert one.x.size < 0.8 * len(made[kind])
        errors = []
        for row in made[kind]:
            line = float(row["step"] + 1 if kind == DECODE else row["isl"])
            attention = gqa(row["num_heads"], row["num_key_value_heads"])
            time = float(answer(library, operator(kind, attention, line, line)).time(row["batch_size"]))
            errors.append(abs(time / row["latency"] - 1.0))
        assert np.quantile(errors, 0.95) == pytest.approx(one.origin.rising_p95, abs=1e-3)
        assert max(errors) <= 0.03
    save(tmp_path / "a.npz", built)
    save(tmp_path / "b.npz", tables(source, "gpu", "vllm"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_build_takes_what_the_engine_runs(tmp_path: Path) -> None:
    fast: dict[str, Any] = {"latency": 0.02, "kv_cache_dtype": "fp8"}
    slow: dict[str, Any] = {"latency": 0.04, "kv_cache_dtype": "fp8"}
    both = rows(PREFILL, attn_dtype="fp8", **fast) + rows(PREFILL, **slow)
    (fp8,) = tables(written(tmp_path / "trt", PREFILL, both, framework="trtllm"), "gpu", "trtllm")
    np.testing.assert_allclose(fp8.time_ms, 0.02, rtol=0.003)
    assert fp8.origin.note == "products in FP8"
    few = rows(PREFILL, attn_dtype="fp8", **fast)[:40] + rows(PREFILL, **slow)
    (bf16,) = tables(written(tmp_path / "few", PREFILL, few, framework="trtllm"), "gpu", "trtllm")
    np.testing.assert_allclose(bf16.time_ms, 0.04, rtol=0.003)
    mixed = rows(DECODE, latency=0.01, kernel_source="trtllm_mha") + rows(DECODE, latency=0.1, kernel_source="x")[:99]
    (one,) = tables(written(tmp_path / "sgl", DECODE, mixed, framework="sglang"), "gpu", "sglang")
    np.testing.assert_allclose(one.time_ms, 0.01, rtol=0.003)
    assert one.origin.note == "kernel trtllm_mha, products in BF16"


def test_build_fills_from_older_releases_and_reads_those_without_windows(tmp_path: Path) -> None:
    written(tmp_path, DECODE, rows(DECODE, latency=0.01), version="0.24.0")
    old = rows(DECODE, latency=0.03) + rows(DECODE, latency=0.03, window_size=128)
    source = written(tmp_path, DECODE, old, version="0.22.0")
    found = {one.name: one for one in tables(source, "gpu", "vllm")}
    assert found["decode_attention.bf16.d128.w0"].origin.version == "0.24.0"
    assert found["decode_attention.bf16.d128.w128"].origin.version == "0.22.0"
    plain = [{k: v for k, v in row.items() if k != "window_size"} for row in rows(DECODE)]
    source = written(tmp_path / "old", DECODE, plain, framework="sglang", version="0.5.10")
    (only,) = tables(source, "gpu", "sglang")
    assert only.name == "decode_attention.bf16.d128.w0"
    with pytest.raises(SourceError, match="window_size"):
        tables(written(tmp_path / "new", DECODE, plain, framework="sglang", version="0.5.14"), "gpu", "sglang")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("latency", float("nan"), "row 8"),
        ("latency", 0.0, "row 8"),
        ("kv_cache_dtype", "int3", "int3"),
        ("attn_dtype", "fp4", "fp4"),
        ("num_heads", 0, "row 8"),
    ],
)
def test_build_refuses_what_is_no_measurement(tmp_path: Path, column: str, value: object, says: str) -> None:
    bad = rows(DECODE)
    bad[7][column] = value
    with pytest.raises(SourceError, match=says) as refused:
        tables(written(tmp_path, DECODE, bad), "gpu", "vllm")
    assert column in str(refused.value)
    assert "generation_attention_perf.parquet" in str(refused.value)
