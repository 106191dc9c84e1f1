"""Expert layers from measured curves, against devices that follow laws written down here."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.costs.analytic import AnalyticKernels
from planner.costs.operators import GroupedGemm
from planner.kernels.build.experts import AXES, MASKED_TOKENS, tables
from planner.kernels.build.source import Source
from planner.kernels.curves import CurveSet, Origin
from planner.kernels.experts import MEASURED_SKEW, ExpertTables
from specs import catalog
from specs.model import Precision

FloatArray = NDArray[np.float64]

TOKENS = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384], dtype=float)
ORIGIN = Origin("law", "none", "0", 0, 0.0, 0.0, 0, 0.0, 0)
RANKS = (1, 2, 4, 8)
WIDTHS = (256, 512, 1024, 2048)
ANALYTIC = AnalyticKernels(catalog.gpu("h200-sxm-141gb"))


def law(tokens: FloatArray, hidden: int, width: int, chosen: int, experts: int, ranks: int, slow: float) -> FloatArray:
    """A device: 30 us, 2 TB/s for the weights of experts that have a pair, 300 TFLOP/s on the most loaded rank's pairs.

    `slow` multiplies the pairs of the measured rank (an uneven routing).
    """
    pairs = tokens * chosen / ranks * slow
    params = 3.0 * hidden * width
    weights = np.minimum(pairs, experts / ranks) * params / 2e9
    products = pairs * params * 2.0 / 3e11
    # A soft maximum: real kernels neither hide all of the one nor add all of the other.
    return np.asarray(0.03 + (weights**4 + products**4) ** 0.25)


def table(name: str, shapes: list[tuple[int, int, int]], ranks: tuple[int, ...] = RANKS, slow: float = 1.0) -> CurveSet:
    curves = [
        ((3, hidden, chosen, experts, n, width), TOKENS, law(TOKENS, hidden, width, chosen, experts, n, slow))
        for hidden, chosen, experts in shapes
        for n in ranks
        for width in WIDTHS
    ]
    return CurveSet.of(name, AXES, "tokens", curves, ORIGIN)


def layer(
    hidden: int = 4096,
    chosen: int = 8,
    experts: int = 128,
    ranks: int = 4,
    width: int = 512,
    skew: float = 0.0,
    precision: Precision = Precision.FP8,
    block: bool = True,
) -> GroupedGemm:
    return GroupedGemm("experts", hidden, width, True, experts, experts // ranks, ranks, chosen, skew, precision, block)


SHAPES = [(4096, 8, 128), (7168, 8, 256), (6144, 8, 160), (2048, 8, 128), (3072, 8, 256)]


@pytest.fixture(scope="module")
def measured() -> ExpertTables:
    names = table("experts.fp8_block.balanced", SHAPES), table("experts.fp8_block.power_law_1.01", SHAPES, slow=1.6)
    return ExpertTables({one.name: one for one in names}, ANALYTIC)


def times(experts: ExpertTables, operator: GroupedGemm, tokens: FloatArray = TOKENS) -> FloatArray:
    answer = experts.time_ms(operator)
    assert answer is not None
    return answer.time(tokens)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("skew", "slow"), [(0.0, 1.0), (MEASURED_SKEW, 1.6)])
def test_measured_points_are_reproduced(
    measured: ExpertTables, ranks: int, width: int, skew: float, slow: float
) -> None:
    for hidden, chosen, experts in SHAPES:
        operator = layer(hidden, chosen, experts, ranks, width, skew)
        answer = measured.time_ms(operator)
        assert answer is not None
        assert answer.outside == 1.0
        # Between the measured token counts the curve is linear.
        tokens = np.linspace(1.0, 16384.0, 500)
        expected = np.interp(tokens, TOKENS, law(TOKENS, hidden, width, chosen, experts, ranks, slow))
        np.testing.assert_allclose(answer.time(tokens), expected, rtol=1e-9)


def test_between_and_outside_the_grid_times_grow_and_stay_positive(measured: ExpertTables) -> None:
    rng = np.random.default_rng(7)
    for _ in range(60):
        experts = int(rng.choice([64, 96, 128, 256, 384, 512]))
        ranks = int(rng.choice([n for n in (1, 2, 4, 8, 16, 32, 64) if experts % n == 0]))
        chosen, hidden, width = int(rng.integers(1, 17)), int(rng.integers(1024, 9000)), int(rng.integers(64, 9000))
        answer = measured.time_ms(layer(hidden, chosen, experts, ranks, width, float(rng.uniform(0.0, 1.5))))
        assert answer is not None
        assert answer.outside >= 1.0
        x, y = answer.time.x, answer.time.y
        assert x.size <= 33
        assert x[0] == 0.0
        assert (np.diff(x) > 0).all()
        assert (y > 0).all()
        assert (np.diff(y) >= 0).all()
        assert answer.time.slope >= 0.0


def test_widths_and_ranks_between_measured_ones_follow_the_law(measured: ExpertTables) -> None:
    for width in (384, 768, 1536):
        got = times(measured, layer(width=width, ranks=2))
        np.testing.assert_allclose(got, law(TOKENS, 4096, width, 8, 128, 2, 1.0), rtol=0.08)


def test_a_shape_that_was_not_measured_follows_the_law() -> None:
    for left_out in SHAPES:
        others = [shape for shape in SHAPES if shape != left_out]
        one = table("experts.fp8_block.balanced", others)
        got = times(ExpertTables({one.name: one}, ANALYTIC), layer(*left_out, ranks=4, width=1024))
        error = np.abs(np.log(got / law(TOKENS, left_out[0], 1024, *left_out[1:], 4, 1.0)))
        assert np.median(error) < 0.06
        assert error.max() < 0.2


def test_time_grows_with_skew_where_products_dominate(measured: ExpertTables) -> None:
    tokens = TOKENS[-4:]
    by_skew = [times(measured, layer(ranks=8, skew=skew), tokens) for skew in (0.0, 0.2, 0.5, MEASURED_SKEW, 0.85)]
    for lower, higher in pairwise(by_skew):
        assert (higher > lower * 1.02).all()


def test_more_ranks_than_measured_divide_the_time_of_one_rank(measured: ExpertTables) -> None:
    """Even routing: never below one rank's time over the ranks, falling with ranks (to 5%), and close to the law."""
    one = times(measured, layer(ranks=1))
    before = times(measured, layer(ranks=8))
    for ranks in (16, 32, 64):
        answer = measured.time_ms(layer(ranks=ranks))
        assert answer is not None
        assert answer.outside == ranks / 8
        got = answer.time(TOKENS)
        assert (got > one / ranks).all()
        assert (got < 1.05 * before).all()
        np.testing.assert_allclose(got, law(TOKENS, 4096, 512, 8, 128, ranks, 1.0), rtol=0.35)
        before = got


