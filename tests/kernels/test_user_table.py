"""User tables: what the file refuses, and what the library answers, against closed forms."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.calibrate.table import Header, Row, Table, header_line, read, read_partial, write
from planner.costs.analytic import AnalyticKernels, hottest_rank
from planner.costs.operators import DecodeAttention, Elementwise, Gemm, GroupedGemm, Operator, PrefillAttention
from planner.kernels.user_table import UserKernels, expanded_is_cheaper
from specs import catalog
from specs.errors import SpecError
from specs.model import LatentAttention, Precision, SoftmaxAttention
from tests.costs.sites import make_site

H200 = catalog.gpu("h200")
ANALYTIC = AnalyticKernels(H200)
HEADER = Header("h200-sxm-141gb", "NVIDIA H200", "cuda", "580.1", "2.11.0", "2026-11-21", ("m",))
GQA = SoftmaxAttention(heads=64, kv_heads=8, head_dim=128)
MLA = LatentAttention(
    heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
)
M = (1, 16, 256, 4096)


def row(operator: str, value: int, time_ms: float, *, stand_in: bool = False, **keys: Any) -> Row:
    return Row(operator, tuple(keys.items()), value, time_ms, 0.01, "k", stand_in)


def gemm_rows(n: int, k: int, efficiency: Callable[[int], float], precision: str = "fp8") -> list[Row]:
    block = precision == "fp8_block"
    time = ANALYTIC.time_ms(Gemm("g", k, n, Precision.FP8 if block else Precision(precision), block))
    return [row("gemm", m, efficiency(m) * float(time(m)), precision=precision, n=n, k=k) for m in M]


def library(rows: list[Row]) -> UserKernels:
    return UserKernels(HEADER, rows, H200, "t.jsonl")


def written(tmp_path: Path, rows: list[Row], header: Header = HEADER) -> Path:
    path = tmp_path / "t.jsonl"
    write(path, Table(header, tuple(rows)))
    return path


def refused(path: Path) -> SpecError:
    with pytest.raises(SpecError) as caught:
        UserKernels.of(path, read(path), H200)
    assert caught.value.file == str(path)
    return caught.value


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [*gemm_rows(4096, 7168, lambda _: 1.2), row("stream", 1 << 20, 0.004)]
    table = read(written(tmp_path, rows[::-1]))
    assert table == Table(HEADER, tuple(rows))
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "wrong unit": (lambda row: {**{k: v for k, v in row.items() if k != "time_ms"}, "time_us": 3.0}, "time_us"),
    "missing key": (lambda row: {k: v for k, v in row.items() if k != "n"}, "n"),
    "missing time": (lambda row: {k: v for k, v in row.items() if k != "time_ms"}, "time_ms"),
    "text for a number": (lambda row: {**row, "time_ms": "0.1"}, "time_ms"),
    "zero": (lambda row: {**row, "time_ms": 0.0}, "time_ms"),
    "negative": (lambda row: {**row, "time_ms": -1.0}, "time_ms"),
    "not a number": (lambda row: {**row, "time_ms": float("nan")}, "time_ms"),
    "infinite": (lambda row: {**row, "time_ms": float("inf")}, "time_ms"),
    "negative spread": (lambda row: {**row, "spread": -0.1}, "spread"),
    "fractional key": (lambda row: {**row, "k": 1.5}, "k"),
    "boolean key": (lambda row: {**row, "k": True}, "k"),
    "zero rows": (lambda row: {**row, "rows": 0}, "rows"),
    "unknown precision": (lambda row: {**row, "precision": "fp7"}, "precision"),
    "unknown operator": (lambda row: {**row, "operator": "fft"}, "operator"),
    "stand-in as text": (lambda row: {**row, "stand_in": "no"}, "stand_in"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_bad_row_is_refused_with_line_and_field(tmp_path: Path, name: str) -> None:
    edit, field = EDITS[name]
    path = written(tmp_path, gemm_rows(4096, 7168, lambda _: 1.2))
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(edit(json.loads(lines[2])))
    path.write_text("\n".join(lines) + "\n")
    error = refused(path)
    assert (error.field, error.line) == (field, 3)


def test_a_partial_or_edited_table_is_never_used(tmp_path: Path) -> None:
    whole = written(tmp_path, gemm_rows(4096, 7168, lambda _: 1.2)).read_bytes()
    path = tmp_path / "cut.jsonl"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(whole[:-1])
    refused(path)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))  # a row is missing
    assert refused(path).field == "rows"
    path.write_bytes(whole.replace(b'"spread": 0.01', b'"spread": 0.02', 1))
    assert refused(path).field == "sha256"
    path.write_bytes(whole + lines[1])
    assert refused(path).field == "end"
    path.write_bytes(whole.replace(b"kernel_points/1", b"kernel_points/2"))
    assert (refused(path).field, refused(path).line) == ("format", 1)
    path.write_bytes(b"\xff\n")
    refused(path)
    refused(tmp_path / "none.jsonl")
    refused(tmp_path)


def test_a_curve_that_falls_or_repeats_is_refused(tmp_path: Path) -> None:
    keys = {"precision": "fp8", "n": 4096, "k": 7168}
    slow = [row("gemm", m, time, **keys) for m, time in ((1, 0.02), (2, 0.041), (4, 0.02), (8, 0.03))]
    with pytest.raises(SpecError, match="factor of 2") as caught:
        write(tmp_path / "t", Table(HEADER, tuple(slow)))
    assert (caught.value.field, caught.value.line) == ("time_ms", 4)
    assert not (tmp_path / "t").exists()
    slow[1] = replace(slow[1], time_ms=0.039)
    assert read(written(tmp_path, slow)).rows == tuple(slow)
    with pytest.raises(SpecError, match="twice"):
        write(tmp_path / "t", Table(HEADER, (slow[0], slow[0])))


@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_microseconds_and_seconds_are_refused(tmp_path: Path, factor: float) -> None:
    error = refused(written(tmp_path, gemm_rows(4096, 7168, lambda _: factor)))
    assert (error.field, error.line) == ("time_ms", 2)


def test_a_partial_file_loses_only_its_broken_line(tmp_path: Path) -> None:
    rows = gemm_rows(4096, 7168, lambda _: 1.2)
    path = tmp_path / "t.partial"
    path.write_text(header_line(HEADER) + rows[0].to_line() + "\n" + rows[1].to_line()[:20])
    assert read_partial(path).rows == (rows[0],)
    path.write_text("")
    with pytest.raises(SpecError):
        read_partial(path)


def test_a_table_of_another_gpu_does_not_apply(tmp_path: Path) -> None:
    path = written(tmp_path, gemm_rows(4096, 7168, lambda _: 1.2))
    assert UserKernels.of(path, read(path), catalog.gpu("h100")) is None
    loaded = UserKernels.of(path, read(path), H200)
    assert loaded is not None
    assert loaded.source == "calibration t.jsonl"
    cpu = written(tmp_path, gemm_rows(4096, 7168, lambda _: 1e6), replace(HEADER, gpu="cpu", backend="cpu"))
    assert UserKernels.of(cpu, read(cpu), H200) is None


def test_a_measured_point_is_answered_with_what_was_measured() -> None:
    rows = gemm_rows(4096, 7168, lambda m: 1.0 + m / 9000.0)
    time = library(rows).time_ms(Gemm("any", 7168, 4096, Precision.FP8))
    assert time is not None
    np.testing.assert_allclose(time(M), [point.time_ms for point in rows], rtol=0.006)


def test_between_points_the_efficiency_is_interpolated() -> None:
    rows = [r for n in (1024, 4096) for k in (2048, 8192) for r in gemm_rows(n, k, lambda _: 1.3)]
    asked = Gemm("any", 5000, 3000, Precision.FP8)
    answer = library(rows).answer(asked)
    assert answer is not None
    at = np.array([1.0, 3.0, 100.0, 700.0, 3000.0, 1e5])
    np.testing.assert_allclose(answer.time(at), 1.3 * ANALYTIC.time_ms(asked)(at), rtol=0.006)
    assert answer.outside == 1.0
    # Efficiencies 1 and 2 at n and 16 n: halfway in the logarithm, at 4 n, it is 1.5.
    mixed = library(gemm_rows(1024, 2048, lambda _: 1.0) + gemm_rows(16384, 2048, lambda _: 2.0))
    halfway = Gemm("any", 2048, 4096, Precision.FP8)
    time = mixed.time_ms(halfway)
    assert time is not None
    np.testing.assert_allclose(time(at), 1.5 * ANALYTIC.time_ms(halfway)(at), rtol=0.006)


def test_outside_the_efficiency_is_carried_a_factor_of_two_and_no_further() -> None:
    near = library(gemm_rows(4096, 8192, lambda _: 1.3))
    answer = near.answer(Gemm("any", 8192, 2048, Precision.FP8))
    assert answer is not None
    assert answer.outside == pytest.approx(2.0)
    np.testing.assert_allclose(
        answer.time([8.0, 512.0]),
        1.3 * ANALYTIC.time_ms(Gemm("any", 8192, 2048, Precision.FP8))([8.0, 512.0]),
        rtol=0.006,
    )
    assert near.time_ms(Gemm("any", 8192, 2000, Precision.FP8)) is None
    assert near.time_ms(Gemm("any", 8192, 4096, Precision.BF16)) is None
    assert near.time_ms(Gemm("any", 8192, 4096, Precision.FP8, block=True)) is None


def test_stand_ins_are_not_planned_with() -> None:
    rows = [replace(point, stand_in=True) for point in gemm_rows(4096, 8192, lambda _: 5.0)]
    assert library(rows).time_ms(Gemm("any", 8192, 4096, Precision.FP8)) is None


def decode_rows(efficiency: float, kv: str = "bf16", contexts: tuple[int, ...] = (1024, 4096)) -> list[Row]:
    found = []
    for context in contexts:
        time = ANALYTIC.time_ms(DecodeAttention("d", GQA, 4, Precision(kv), context, context))
        keys = {"kv_precision": kv, "heads": 16, "kv_heads": 2, "head_dim": 128, "queries": 1, "context": context}
        found += [row("decode_attention", b, efficiency * float(time(b)), **keys) for b in (1, 16, 256)]
    return found


def test_decode_attention_reads_the_mean_context() -> None:
    kernels = library(decode_rows(1.4))
    asked = DecodeAttention("d", GQA, 4, Precision.BF16, 1000, 3000)
    time = kernels.time_ms(asked)
    assert time is not None
    at = np.array([1.0, 5.0, 64.0, 200.0, 1000.0])
    np.testing.assert_allclose(time(at), 1.4 * ANALYTIC.time_ms(asked)(at), rtol=0.006)
    for other in (
        replace(asked, tp=8),  # other heads
        replace(asked, queries=2),
        replace(asked, kv_dtype=Precision.FP8),
        replace(asked, first_context=10.0, last_context=500.0),
    ):
        assert kernels.time_ms(other) is None


def test_a_window_shortens_the_context_of_a_decode_step() -> None:
    windowed = GQA.model_copy(update={"window_tokens": 1024})
    kernels = library(decode_rows(1.4))
    time = kernels.time_ms(DecodeAttention("d", windowed, 4, Precision.BF16, 50_000, 60_000))
    expected = [point.time_ms for point in decode_rows(1.4, contexts=(1024,))]
    assert time is not None
    np.testing.assert_allclose(time([1, 16, 256]), expected, rtol=0.006)


def test_prefill_attention_and_its_window() -> None:
    rows = []
    for context in (0, 4096):
        for new in (512, 2048):
            time = ANALYTIC.time_ms(PrefillAttention("p", GQA, 4, Precision.BF16, new, context))
            keys = {
                "kv_precision": "bf16", "heads": 16, "kv_heads": 2, "head_dim": 128,
                "context": context, "new_tokens": new,
            }  # fmt: skip
            rows += [row("prefill_attention", b, 0.9 * float(time(b)), **keys) for b in (1, 4)]
    kernels = library(rows)
    asked = PrefillAttention("p", GQA, 4, Precision.BF16, 1000.5, 3000.0)
    time = kernels.time_ms(asked)
    assert time is not None
    np.testing.assert_allclose(time([1.0, 3.0, 8.0]), 0.9 * ANALYTIC.time_ms(asked)([1.0, 3.0, 8.0]), rtol=0.006)
    short = GQA.model_copy(update={"window_tokens": 128})
    assert kernels.time_ms(replace(asked, attention=short)) is None
    assert kernels.time_ms(replace(asked, new_tokens=100.0)) is None


def test_latent_attention() -> None:
    keys = {"kv_precision": "bf16", "heads": 16, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    asked = DecodeAttention("d", MLA, 8, Precision.BF16, 4096, 4096)
    decode = ANALYTIC.time_ms(asked)
    prompt = PrefillAttention("p", MLA, 8, Precision.BF16, 2048, 0)
    prefill = ANALYTIC.time_ms(prompt)
    shape = {
        "kv_precision": "bf16", "heads": 16, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "context": 0, "new_tokens": 2048,
    }  # fmt: skip
    kernels = library(
        [row("decode_mla", b, 1.1 * float(decode(b)), **keys, queries=1, context=4096) for b in (1, 64)]
        + [row("prefill_mla", b, 1.2 * float(prefill(b)), **shape) for b in (1, 4)]
    )
    for operator, factor in ((asked, 1.1), (prompt, 1.2)):
        time = kernels.time_ms(operator)
        assert time is not None
        np.testing.assert_allclose(time([1.0, 4.0]), factor * ANALYTIC.time_ms(operator)([1.0, 4.0]), rtol=0.006)
    sparse = MLA.model_copy(update={"index_heads": 64, "index_head_dim": 128, "index_topk": 2048})
    assert kernels.time_ms(replace(asked, attention=sparse)) is None
    assert kernels.time_ms(replace(prompt, attention=sparse)) is None
    # 576 + 512 multiply-adds a pair absorbed, 320 expanded: long chunks expand, one token after a long context not.
    assert expanded_is_cheaper(MLA, 8, 2048, 0)
    assert not expanded_is_cheaper(MLA, 8, 1, 10_000)


HIDDEN, WIDTH = 7168, 2048


def products_ms(pairs: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Two products on a Hopper GPU: 2.5 us each, half of 1,979 TFLOP/s, 80% of 4.8 TB/s."""
    params = 3.0 * HIDDEN * WIDTH
    return 2 * 2.5e-3 + np.maximum(2.0 * params * pairs / (1979e9 * 0.5), params * active / (4800e6 * 0.8))


