"""Measured matrix products: the build against the rows it distils, the answers against closed forms."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.costs.analytic import AnalyticKernels
from planner.costs.operators import Gemm
from planner.kernels.build import gemm as gemm_build
from planner.kernels.build.__main__ import build, main
from planner.kernels.build.source import Source, SourceError
from planner.kernels.curves import CurveSet, Origin, Stored
from planner.kernels.gemm import KNOT_ERROR, GemmTables
from specs import catalog
from specs.errors import SpecError
from specs.huggingface import from_config
from specs.model import Precision
from tests.costs.sites import make_site

ORIGIN = Origin("a study", "vllm", "0.24.0", 1, 0.0, 0.0, 0, 0.0, 0)
ANALYTIC = AnalyticKernels(catalog.gpu("h200"))
ROWS_M = np.array([1, 2, 4, 8, 16, 32, 64, 128, 129, 256, 512, 1024, 2048, 4096, 8192, 32768], dtype=float)
WIDTHS = (64, 256, 1024, 8192, 65536)


def efficiency(n: float, k: float) -> float:
    """Measured over analytic time: linear in the logarithms, so that a blend must meet it everywhere."""
    return float(0.8 + 0.05 * np.log(n) - 0.03 * np.log(k))


def tables(*dtypes: str, slower: float = 1.0) -> dict[str, CurveSet]:
    made = {}
    for dtype in dtypes:
        precision = {"bfloat16": Precision.BF16, "fp8": Precision.FP8, "fp8_block": Precision.FP8}[dtype]
        curves = []
        for n in WIDTHS:
            for k in WIDTHS:
                roofline = ANALYTIC.time_ms(Gemm("g", k, n, precision))
                x = np.union1d(ROWS_M, roofline.x[roofline.x > 1])
                curves.append(((n, k), x, slower * efficiency(n, k) * roofline(x)))
        name = f"gemm.{dtype}"
        made[name] = CurveSet.of(name, ("n", "k"), "m", curves, ORIGIN)
    return made


TABLES = tables("bfloat16", "fp8")
LIBRARY = GemmTables(TABLES, ANALYTIC)


@given(st.sampled_from(WIDTHS), st.sampled_from(WIDTHS))
def test_on_measured_widths_the_curve_is_met(n: int, k: int) -> None:
    answer = LIBRARY.time_ms(Gemm("g", k, n, Precision.BF16))
    assert answer is not None
    table = TABLES["gemm.bfloat16"]
    curve = int(np.flatnonzero((table.keys == [n, k]).all(axis=1))[0])
    x = np.geomspace(1, 32768, 200)
    assert answer.time(x) == pytest.approx(table.at(curve, x), rel=KNOT_ERROR + 1e-9)
    assert (answer.outside, answer.origin) == (1.0, ORIGIN)


@settings(deadline=None)
@given(st.integers(64, 65536), st.integers(64, 65536), st.floats(0, 1e6))
def test_between_measured_widths_the_efficiency_is_blended(n: int, k: int, m: float) -> None:
    gemm = Gemm("g", k, n, Precision.FP8)
    answer = LIBRARY.time_ms(gemm)
    assert answer is not None
    expected = efficiency(n, k) * float(ANALYTIC.time_ms(gemm)(m))
    assert float(answer.time(m)) == pytest.approx(expected, rel=KNOT_ERROR + 2e-3)
    assert answer.outside == 1.0


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_outside_the_nearest_efficiency_is_carried_over(n: int, k: int) -> None:
    gemm = Gemm("g", k, n, Precision.BF16)
    answer = LIBRARY.time_ms(gemm)
    assert answer is not None
    edge = [min(max(width, 64), 65536) for width in (n, k)]
    x = np.geomspace(1, 1e5, 50)
    expected = efficiency(edge[0], edge[1]) * ANALYTIC.time_ms(gemm)(x)
    assert answer.time(x) == pytest.approx(expected, rel=KNOT_ERROR + 2e-3)
    factors = [max(wanted / held, held / wanted) for wanted, held in zip((n, k), edge, strict=True)]
    assert answer.outside == pytest.approx(max(factors))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**5), st.integers(1, 10**5), st.integers(0, 2**32 - 1))
def test_answers_rise_from_a_positive_time_for_any_measurements(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = [
        ((wide, deep), ROWS_M, rng.uniform(0.002, 5.0, ROWS_M.size))
        for wide in WIDTHS
        for deep in WIDTHS
        if rng.uniform() < 0.6 or wide == deep
    ]
    table = CurveSet.of("gemm.bfloat16", ("n", "k"), "m", curves, ORIGIN)
    answer = GemmTables({table.name: table}, ANALYTIC).time_ms(Gemm("g", k, n, Precision.BF16))
    assert answer is not None
    time = answer.time
    assert time.x[0] == 0.0
    assert (np.diff(time.x) > 0).all()
    assert (np.diff(time.y) >= 0).all()
    assert time.y[0] > 0
    assert time.slope >= 0


def test_number_formats_are_told_apart() -> None:
    library = GemmTables(tables("fp8") | tables("fp8_block", slower=2.0), ANALYTIC)
    whole = library.time_ms(Gemm("g", 1024, 8192, Precision.FP8))
    block = library.time_ms(Gemm("g", 1024, 8192, Precision.FP8, block=True))
    assert whole is not None
    assert block is not None
    assert block.time(64.0) == pytest.approx(2.0 * whole.time(64.0))
    assert library.time_ms(Gemm("g", 1024, 8192, Precision.BF16)) is None
    assert library.time_ms(Gemm("g", 1024, 8192, Precision.INT4)) is None
    assert GemmTables(tables("fp8"), ANALYTIC).time_ms(Gemm("g", 1024, 8192, Precision.FP8, block=True)) is None


# ---- Which products are block-scaled ----


@pytest.mark.parametrize(
    ("model", "precision", "block"),
    [
        ("deepseek-ai/DeepSeek-V3", "fp8", True),
        ("deepseek-ai/DeepSeek-V3", "bf16", False),
        ("Qwen/Qwen3-32B", "fp8", True),
        ("meta-llama/Llama-3.1-70B", "fp8", False),
    ],
)
def test_block_scaled_checkpoints_ask_for_block_scaled_products(model: str, precision: str, block: bool) -> None:
    site = make_site(model=model, precision=precision)
    side = site.attention(1)
    gemms = [gemm for index in range(len(side.model.layers)) for gemm in side.group_gemms(index)]
    assert {gemm.block for gemm in gemms if gemm.precision is Precision(precision) and gemm.name != "router"} == {block}
    assert not any(gemm.block for gemm in [*gemms, side.head_gemm()] if gemm.precision is Precision.BF16)


def test_the_block_size_is_read_from_the_checkpoint() -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "vocab_size": 100,
        "max_position_embeddings": 4096,
    }

    def read(size: object) -> int | None:
        return from_config(
            {**config, "quantization_config": {"quant_method": "fp8", "weight_block_size": size}}, "config.json"
        ).fp8_block_size

    assert from_config(config, "config.json").fp8_block_size is None
    assert read(None) is None
    assert read([128, 128]) == 128
    for wrong in ([128, 64], [128], 128, [0, 0], ["a", "a"]):
        with pytest.raises(SpecError) as caught:
            read(wrong)
        assert caught.value.field == "quantization_config.weight_block_size"


# ---- The build ----

Latency = Callable[[float, float, float], float]


def kernel(m: float, n: float, k: float) -> float:
    """A kernel's time in ms: tiles of 128 rows, never less than the time to read the weights."""
    return float(0.002 + max(1e-9 * n * k, 2e-10 * np.ceil(m / 128) * 128 * n * k / 1000))