def test_tokens_beyond_the_measured_ones_keep_the_last_rate(measured: ExpertTables) -> None:
    got = times(measured, layer(ranks=4, width=2048), np.array([16384.0, 65536.0, 1048576.0]))
    np.testing.assert_allclose(got[1:] / got[:1], np.array([4.0, 64.0]), rtol=0.08)


def test_number_formats() -> None:
    names = ["nvfp4", "w4a16_mxfp4", "fp8_block"]
    shapes = [[(4096, 8, 128)], [(2048, 8, 128)], [(4096, 8, 128)]]
    slow = [1.0, 2.0, 4.0]
    made = [
        table(f"experts.{name}.balanced", part, slow=factor)
        for name, part, factor in zip(names, shapes, slow, strict=True)
    ]
    experts = ExpertTables({one.name: one for one in made}, ANALYTIC)
    assert experts.time_ms(layer(precision=Precision.BF16, block=False)) is None
    fp4 = layer(precision=Precision.FP4, block=False)
    np.testing.assert_allclose(times(experts, fp4), law(TOKENS, 4096, 512, 8, 128, 4, 1.0), rtol=1e-9)
    mxfp4 = layer(hidden=2048, precision=Precision.FP4, block=False)
    np.testing.assert_allclose(times(experts, mxfp4), law(TOKENS, 2048, 512, 8, 128, 4, 2.0), rtol=1e-9)
    # Without experts that have one FP8 scale the block-scaled ones answer.
    assert np.array_equal(times(experts, layer(block=False)), times(experts, layer(block=True)))
    # Without the power law the balanced times answer, scaled by the load of the hottest rank.
    assert (times(experts, layer(skew=0.7))[-3:] > times(experts, layer())[-3:]).all()


