"""Linear attention from fabricated measurements that follow closed-form laws."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.costs.analytic import AnalyticKernels
from planner.costs.operators import DecodeAttention, PrefillAttention
from planner.kernels.build import linear_attention as build
from planner.kernels.build.source import Source, SourceError
from planner.kernels.curves import CurveSet, Stored, save
from planner.kernels.linear_attention import LinearAttentionTables
from specs import catalog
from specs.model import LatentAttention, LinearAttention, Precision

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ANALYTIC = AnalyticKernels(catalog.gpu("b200-sxm-180gb"))
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = (1, 16, 128, 1024, 4096, 16384)
TPS = (1, 2, 4, 8)


def layer() -> LinearAttention:
    """Qwen3.5-397B's: 64 value heads, 16 key heads, head dimension 128, convolution of width 4."""
    state, channels = 64 * 128 * 128, (2 * 16 + 64) * 128
    return LinearAttention(
        projection_params=1, state_elements=state + 3 * channels, flops_per_token=7 * state + 8 * channels
    )


LAYER = layer()


def convolution_ms(tp: int, sequences: float, tokens: float) -> float:
    return 0.002 + 2e-6 / tp * sequences * tokens


def recurrence_ms(tp: int, sequences: float, tokens: float) -> float:
    return 0.01 + sequences / tp * (1e-3 + 1.2e-4 * tokens)


def law_ms(tp: int, sequences: float, tokens: float) -> float:
    return convolution_ms(tp, sequences, tokens) + recurrence_ms(tp, sequences, tokens)