def write(folder: Path, framework: str, version: str, measured: dict[str, Latency]) -> None:
    arrow = pytest.importorskip("pyarrow", reason="reading measurements needs the extra `measured`")
    parquet = pytest.importorskip("pyarrow.parquet")
    points = [
        (dtype, int(m), n, k, float(latency(m, n, k)))
        for dtype, latency in measured.items()
        for n in (128, 1024)
        for k in (256, 4096)
        for m in ROWS_M
    ]
    points = [points[i] for i in np.random.default_rng(0).permutation(len(points))]
    columns: dict[str, Any] = dict(
        zip(("gemm_dtype", "m", "n", "k", "latency"), zip(*points, strict=True), strict=True)
    )
    path = folder / "data" / "h200_sxm" / "gemm" / framework / version / "gemm_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table({name: list(values) for name, values in columns.items()}), path)


def test_clean_rows_are_distilled_within_the_chord_error(tmp_path: Path) -> None:
    write(tmp_path, "vllm", "0.24.0", {"bfloat16": kernel})
    (table,) = gemm_build.tables(Source(tmp_path), "h200_sxm", "vllm")
    assert table.name == "gemm.bfloat16"
    assert table.keys.tolist() == [[128, 256], [128, 4096], [1024, 256], [1024, 4096]]
    for curve, (n, k) in enumerate(table.keys):
        expected = [kernel(m, n, k) for m in ROWS_M]
        assert table.at(curve, ROWS_M) == pytest.approx(expected, rel=gemm_build.CHORD_ERROR + 1e-9)
    assert (table.origin.version, table.origin.rows, table.origin.flagged) == ("0.24.0", 64, 0)
    assert table.origin.error_max <= gemm_build.CHORD_ERROR + 1e-4


