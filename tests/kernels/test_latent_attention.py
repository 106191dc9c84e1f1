"""Latent attention from fabricated measurements that follow closed-form laws."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.costs.analytic import AnalyticKernels
from planner.costs.linear import PiecewiseLinear, affine
from planner.costs.operators import DecodeAttention, Gemm, PrefillAttention
from planner.costs.sides import projections
from planner.kernels.build import latent_attention as build
from planner.kernels.build.source import Source, SourceError
from planner.kernels.curves import CurveSet, Stored, save
from planner.kernels.latent_attention import SHAPES, LatentAttentionTables, context_nodes
from specs import catalog
from specs.model import Attention, LatentAttention, Precision, SoftmaxAttention

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ANALYTIC = AnalyticKernels(catalog.gpu("h200-sxm-141gb"))
V3 = SHAPES["v3"].attention
V32 = SHAPES["v32"].attention
HEADS = (16, 32, 64, 128)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 512, 1024, 2048, 4096, 8192, 32768)
LENGTHS = (1, 16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)

Row = tuple[int, int, int, int, float]
"""Heads, batch, new tokens, step, ms."""


def write(folder: Path, family: str, engine: str, op: str, rows: Iterable[Row], **constant: str) -> None:
    """One file of measurements as the package lays them out."""
    heads, batch, isl, step, latency = zip(*rows, strict=True)
    columns: dict[str, Any] = {"num_heads": heads, "batch_size": batch, "isl": isl, "step": step, "latency": latency}
    words = {"mla_dtype": "bfloat16", "kv_cache_dtype": "fp8", **constant}
    columns |= {name: [word] * len(heads) for name, word in words.items()}
    path = folder / "data" / "h200_sxm" / family / engine / "1.0.0" / f"{op}_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def gemm_ms(gemm: Gemm) -> PiecewiseLinear:
    """A law of matrix products: fixed time, weights, rows."""
    size = gemm.inputs * gemm.outputs
    return affine(0.002 + 2e-10 * size, 2e-12 * size)


def around(attention: LatentAttention, hidden: int, heads: int, rows: float) -> float:
    """Projections of one rank with `heads` heads by that law."""
    gemms = projections(attention.model_copy(update={"heads": heads}), hidden, 1, Precision.FP8)
    return sum(float(gemm_ms(gemm)(rows)) for gemm in gemms)


def decode_law(heads: float, batch: float, context: float) -> float:
    return 0.02 + batch * (2e-4 + 3e-7 * context * (1.0 + heads / 64.0))


def prefill_law(heads: float, prompts: float, new: float) -> float:
    return 0.03 + prompts * new * (1e-5 + 4e-9 * heads * new)


def decode(context: float, tp: int = 1, last: float | None = None, of: Attention = V3, **more: Any) -> DecodeAttention:
    end = context if last is None else last
    return DecodeAttention("core", of, tp, more.pop("kv", Precision.FP8), context, end, **more)


def prefill(new: float, context: float, tp: int = 1, attention: Attention = V3) -> PrefillAttention:
    return PrefillAttention("core", attention, tp, Precision.FP8, new, context)


def stored(folder: Path, engine: str) -> dict[str, CurveSet]:
    """Tables after a round trip through a file."""
    save(folder / "tables.npz", build.tables(Source(folder), "h200_sxm", engine))
    return dict(Stored(folder / "tables.npz"))


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> LatentAttentionTables:
    """An engine measured by modules: the laws of core and projections added up."""
    folder = tmp_path_factory.mktemp("modules")
    model = {"model": "deepseek-ai/DeepSeek-V3", "gemm_type": "fp8_block"}
    rows = [(h, b, 1, c, decode_law(h, b, c) + around(V3, 7168, h, b)) for h, b, c in product(HEADS, BATCHES, CONTEXTS)]
    write(folder, "mla", "vllm", "mla_generation_module", rows, **model)
    rows = [
        (h, b, n, 0, prefill_law(h, b, n) + around(V3, 7168, h, b * n))
        for h, b, n in product(HEADS, BATCHES, LENGTHS)
        if b * n <= 32768
    ]
    write(folder, "mla", "vllm", "mla_context_module", rows, **model)
    return LatentAttentionTables(stored(folder, "vllm"), ANALYTIC, gemm_ms)


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> LatentAttentionTables:
    """An engine whose cores take exactly twice the analytic time."""
    folder = tmp_path_factory.mktemp("doubled")

    def twice(operator: DecodeAttention | PrefillAttention, batch: int) -> float:
        return 2.0 * float(ANALYTIC.time_ms(operator)(float(batch)))

    rows = [(h, b, 1, c - 1, twice(decode(float(c), 128 // h), b)) for h, b, c in product(HEADS, BATCHES, CONTEXTS)]
    write(folder, "mla", "sglang", "generation_mla", rows)
    rows = [
        (h, b, n, 0, twice(prefill(float(n), 0.0, 128 // h), b))
        for h, b, n in product(HEADS, BATCHES, LENGTHS)
        if b * n <= 65536
    ]
    write(folder, "mla", "sglang", "context_mla", rows)
    return LatentAttentionTables(stored(folder, "sglang"), ANALYTIC, gemm_ms)


def at(tables: LatentAttentionTables, operator: DecodeAttention | PrefillAttention, x: float = 1.0) -> float:
    answer = tables.time_ms(operator)
    assert answer is not None
    return float(answer.time(x))


@pytest.mark.parametrize("heads", HEADS)
def test_core_and_projections_add_up_to_the_module(modules: LatentAttentionTables, heads: int) -> None:
    for batch, context in product(BATCHES, CONTEXTS):
        core = at(modules, decode(float(context), 128 // heads), batch)
        whole = decode_law(heads, batch, context) + around(V3, 7168, heads, batch)
        assert core + around(V3, 7168, heads, batch) == pytest.approx(whole, rel=0.03)
    for batch, new in product(BATCHES, LENGTHS):
        if batch * new <= 32768:
            core = at(modules, prefill(float(new), 0.0, 128 // heads), batch)
            whole = prefill_law(heads, batch, new) + around(V3, 7168, heads, batch * new)
            assert core + around(V3, 7168, heads, batch * new) == pytest.approx(whole, rel=0.03)


def test_long_prompts_are_known_to_be_measured_few_at_a_time(modules: LatentAttentionTables) -> None:
    for new in LENGTHS:
        found = modules.time_ms(prefill(float(new), 0.0))
        assert found is not None
        assert found.last == pytest.approx(max(batch for batch in BATCHES if batch * new <= 32768))
    found = modules.time_ms(decode(3000.0))
    assert found is not None
    assert found.last == pytest.approx(BATCHES[-1])


def test_between_measured_points_the_law_is_met(modules: LatentAttentionTables) -> None:
    for heads, batch, context in product((16, 24, 48, 128), (3, 48, 200), (700, 3000, 20000)):
        attention = V3.model_copy(update={"heads": heads})
        core = at(modules, decode(float(context), of=attention), batch)
        # Head counts and contexts lie up to 4x apart here, with a corner of the analytic roofline between them.
        assert core == pytest.approx(decode_law(heads, batch, context), rel=0.1)


def test_a_core_is_never_faster_than_its_fixed_time(tmp_path: Path) -> None:
    # Projections priced above the whole module leave the kernels' fixed time.
    model = {"model": "deepseek-ai/DeepSeek-V3", "gemm_type": "fp8_block"}
    write(
        tmp_path, "mla", "vllm", "mla_generation_module", [(128, b, 1, 1024, 0.01 + 1e-5 * b) for b in BATCHES], **model
    )
    tables = LatentAttentionTables(stored(tmp_path, "vllm"), ANALYTIC, gemm_ms)
    operator = decode(1024.0)
    assert at(tables, operator, 1.0) == pytest.approx(float(ANALYTIC.time_ms(operator)(0.0)), rel=1e-6)


@pytest.mark.parametrize("tp", [1, 2, 3, 8])
@pytest.mark.parametrize("queries", [1, 2])
def test_constant_efficiency_scales_the_analytic_time(doubled: LatentAttentionTables, tp: int, queries: int) -> None:
    for first, last, batch in ((700.0, 700.0, 1.0), (1000.0, 9000.0, 16.0), (20000.0, 90000.0, 64.0)):
        operator = decode(first, tp, last, queries=queries)
        assert at(doubled, operator, batch) == pytest.approx(2.0 * float(ANALYTIC.time_ms(operator)(batch)), rel=0.04)
    for new, context in ((300.0, 0.0), (1000.0, 5000.0), (4096.0, 30000.0), (64.0, 100000.0)):
        operator_p = prefill(new, context, tp)
        expected = 2.0 * float(ANALYTIC.time_ms(operator_p)(1.0))
        assert at(doubled, operator_p) == pytest.approx(expected, rel=0.04)


def test_time_is_the_mean_over_a_growing_context(modules: LatentAttentionTables) -> None:
    for first, last in ((500.0, 3000.0), (1500.0, 60000.0)):
        steps = np.linspace(first, last, 4001)
        values = np.array([at(modules, decode(float(context)), 16.0) for context in steps])
        mean = float(np.trapezoid(values, steps)) / (last - first)
        assert at(modules, decode(first, 1, last), 16.0) == pytest.approx(mean, rel=1e-3)


def test_nodes_integrate_cubics_exactly_between_splits() -> None:
    nodes = context_nodes(1.0, 5.0, np.array([2.0, 4.0, 9.0]))
    assert sum(weight for _, weight in nodes) == pytest.approx(1.0)
    kinked = sum(weight * (node**3 if node < 2.0 else 8.0 + node) for node, weight in nodes)
    assert kinked == pytest.approx(((2.0**4 - 1.0) / 4.0 + 8.0 * 3.0 + (25.0 - 4.0) / 2.0) / 4.0)


def test_times_never_fall_with_sequences_or_context(modules: LatentAttentionTables) -> None:
    sequences = np.geomspace(0.5, 2000.0, 200)
    before: np.ndarray[Any, Any] = np.zeros(sequences.size)
    for context in np.geomspace(64, 200_000, 60):
        answer = modules.time_ms(decode(float(context)))
        assert answer is not None
        times = answer.time(sequences)
        assert (np.diff(times) >= 0).all()
        assert times.min() > 0
        assert answer.time.x[0] == 0.0
        assert (times >= before * (1 - 1e-3)).all()
        before = times
    for new in (300.0, 700.0, 5000.0):
        steps = [0.0, *np.geomspace(1, 2e5, 200).tolist()]
        chunk = np.array([at(modules, prefill(new, context, 8)) for context in steps])
        assert (np.diff(chunk) >= -1e-3 * chunk[1:]).all()


def test_times_are_continuous_at_the_edges(modules: LatentAttentionTables) -> None:
    for edge in (CONTEXTS[0], 2048, CONTEXTS[-1]):
        assert at(modules, decode(edge * 1.0001), 8) == pytest.approx(at(modules, decode(edge * 0.9999), 8), rel=1e-3)
    for edge in (BATCHES[0], BATCHES[-1]):
        operator = decode(3000.0)
        assert at(modules, operator, edge * 1.0001) == pytest.approx(at(modules, operator, edge * 0.9999), rel=1e-3)
    for new in (1.0, 100.0, 16384.0, 30000.0):
        assert at(modules, prefill(new, 1e-3)) == pytest.approx(at(modules, prefill(new, 0.0)), rel=1e-4)
        assert at(modules, prefill(new * 1.0001, 500.0)) == pytest.approx(at(modules, prefill(new, 500.0)), rel=1e-3)


def test_outside_says_how_far(modules: LatentAttentionTables) -> None:
    def outside(operator: DecodeAttention | PrefillAttention) -> float:
        answer = modules.time_ms(operator)
        assert answer is not None
        return answer.outside

    assert outside(decode(1000.0)) == 1.0
    assert outside(decode(1000.0, last=65536.0)) == pytest.approx(2.0)
    assert outside(decode(1000.0, tp=32)) == pytest.approx(4.0)
    assert outside(prefill(1000.0, 0.0)) == 1.0
    # 1,000 new tokens after 500,000 have as many pairs as a prompt of 31,639.
    assert outside(prefill(1000.0, 500_000.0)) == pytest.approx(31_639 / 16384, rel=1e-3)


def test_absorbed_products_are_counted_once(tmp_path: Path) -> None:
    rows = [(h, b, 1, c - 1, decode_law(h, b, c)) for h, b, c in product(HEADS, BATCHES, CONTEXTS)]
    write(tmp_path, "mla", "sglang", "generation_mla", rows)
    products = [
        (name, h, b, 0.003 + 1e-6 * h + 1e-5 * b)
        for name, h, b in product(("mla_gen_pre", "mla_gen_post"), HEADS, BATCHES)
    ]
    names, heads, tokens, latency = zip(*products, strict=True)
    columns = {
        "op_name": names,
        "num_heads": heads,
        "num_tokens": tokens,
        "latency": latency,
        "bmm_dtype": ["fp8"] * len(names),
    }
    path = tmp_path / "data" / "h200_sxm" / "mla_bmm" / "sglang" / "1.0.0" / "mla_bmm_perf.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), path)
    tables = LatentAttentionTables(stored(tmp_path, "sglang"), ANALYTIC, gemm_ms)
    for h, b in product(HEADS, (1, 32, 256)):
        up = next(gemm for gemm in projections(V3, 7168, 128 // h, Precision.FP8) if gemm.name == "kv_up")
        measured = decode_law(h, b, 4096) + 2.0 * (0.003 + 1e-6 * h + 1e-5 * b)
        assert at(tables, decode(4096.0, 128 // h), b) + float(gemm_ms(up)(b)) == pytest.approx(measured, rel=0.03)


def sparse_folder(folder: Path, context: Callable[[int, int], float]) -> None:
    """Sparse modules of one head count: chunks with context before them."""
    model = {"model": "deepseek-ai/DeepSeek-V3.2", "gemm_type": "fp8_block", "op_name": "dsa_context_module"}
    rows = [
        (16, b, n, c, b * context(n, c) + around(V32, 7168, 16, b * n))
        for b, n, c in product((1, 4), (1, 64, 512, 2048, 8192), (0, 512, 2048, 8192, 32768, 131072))
        if b == 1 or c == 0
    ]
    write(folder, "sparse_attention", "sglang", "dsa_context_module", rows, **model)


def test_measured_context_before_a_chunk_is_used(tmp_path: Path) -> None:
    def law(new: int, context: int) -> float:
        return 0.05 + 1e-4 * new * (1.0 + (context + new) / 20000.0)

    sparse_folder(tmp_path, law)
    tables = LatentAttentionTables(stored(tmp_path, "sglang"), ANALYTIC, gemm_ms)
    for new, context in product((512, 2048, 8192), (0, 512, 2048, 8192, 32768, 131072)):
        core = at(tables, prefill(float(new), float(context), 8, V32))
        assert core + around(V32, 7168, 16, new) == pytest.approx(
            law(new, context) + around(V32, 7168, 16, new), rel=0.03
        )
    steps = [0.0, *np.geomspace(1, 3e5, 300).tolist()]
    chunk = np.array([at(tables, prefill(2048.0, context, 8, V32)) for context in steps])
    assert (np.diff(chunk) >= -1e-9).all()


def test_sparse_times_have_no_step_at_the_selection_size(tmp_path: Path) -> None:
    folder = tmp_path
    model = {"model": "deepseek-ai/DeepSeek-V3.2", "gemm_type": "fp8_block", "op_name": "dsa_generation_module"}

    def law(batch: float, context: float) -> float:
        return 0.06 + batch * (1e-4 + 4e-7 * min(context, 2048) + 1e-8 * context)

    rows = [(16, b, 1, c, law(b, c) + around(V32, 7168, 16, b)) for b, c in product(BATCHES, CONTEXTS)]
    write(folder, "sparse_attention", "trtllm", "dsa_generation_module", rows, **model)
    tables = LatentAttentionTables(stored(folder, "trtllm"), ANALYTIC, gemm_ms)
    contexts = np.geomspace(256, 30000, 120)
    times = np.array([at(tables, decode(float(c), 8, of=V32), 64.0) for c in contexts])
    expected = np.array([law(64.0, c) for c in contexts])
    assert np.abs(times / expected - 1.0).max() < 0.04
    assert (np.diff(times) >= 0).all()
    assert at(tables, decode(2047.9, 8, of=V32), 64.0) == pytest.approx(
        at(tables, decode(2048.1, 8, of=V32), 64.0), rel=1e-3
    )


def test_what_was_not_measured_is_said(modules: LatentAttentionTables) -> None:
    softmax = SoftmaxAttention(heads=32, kv_heads=8, head_dim=128)
    assert modules.time_ms(decode(1000.0, of=softmax)) is None
    assert modules.time_ms(decode(1000.0, of=V32)) is None
    same, other = modules.time_ms(decode(1000.0)), modules.time_ms(decode(1000.0, kv=Precision.BF16))
    wider = modules.time_ms(decode(1000.0, of=V3.model_copy(update={"v_head_dim": 256})))
    assert same is not None
    assert other is not None
    assert wider is not None
    assert same.origin.note == ""
    assert "fp8 KV cache" in other.origin.note
    assert "layer shape v3" in wider.origin.note
    assert same.origin.version == "1.0.0"
    assert same.origin.error_p95 <= 0.03
    assert same.origin.flagged == 0


def test_a_spike_is_stored_and_read_past(tmp_path: Path) -> None:
    rows = [(128, b, 1, c - 1, decode_law(128, b, c)) for b, c in product(BATCHES, CONTEXTS)]
    spiked = [(*row[:4], 40.0 * row[4]) if row[:4] == (128, 4, 1, 1023) else row for row in rows]
    write(tmp_path, "mla", "sglang", "generation_mla", spiked)
    tables = stored(tmp_path, "sglang")
    table = tables["latent.decode.v3.core.fp8"]
    curve = int(np.flatnonzero((table.keys == [128, 1024]).all(axis=1))[0])
    assert float(table.at(curve, 4)) == pytest.approx(40.0 * decode_law(128, 4, 1024), rel=0.02)
    assert (table.origin.flagged, table.origin.rising_flagged) == (0, 1)
    assert table.origin.error_max < 0.02
    assert table.origin.rising_p95 < 0.03
    kernels = LatentAttentionTables(tables, ANALYTIC, gemm_ms)
    assert at(kernels, decode(1024.0), 4.0) == pytest.approx(decode_law(128, 4, 1024), rel=0.03)
    assert at(kernels, decode(8192.0), 64.0) == pytest.approx(decode_law(128, 64, 8192), rel=0.03)


def test_of_repeated_measurements_the_fastest_counts() -> None:
    points, times = build.added(
        [
            (np.array([[1, 1], [1, 1], [2, 1]]), np.array([3.0, 2.0, 5.0])),
            (np.array([[1, 1], [3, 1]]), np.array([0.5, 9.0])),
        ]
    )
    assert points.tolist() == [[1.0, 1.0]]
    assert times.tolist() == [2.5]


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_impossible_times_are_refused(tmp_path: Path, wrong: float) -> None:
    rows = [(128, b, 1, 1023, 0.01 * b) for b in BATCHES]
    write(tmp_path, "mla", "sglang", "generation_mla", [*rows, (128, 512, 1, 1023, wrong)])
    with pytest.raises(SourceError, match=r"generation_mla_perf.parquet.*latency.*row 10"):
        build.tables(Source(tmp_path), "h200_sxm", "sglang")


def test_nothing_measured_gives_no_tables(tmp_path: Path) -> None:
    (tmp_path / "data" / "h200_sxm").mkdir(parents=True)
    assert build.tables(Source(tmp_path), "h200_sxm", "sglang") == []