def write(folder: Path, **wrong: Any) -> None:
    rows: list[tuple[str, str, int, int, int, float]] = []
    for tp, batch in product(TPS, BATCHES):
        for part, lengths in (("generation", (1,)), ("context", LENGTHS)):
            for tokens in lengths:
                rows.append((part, "causal_conv1d_update", tp, batch, tokens, convolution_ms(tp, batch, tokens)))
                rows.append((part, "gated_delta_rule", tp, batch, tokens, recurrence_ms(tp, batch, tokens)))
                # Repeats of a point that was disturbed must not count.
                rows.append((part, "gated_delta_rule", tp, batch, tokens, 3.0 * recurrence_ms(tp, batch, tokens)))
    names, kernels, shares, sequences, seq_len, latency = zip(*rows, strict=True)
    columns: dict[str, Any] = {
        "phase": names,
        "kernel_source": kernels,
        "batch_size": sequences,
        "seq_len": seq_len,
        "d_conv": [4] * len(rows),
        "num_k_heads": [16 // share for share in shares],
        "head_k_dim": [128] * len(rows),
        "num_v_heads": [64 // share for share in shares],
        "head_v_dim": [128] * len(rows),
        "latency": latency,
    }
    columns |= wrong
    path = folder / "data" / "b200_sxm" / "linear_attention" / "vllm" / "1.0.0" / "gdn_perf.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({name: values for name, values in columns.items() if values is not None}), path)


def stored(folder: Path) -> dict[str, CurveSet]:
    save(folder / "tables.npz", build.tables(Source(folder), "b200_sxm", "vllm"))
    return dict(Stored(folder / "tables.npz"))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> LinearAttentionTables:
    folder = tmp_path_factory.mktemp("linear")
    write(folder)
    return LinearAttentionTables(stored(folder), ANALYTIC)


def decode(tp: int = 1, queries: int = 1, attention: Any = LAYER) -> DecodeAttention:
    return DecodeAttention("core", attention, tp, Precision.FP8, 1000.0, 5000.0, queries)


def prefill(new: float, context: float = 0.0, tp: int = 1, attention: Any = LAYER) -> PrefillAttention:
    return PrefillAttention("core", attention, tp, Precision.FP8, new, context)


def at(kernels: LinearAttentionTables, operator: DecodeAttention | PrefillAttention, x: float = 1.0) -> float:
    answer = kernels.time_ms(operator)
    assert answer is not None
    return float(answer.time(x))


@pytest.mark.parametrize("tp", TPS)
def test_measured_points_are_the_sum_of_both_kernels(kernels: LinearAttentionTables, tp: int) -> None:
    for batch in BATCHES:
        assert at(kernels, decode(tp), batch) == pytest.approx(law_ms(tp, batch, 1), rel=0.03)
        for tokens in LENGTHS:
            expected = law_ms(tp, batch, tokens)
            assert at(kernels, prefill(float(tokens), 0.0, tp), batch) == pytest.approx(expected, rel=0.03)


def test_between_measured_points_the_law_is_met(kernels: LinearAttentionTables) -> None:
    for tp, batch, tokens in product((1, 3, 8), (3.0, 100.0), (300.0, 2000.0, 9000.0)):
        # A state between two measured ones and a prompt between two measured ones.
        expected = law_ms(tp, batch, tokens)
        assert at(kernels, prefill(tokens, 0.0, tp), batch) == pytest.approx(expected, rel=0.05)
        assert at(kernels, decode(tp), batch) == pytest.approx(law_ms(tp, batch, 1), rel=0.05)


def test_context_before_a_chunk_does_not_matter(kernels: LinearAttentionTables) -> None:
    assert at(kernels, prefill(2048.0, 100_000.0)) == at(kernels, prefill(2048.0, 0.0))


def test_draft_tokens_cost_what_the_analytic_time_says(kernels: LinearAttentionTables) -> None:
    for batch in (1.0, 256.0):
        ratio = float(ANALYTIC.time_ms(decode(2, 3))(batch)) / float(ANALYTIC.time_ms(decode(2, 1))(batch))
        assert at(kernels, decode(2, 3), batch) == pytest.approx(ratio * at(kernels, decode(2, 1), batch), rel=1e-9)


def test_times_rise_and_are_continuous(kernels: LinearAttentionTables) -> None:
    x = np.geomspace(0.5, 3000.0, 400)
    for operator in (decode(), decode(8), prefill(100.0), prefill(5000.0, 0.0, 8)):
        answer = kernels.time_ms(operator)
        assert answer is not None
        times = answer.time(x)
        assert times.min() > 0
        assert (np.diff(times) >= 0).all()
        for edge in (BATCHES[0], BATCHES[-1]):
            assert float(answer.time(edge * 1.0001)) == pytest.approx(float(answer.time(edge * 0.9999)), rel=1e-3)
    lengths = np.geomspace(1, 60_000, 300)
    chunk = np.array([at(kernels, prefill(new, 0.0, 2)) for new in lengths.tolist()])
    assert (np.diff(chunk) > 0).all()
    assert np.abs(np.diff(np.log(chunk))).max() < 1.1 * np.log(lengths[1] / lengths[0])


def test_outside_says_how_far(kernels: LinearAttentionTables) -> None:
    inside, beyond = kernels.time_ms(decode(2)), kernels.time_ms(decode(16))
    assert inside is not None
    assert beyond is not None
    assert inside.outside == 1.0
    assert beyond.outside == pytest.approx(2.0)
    long = kernels.time_ms(prefill(32768.0))
    assert long is not None
    assert long.outside == pytest.approx(2.0)


def test_other_layers_get_no_answer(kernels: LinearAttentionTables) -> None:
    mamba = LinearAttention(projection_params=1, state_elements=1_079_296, flops_per_token=5_324_800)
    latent = LatentAttention(heads=8, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    for other in (mamba, latent):
        assert kernels.time_ms(decode(attention=other)) is None
        assert kernels.time_ms(prefill(100.0, attention=other)) is None
    assert LinearAttentionTables({}, ANALYTIC).time_ms(decode()) is None


def test_a_phase_with_one_kernel_missing_has_no_table(tmp_path: Path) -> None:
    write(tmp_path)
    path = next(tmp_path.rglob("gdn_perf.parquet"))
    table = pq.read_table(path).to_pylist()
    kept = [row for row in table if row["phase"] == "generation" or row["kernel_source"].startswith("causal")]
    pq.write_table(pa.Table.from_pylist(kept), path)
    assert [made.name for made in build.tables(Source(tmp_path), "b200_sxm", "vllm")] == ["linear.decode"]


def test_a_missing_column_is_refused(tmp_path: Path) -> None:
    write(tmp_path, d_conv=None)
    with pytest.raises(SourceError, match=r"gdn_perf.parquet: column 'd_conv' is missing"):
        build.tables(Source(tmp_path), "b200_sxm", "vllm")


def test_the_same_measurements_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path)
    stored(tmp_path)
    first = (tmp_path / "tables.npz").read_bytes()
    stored(tmp_path)
    assert (tmp_path / "tables.npz").read_bytes() == first