def test_experts_on_any_number_of_ranks_follow_from_pairs_and_activated_experts() -> None:
    rows = []
    for active in (1, 4, 16, 32):
        keys = {"precision": "fp8", "hidden": HIDDEN, "intermediate": WIDTH, "gated": True, "active_experts": active}
        for pairs in (active << power for power in range(0, 12)):
            time = 1.4 * float(products_ms(np.array(pairs), np.array(active)))
            rows.append(row("grouped_gemm", pairs, time, **keys))
    kernels = library(rows)
    tokens = np.array([1.0, 10.0, 300.0, 4000.0, 60_000.0])
    for ranks, skew in ((8, 0.0), (32, 0.0), (8, 0.6)):
        operator = GroupedGemm("e", HIDDEN, WIDTH, True, 256, 256 // ranks, ranks, 8, skew, Precision.FP8)
        answer = kernels.answer(operator)
        assert answer is not None
        around = ANALYTIC.time_ms(operator)(tokens) - products_ms(*hottest_rank(operator, tokens))
        expected = around + 1.4 * products_ms(*hottest_rank(operator, tokens))
        np.testing.assert_allclose(answer.time(tokens), expected, rtol=0.02)  # the analytic curve is fitted to 1%
        assert answer.outside == 1.0
    assert kernels.time_ms(GroupedGemm("e", HIDDEN, WIDTH, True, 256, 128, 2, 8, 0.0, Precision.FP8)) is None
    assert kernels.time_ms(GroupedGemm("e", HIDDEN, 1024, True, 256, 32, 8, 8, 0.0, Precision.FP8)) is None


def test_elementwise_kernels_share_their_bytes() -> None:
    kernels = library([row("stream", size, 0.002 + size / 4e9) for size in (1 << 14, 1 << 20, 1 << 26, 1 << 32)])
    time = kernels.time_ms(Elementwise("e", 81920.0, 4))
    assert time is not None
    tokens = np.array([2.0, 64.0, 4096.0])
    np.testing.assert_allclose(time(tokens), 4 * (0.002 + 20480 * tokens / 4e9), rtol=0.01)


def test_all_reduces_are_the_measured_ones_for_the_ranks_that_were_measured() -> None:
    sizes = np.array([4096, 1 << 16, 1 << 20, 1 << 24])
    kernels = library([row("all_reduce", int(size), 0.01 + size / 1e8, ranks=8) for size in sizes])
    site = make_site("h200", "Qwen/Qwen3-32B")
    plain = site.fabric
    fabric = type(site).of(site.service, site.pool, libraries=(kernels,)).fabric
    slow = type(site).of(site.service, site.pool, libraries=(kernels,), network_slowdown=1.3).fabric
    tokens = sizes / 8192.0
    np.testing.assert_allclose(fabric.all_reduce(8, 8192.0)(tokens), 0.01 + sizes / 1e8, rtol=0.003)
    np.testing.assert_allclose(slow.all_reduce(8, 8192.0)(tokens), 1.3 * (0.01 + sizes / 1e8), rtol=0.003)
    np.testing.assert_array_equal(fabric.all_reduce(4, 8192.0)(tokens), plain.all_reduce(4, 8192.0)(tokens))
    assert library([row("stream", 1 << 20, 0.004)]).collectives(None) is None


def test_every_answer_is_positive_and_never_falls() -> None:
    random = np.random.default_rng(3)
    rows = [r for n in (512, 2048, 9000) for r in gemm_rows(n, 4096, lambda _: float(random.uniform(0.8, 1.6)))]
    kernels = library(rows)
    x = np.concatenate((np.zeros(1), np.geomspace(0.5, 1e6, 400)))
    operators: list[Operator] = [Gemm("g", 4096, n, Precision.FP8) for n in (300, 512, 700, 2048, 5000, 18000)]
    for operator in operators:
        time = kernels.time_ms(operator)
        assert time is not None
        assert time.x[0] == 0.0
        assert (time(x) > 0).all()
        assert (np.diff(time(x)) >= 0).all()
        assert time.x.size <= 40


def test_a_site_asks_the_table_first(tmp_path: Path) -> None:
    site = make_site("h200", "Qwen/Qwen3-32B", precision="fp8")
    gemms = site.attention(2).group_gemms(0)
    path = written(
        tmp_path, [r for gemm in gemms for r in gemm_rows(gemm.outputs, gemm.inputs, lambda _: 1.25, "fp8_block")]
    )
    user = UserKernels.of(path, read(path), H200)
    assert user is not None
    calibrated = type(site).of(site.service, site.pool, libraries=(user,))
    parts, plain = calibrated.attention(2).token_parts(0), site.attention(2).token_parts(0)
    for gemm in gemms:
        expected = 1.25 * float(ANALYTIC.time_ms(gemm)(64.0))
        assert float(parts[gemm.name](64.0)) == pytest.approx(expected, rel=0.006)
    assert float(parts["elementwise"](64.0)) == float(plain["elementwise"](64.0))
    assert {operator for operator, library in calibrated.kernels.used.items() if library is user} == set(gemms)