def test_formats_measured_at_other_tokens_do_not_disturb_each_other() -> None:
    """As many tokens on each grid, but others."""
    hidden, chosen, experts = SHAPES[0]
    others = np.array([*(TOKENS[1:-1] * 0.75), 12000.0, 16384.0])
    whole = table("experts.fp8_block.balanced", SHAPES[:1])
    curves = [
        ((3, hidden, chosen, experts, n, width), others, law(others, hidden, width, chosen, experts, n, 1.0))
        for n in RANKS
        for width in WIDTHS
    ]
    known = {
        table.name: table for table in (whole, CurveSet.of("experts.bfloat16.balanced", AXES, "tokens", curves, ORIGIN))
    }
    narrow, wide = layer(), layer(precision=Precision.BF16, block=False)
    both = ExpertTables(known, ANALYTIC)
    assert whole.x.size == len(curves) * others.size
    for operator in (narrow, wide):
        np.testing.assert_array_equal(times(both, operator), times(ExpertTables(known, ANALYTIC), operator))


def test_wide_tables_answer_on_many_ranks_for_their_shape_only() -> None:
    wide = CurveSet.of(
        "experts.deepep_fp8_block.balanced",
        AXES,
        "tokens",
        [((3, 7168, 8, 256, n, 2048), TOKENS, law(TOKENS, 7168, 2048, 8, 256, n, 3.0)) for n in (16, 32, 64)],
        ORIGIN,
    )
    module = table("experts.fp8_block.balanced", SHAPES)
    experts = ExpertTables({one.name: one for one in (wide, module)}, ANALYTIC)
    without = ExpertTables({module.name: module}, ANALYTIC)
    deepseek = layer(7168, 8, 256, 32, 2048)
    np.testing.assert_allclose(times(experts, deepseek), law(TOKENS, 7168, 2048, 8, 256, 32, 3.0), rtol=1e-9)
    for other in (replace(deepseek, ranks=8, slots_per_rank=32), layer(4096, 8, 128, 32, 512)):
        assert np.array_equal(times(experts, other), times(without, other))
    more = experts.time_ms(replace(deepseek, ranks=128, slots_per_rank=2))
    assert more is not None
    assert more.outside == pytest.approx(2.0)