def test_a_spike_is_stored_and_read_past(tmp_path: Path) -> None:
    def spiky(m: float, n: float, k: float) -> float:
        return kernel(m, n, k) * (2.0 if (m, n, k) == (8, 128, 256) else 1.0)

    write(tmp_path, "vllm", "0.24.0", {"bfloat16": spiky})
    (table,) = gemm_build.tables(Source(tmp_path), "h200_sxm", "vllm")
    assert float(table.at(0, 8)) == pytest.approx(2.0 * kernel(8, 128, 256), rel=gemm_build.CHORD_ERROR)
    assert (table.origin.flagged, table.origin.rising_flagged) == (0, 1)
    assert table.origin.error_max <= gemm_build.CHORD_ERROR + 1e-4
    answer = GemmTables({table.name: table}, ANALYTIC).time_ms(Gemm("g", 256, 128, Precision.BF16))
    assert answer is not None
    for m in ROWS_M:
        assert float(answer.time(m)) == pytest.approx(kernel(m, 128, 256), rel=gemm_build.CHORD_ERROR + KNOT_ERROR)


def test_falling_rows_are_stored_as_they_are_and_both_errors_stated(tmp_path: Path) -> None:
    def waves(m: float, n: float, k: float) -> float:
        return kernel(m, n, k) * (1.3 if m in (4, 64, 256) else 1.0)

    write(tmp_path, "vllm", "0.24.0", {"bfloat16": waves})
    (table,) = gemm_build.tables(Source(tmp_path), "h200_sxm", "vllm")
    stored, read = [], []
    for curve, (n, k) in enumerate(table.keys):
        rows = np.array([waves(m, n, k) for m in ROWS_M])
        stored.append(np.abs(table.at(curve, ROWS_M) / rows - 1.0))
        read.append(np.abs(np.interp(ROWS_M, *table.rising(curve)) / rows - 1.0))
    assert table.origin.error_p95 == pytest.approx(np.quantile(stored, 0.95), abs=1e-4)
    assert table.origin.error_p95 <= gemm_build.CHORD_ERROR + 1e-4
    assert table.origin.rising_p95 == pytest.approx(np.quantile(read, 0.95), abs=1e-4)
    assert table.origin.rising_p95 > 0.15
    assert table.origin.rising_flagged == sum((error > 0.15).sum() for error in read)


def test_repeats_that_disagree_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "vllm", "0.24.0", {"bfloat16": kernel})
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "data" / "h200_sxm" / "gemm" / "vllm" / "0.24.0" / "gemm_perf.parquet"
    rows = parquet.read_table(path).to_pylist()
    again = [{**row, "latency": 1.01 * row["latency"]} for row in rows]
    arrow = pytest.importorskip("pyarrow")
    parquet.write_table(arrow.Table.from_pylist(rows + again), path)
    (table,) = gemm_build.tables(Source(tmp_path), "h200_sxm", "vllm")
    assert table.origin.rows == 2 * 64
    again = [{**row, "latency": 1.5 * row["latency"]} for row in rows]
    parquet.write_table(arrow.Table.from_pylist(rows + again), path)
    with pytest.raises(SourceError, match=r"gemm_perf\.parquet: table gemm\.bfloat16 misses its rows by 2\d\.\d%"):
        gemm_build.tables(Source(tmp_path), "h200_sxm", "vllm")