def write(folder: Path, framework: str, version: str, op: str, rows: list[dict[str, object]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = folder / "data" / "h200_sxm" / "moe" / framework / version / f"{op}_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def source_rows(
    shape: tuple[int, int, int, int],
    ranks: tuple[int, ...],
    *,
    slow: float = 1.0,
    scale: bool = True,
    kernel: str = "triton",
    distributions: tuple[str, ...] = ("balanced", "power_law_1.01", "power_law_1.2"),
    tensor: tuple[int, ...] = (1,),
) -> list[dict[str, object]]:
    hidden, width, chosen, experts = shape
    return [
        {
            "moe_dtype": "fp8_block",
            "num_tokens": int(tokens),
            "hidden_size": hidden,
            "inter_size": width,
            "topk": chosen,
            "num_experts": experts,
            "moe_tp_size": tp,
            "moe_ep_size": n,
            "distribution": distribution,
            "kernel_source": kernel,
            "latency": slow * float(law(tokens, hidden, width // tp, chosen, experts, n if scale else 1, 1.0)),
        }
        for n in ranks
        for tp in tensor
        for distribution in distributions
        for tokens in TOKENS
    ]


def built(folder: Path, framework: str) -> dict[str, CurveSet]:
    return {one.name: one for one in tables(Source(folder), "h200_sxm", framework)}


def keys(one: CurveSet) -> set[tuple[int, ...]]:
    return {tuple(int(value) for value in key) for key in one.keys}


def test_build_keeps_what_can_be_used(tmp_path: Path) -> None:
    qwen, deepseek, nemotron = (4096, 1536, 8, 128), (7168, 2048, 8, 256), (2688, 1856, 6, 128)
    new = source_rows(qwen, (1, 2, 8, 16), tensor=(1, 2, 4)) + source_rows(deepseek, (1, 2, 8), scale=False)
    write(tmp_path, "sglang", "0.5.14", "moe", new + source_rows(nemotron, (1,)))
    old = source_rows(qwen, (1, 2, 8), slow=3.0) + source_rows(deepseek, (1, 2), slow=2.0)
    write(tmp_path, "sglang", "0.5.9", "moe", old)
    found = built(tmp_path, "sglang")
    assert set(found) == {"experts.fp8_block.balanced", "experts.fp8_block.power_law_1.01"}
    balanced = found["experts.fp8_block.balanced"]
    expected = {(3, 4096, 8, 128, n, 1536 // tp) for n in (1, 2, 8) for tp in (1, 2, 4) if tp < 4 or n == 1}
    # DeepSeek's rows did not speed up on two ranks: the older version's are taken. Nemotron's experts are not gated.
    expected |= {(3, 7168, 8, 256, n, 2048) for n in (1, 2)} | {(2, 2688, 6, 128, 1, 1856)}
    assert keys(balanced) == expected
    assert balanced.origin.version == "0.5.14"
    assert "0.5.9" in balanced.origin.note
    for curve, (_, hidden, chosen, experts, n, width) in enumerate(balanced.keys.tolist()):
        slow = 2.0 if hidden == 7168 else 1.0
        want = slow * law(TOKENS, int(hidden), int(width), int(chosen), int(experts), int(n), 1.0)
        np.testing.assert_allclose(balanced.at(curve, TOKENS), want, rtol=0.03)
    assert balanced.origin.rows == len(expected) * TOKENS.size
    assert balanced.origin.error_max <= 0.03


def test_build_takes_the_faster_kernel_and_leaves_out_the_concentrating_one(tmp_path: Path) -> None:
    shape = (4096, 1536, 8, 128)
    rows = source_rows(shape, (1, 2), kernel="cutlass") + source_rows(shape, (1, 2), kernel="deepgemm", slow=0.5)
    write(tmp_path, "trtllm", "1.3.0", "moe", rows)
    write(tmp_path, "trtllm", "1.2.0", "moe", source_rows(shape, (1,), slow=9.0))
    low = source_rows(shape, (1, 2), kernel="moe_torch_flow_min_latency", slow=0.1)
    write(tmp_path, "trtllm", "1.3.0", "moe", rows + low)
    balanced = built(tmp_path, "trtllm")["experts.fp8_block.balanced"]
    one_rank = law(TOKENS, 4096, 1536, 8, 128, 1, 1.0)
    np.testing.assert_allclose(balanced.at(0, TOKENS), 0.5 * one_rank, rtol=0.03)


def test_build_leaves_out_untuned_kernels_and_ranks_that_do_all_the_work(tmp_path: Path) -> None:
    qwen, glm = (4096, 1536, 8, 128), (6144, 2048, 8, 256)
    bf16 = [{**row, "moe_dtype": "bfloat16"} for row in source_rows(qwen, (1, 2), slow=2.0)]
    fp8 = source_rows(qwen, (1, 2), slow=6.0)
    # Each rank's products grow as if it had no others beside it; its weights do not.
    busy = source_rows(glm, (1, 2, 8))
    for row in busy:
        if row["moe_ep_size"] == 8 and int(str(row["num_tokens"])) >= 4096:
            row["latency"] = float(str(row["latency"])) * 6.0
    write(tmp_path, "sglang", "0.5.14", "moe", bf16 + fp8 + busy)
    write(tmp_path, "sglang", "0.5.9", "moe", source_rows(qwen, (1,)))
    found = built(tmp_path, "sglang")
    assert keys(found["experts.bfloat16.balanced"]) == {(3, 4096, 8, 128, n, 1536) for n in (1, 2)}
    balanced = found["experts.fp8_block.balanced"]
    assert keys(balanced) == {(3, 4096, 8, 128, 1, 1536), (3, 6144, 8, 256, 1, 2048)}
    np.testing.assert_allclose(balanced.at(0, TOKENS), law(TOKENS, 4096, 1536, 8, 128, 1, 1.0), rtol=0.03)


def test_build_joins_the_two_dispatches_of_deepep(tmp_path: Path) -> None:
    deepseek, names = (7168, 2048, 8, 256), ("uniform", "power_law_1.01", "power_law_0.6")
    write(tmp_path, "sglang", "0.5.14", "moe", source_rows((4096, 1536, 8, 128), (1, 2)))
    masked = source_rows(deepseek, (8, 16), distributions=names)
    write(tmp_path, "sglang", "0.5.10", "wideep_generation_moe", masked)
    normal = source_rows(deepseek, (8, 16), distributions=names, slow=2.0)
    write(tmp_path, "sglang", "0.5.10", "wideep_context_moe", normal)
    wide = built(tmp_path, "sglang")["experts.deepep_fp8_block.balanced"]
    assert keys(wide) == {(3, 7168, 8, 256, 16, 2048)}
    slow = np.where(TOKENS <= MASKED_TOKENS * 16, 1.0, 2.0)
    np.testing.assert_allclose(wide.at(0, TOKENS), slow * law(TOKENS, 7168, 2048, 8, 256, 16, 1.0), rtol=0.03)