def test_a_format_that_the_newest_version_lacks_comes_from_an_older_one(tmp_path: Path) -> None:
    write(tmp_path, "sglang", "0.5.6.post2", {"bfloat16": kernel, "int8_wo": kernel})
    write(tmp_path, "sglang", "0.5.14", {"bfloat16": kernel})
    found = {table.name: table.origin.version for table in gemm_build.tables(Source(tmp_path), "h200_sxm", "sglang")}
    assert found == {"gemm.bfloat16": "0.5.14", "gemm.int8_wo": "0.5.6.post2"}


def test_launch_times_give_way_to_another_engines_kernels(tmp_path: Path) -> None:
    def launched(m: float, n: float, k: float) -> float:
        return max(0.06, kernel(m, n, k))

    write(tmp_path, "vllm", "0.24.0", {"bfloat16": kernel, "fp8_block": launched})
    alone = gemm_build.tables(Source(tmp_path), "h200_sxm", "vllm")
    assert [table.name for table in alone] == ["gemm.bfloat16"]
    write(tmp_path, "trtllm", "1.3.0", {"fp8_block": kernel})
    found = {table.name: table for table in gemm_build.tables(Source(tmp_path), "h200_sxm", "vllm")}
    assert found["gemm.fp8_block"].origin.framework == "trtllm"
    assert "measured behind trtllm" in found["gemm.fp8_block"].origin.note
    assert float(found["gemm.fp8_block"].at(0, 1)) == pytest.approx(kernel(1, 128, 256), rel=0.02)


def test_microseconds_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "vllm", "0.24.0", {"bfloat16": lambda m, n, k: 1e3 * kernel(m, n, k)})
    with pytest.raises(SourceError, match="fastest row, too long for milliseconds"):
        gemm_build.tables(Source(tmp_path), "h200_sxm", "vllm")


def test_files_and_index_are_written_whole_and_alike(tmp_path: Path) -> None:
    write(tmp_path, "vllm", "0.24.0", {"bfloat16": kernel, "fp8": kernel})
    write(tmp_path, "trtllm", "1.3.0rc20", {"fp8": kernel})
    for name in ("first", "second"):
        build(Source(tmp_path), tmp_path / name, ["h200_sxm"], ["sglang", "trtllm", "vllm"], [gemm_build.tables])
    files = sorted(path.relative_to(tmp_path / "first").as_posix() for path in (tmp_path / "first").rglob("*.*"))
    assert files == ["h200-sxm-141gb/trtllm.npz", "h200-sxm-141gb/vllm.npz", "index.json"]
    assert all((tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes() for name in files)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "first", "second"}
    index = json.loads((tmp_path / "first" / "index.json").read_text())
    for name in files[:2]:
        content = (tmp_path / "first" / name).read_bytes()
        assert index[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert index[name]["tables"].keys() == Stored(tmp_path / "first" / name).keys()
    entry = index[files[1]]["tables"]["gemm.fp8"]
    assert entry["rows"] == 64
    assert entry["error_p95"] <= gemm_build.CHORD_ERROR + 1e-4
    assert entry["rising_p95"] <= gemm_build.CHORD_ERROR + 1e-4
    assert entry["rising_flagged"] == 0


def test_a_build_that_fails_leaves_what_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    write(tmp_path, "trtllm", "1.3.0", {"fp8": kernel})
    write(tmp_path, "vllm", "0.24.0", {"fp8": kernel})
    arguments = ["--systems", str(tmp_path), "--out", str(out), "--system", "h200_sxm"]
    arguments += ["--framework", "trtllm", "--framework", "vllm"]
    build(Source(tmp_path), out, ["h200_sxm"], ["trtllm", "vllm"], [gemm_build.tables])
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    write(tmp_path, "trtllm", "1.3.0", {"fp8": lambda m, n, k: 2 * kernel(m, n, k)})
    write(tmp_path, "vllm", "0.24.0", {"fp8": lambda m, n, k: -1.0})
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "vllm/0.24.0/gemm_perf.parquet: column 'latency', row 1" in error
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
