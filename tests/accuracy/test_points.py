"""Measured points: what a row means, and what is refused."""

import math
from pathlib import Path

import pytest

from planner.accuracy.points import Point, Workers, read
from specs.errors import SpecError
from specs.model import Precision
from specs.plan import Role
from specs.service import Engine, Mode, Phase, Speculative
from specs.workload import ArrivalProcess, MeanLength
from tests.accuracy.points_file import AGGREGATED, DISAGGREGATED, write

SHARED = Path(__file__).parents[3] / "shared" / "data" / "measured_serving.csv.gz"
INFERENCEX = "id=x; InferenceMAX/X run; MEAN ttft/tpot; random lens U[0.8,1.0]*nominal"


def one(tmp_path: Path, base: dict[str, str] = AGGREGATED, **cells: str) -> Point:
    corpus = read(write(tmp_path / "points.csv", {**base, **cells}))
    assert not corpus.refused, corpus.refused
    (point,) = corpus.points
    return point


def why(tmp_path: Path, base: dict[str, str] = AGGREGATED, **cells: str) -> str:
    corpus = read(write(tmp_path / "points.csv", {**base, **cells}))
    assert not corpus.points
    (refused,) = corpus.refused
    assert refused.line == 2
    return refused.reason


def test_an_aggregated_row(tmp_path: Path) -> None:
    point = one(tmp_path)
    assert (point.model, point.gpu, point.engine) == ("Qwen/Qwen3-32B", "h200-sxm-141gb", Engine.VLLM)
    assert (point.precision, point.kv_cache_dtype) == (Precision.FP8, Precision.FP8)
    assert (point.mode, point.phase, point.line) == (Mode.AGGREGATED, Phase.FULL, 2)
    assert point.workers == (Workers(Role.MIXED, 1, tp=4, dp=1, ep=1),)
    assert (point.workers[0].moe_tp, point.n_gpus, point.layout) == (4, 4, "mixed tp4")
    assert (point.workload.input_tokens, point.workload.output_tokens) == (1024, 128)
    assert point.workload.arrival.process is ArrivalProcess.CLOSED_LOOP
    assert (point.workload.arrival.concurrency, point.requests) == (16, None)
    assert (point.measured.ttft_ms, point.measured.tpot_ms, point.measured.throughput_tok_s_per_gpu) == (100, 10, 380)


def test_lengths_of_an_inferencex_run_are_uniform(tmp_path: Path) -> None:
    point = one(tmp_path, notes=INFERENCEX)
    length = point.workload.input_tokens
    assert isinstance(length, MeanLength)
    # Moments of the uniform distribution on [0.8, 1] x 1024, by summing over a fine grid.
    grid = [1024 * (0.8 + 0.2 * (i + 0.5) / 100_000) for i in range(100_000)]
    mean = sum(grid) / len(grid)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in grid) / len(grid))
    assert (length.mean, length.cv) == (pytest.approx(mean), pytest.approx(deviation / mean))
    assert point.requests == 160


@pytest.mark.parametrize(
    ("tp", "dp", "ep", "moe_tp"), [("4", "1", "4", 1), ("2", "2", "4", 1), ("4", "1", "2", 2), ("4", "1", "0", 4)]
)
def test_expert_degrees_lie_over_the_attention_degrees(tmp_path: Path, tp: str, dp: str, ep: str, moe_tp: int) -> None:
    (workers,) = one(tmp_path, model="openai/gpt-oss-120b", precision="fp4", tp=tp, dp=dp, ep=ep).workers
    assert (workers.gpus, workers.moe_tp) == (4, moe_tp)


def test_several_replicas_and_dense_models(tmp_path: Path) -> None:
    (workers,) = one(tmp_path, n_gpus="16", ep="4").workers
    assert (workers.count, workers.ep, workers.gpus) == (4, 1, 4)


def test_a_row_of_prefill_and_decode_workers(tmp_path: Path) -> None:
    point = one(tmp_path, DISAGGREGATED)
    assert point.workers == (Workers(Role.PREFILL, 2, 1, 4, 4), Workers(Role.DECODE, 1, 1, 32, 32))
    assert (point.n_gpus, point.layout) == (40, "prefill dp4 ep4 + decode dp32 ep32")
    assert one(tmp_path, DISAGGREGATED, conc_total="").concurrency == 8 * 32  # batch of every rank


def test_degrees_of_early_sglang_recipes_are_corrected(tmp_path: Path) -> None:
    early = {"framework": "sglang", "version": "0.5.5.post2", "p_ep": "1", "d_ep": "1", "ep": "1"}
    wide = one(tmp_path, DISAGGREGATED, **early)
    assert [(workers.tp, workers.dp, workers.ep) for workers in wide.workers] == [(1, 4, 4), (1, 32, 32)]
    narrow = one(tmp_path, DISAGGREGATED, **early, d_dp="4", dp="4", n_gpus="12")
    assert [(workers.tp, workers.dp, workers.ep) for workers in narrow.workers] == [(4, 1, 1), (4, 1, 1)]
    assert "recipe" in narrow.notes
    later = one(tmp_path, DISAGGREGATED, **{**early, "version": "0.5.9"})
    assert [workers.ep for workers in later.workers] == [1, 1]


def test_a_pool_alone(tmp_path: Path) -> None:
    cells = {"ttft_ms": "", "tpot_ms": "", "throughput_tok_s_per_gpu": "7000", "derived_out_tok_s_per_gpu": ""}
    prefill = one(tmp_path, mode="pd", metric="in (prefill pool only)", conc_total="", osl="", **cells)
    assert (prefill.phase, prefill.workers[0].role) == (Phase.PREFILL, Role.PREFILL)
    decode = one(tmp_path, mode="pd", metric="out (decode pool only)", conc_total="", **cells)
    assert (decode.phase, decode.concurrency) == (Phase.DECODE, 16)  # 4 for each of 4 GPUs


@pytest.mark.parametrize(
    ("stated", "precision", "cache"),
    [
        ("unstated", "bf16", "bf16"),
        ("nvfp4", "fp4", "fp8"),
        ("fp4, fp16 KV", "fp4", "bf16"),
        ("int4", "int4", "bf16"),
        ("w8a8", "int8", "bf16"),
    ],
)
def test_formats(tmp_path: Path, stated: str, precision: str, cache: str) -> None:
    point = one(tmp_path, precision=stated)
    assert (point.precision.value, point.kv_cache_dtype.value) == (precision, cache)


def test_settings_of_a_known_recipe(tmp_path: Path) -> None:
    cells = {"framework": "sglang", "gpu": "b200_sxm", "n_gpus": "8", "tp": "8", "notes": INFERENCEX}
    point = one(tmp_path, model="deepseek-ai/DeepSeek-R1", **cells)
    assert (point.recipe.step_tokens, point.recipe.poll_steps) == (32_768, 30)
    assert point.kv_cache_dtype is Precision.FP8
    hopper = one(tmp_path, model="deepseek-ai/DeepSeek-R1", **{**cells, "gpu": "h200_sxm"})
    assert hopper.kv_cache_dtype is Precision.BF16
    assert one(tmp_path, model="deepseek-ai/DeepSeek-R1", **{**cells, "notes": ""}).recipe.step_tokens is None


def test_names_of_models_and_gpus(tmp_path: Path) -> None:
    assert one(tmp_path, gpu="GB300 NVL72", model="moonshotai/Kimi-K2.5").model == "moonshotai/Kimi-K2.5"
    assert one(tmp_path, gpu="H20-96G", model="DeepSeek-V3/R1").gpu == "h20-sxm-96gb"
    assert one(tmp_path, model="zhipuai/GLM-5").model == "zai-org/GLM-5"


def test_speculative_decoding(tmp_path: Path) -> None:
    assert one(tmp_path, spec_decode="unknown").speculative is None
    assert one(tmp_path, spec_decode="MTP steps1").speculative == Speculative(draft_tokens=1, accept_length=1.85)
    assert "acceptance" in why(tmp_path, spec_decode="MTP3")


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"model": "nobody/knows"}, "unknown model 'nobody/knows'"),
        ({"gpu": "Abacus 9"}, "unknown gpu 'Abacus 9'"),
        ({"framework": "stepfun/StepMesh"}, "engine 'stepfun/StepMesh'"),
        ({"precision": "fp7"}, "unknown precision 'fp7'"),
        ({"n_gpus": "6"}, "n_gpus 6 is no multiple of tp x dp x pp = 4"),
        ({"model": "openai/gpt-oss-120b", "ep": "3"}, "ep 3 does not divide tp x dp = 4"),
        ({"tp": ""}, "tp is not stated"),
        ({"osl": "512-1536 uniform"}, "output length"),
        ({"isl": ""}, "input length"),
        ({"conc_total": "64..5120 sweep"}, "concurrency"),
        ({"prefix": "multi-turn"}, "prefix"),
        ({"ttft_ms": "", "tpot_ms": "<=50", "derived_out_tok_s_per_gpu": ""}, "nothing was measured"),
        ({"mode": "afd"}, "AFD"),
    ],
)
def test_a_row_that_is_no_point_says_why(tmp_path: Path, cells: dict[str, str], reason: str) -> None:
    assert reason in why(tmp_path, **cells)


def test_workers_must_add_up(tmp_path: Path) -> None:
    assert "not the 40" in why(tmp_path, DISAGGREGATED, n_gpus="48")
    assert "p_workers" in why(tmp_path, DISAGGREGATED, p_workers="")


@pytest.mark.parametrize(
    ("cells", "field"),
    [
        ({"ttft_ms": "fast"}, "ttft_ms"),
        ({"ttft_ms": "0"}, "ttft_ms"),
        ({"tpot_ms": "-3"}, "tpot_ms"),
        ({"tpot_ms": "nan"}, "tpot_ms"),
        ({"tpot_ms": "inf"}, "tpot_ms"),
        ({"tp": "2.5"}, "tp"),
        ({"isl": "1e999"}, "isl"),
        ({"conc_total": "many"}, "conc_total"),
        ({"mode": "both"}, "mode"),
        ({"model": "nobody/knows", "tpot_ms": "x"}, "tpot_ms"),
    ],
)
def test_a_malformed_cell_is_named(tmp_path: Path, cells: dict[str, str], field: str) -> None:
    path = write(tmp_path / "points.csv", AGGREGATED, {**AGGREGATED, **cells})
    with pytest.raises(SpecError) as caught:
        read(path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 3, field)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="lacks conc_total, tpot_ms") as caught:
        read(write(tmp_path / "points.csv", AGGREGATED, drop=("tpot_ms", "conc_total")))
    assert caught.value.line == 1


def test_optional_columns_may_be_absent(tmp_path: Path) -> None:
    optional = ("source", "pp", "prefix", "metric", "notes", "quality", "spec_decode", "derived_out_tok_s_per_gpu")
    (point,) = read(write(tmp_path / "points.csv", AGGREGATED, drop=optional)).points
    assert (point.phase, point.measured.throughput_tok_s_per_gpu) == (Phase.FULL, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"model\n", "lacks precision"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=message):
        read(path)


def test_a_header_alone_and_a_short_row(tmp_path: Path) -> None:
    path = write(tmp_path / "points.csv")
    with pytest.raises(SpecError, match="no rows"):
        read(path)
    path.write_text(path.read_text() + "only,three,cells\n")
    with pytest.raises(SpecError, match="cells") as caught:
        read(path)
    assert caught.value.line == 2


def test_compressed_files(tmp_path: Path) -> None:
    plain = read(write(tmp_path / "points.csv", AGGREGATED))
    assert read(write(tmp_path / "points.csv.gz", AGGREGATED)) == plain
    torn = tmp_path / "torn.csv.gz"
    torn.write_bytes((tmp_path / "points.csv.gz").read_bytes()[:-20])
    with pytest.raises(SpecError, match="gzip"):
        read(torn)
    with pytest.raises(SpecError, match="no such file"):
        read(tmp_path / "none.csv")


@pytest.mark.skipif(not SHARED.is_file(), reason="the shared points are not beside this checkout")
def test_the_shared_points() -> None:
    corpus = read(SHARED)
    assert corpus.rows == 2991
    assert len(corpus.points) / corpus.rows >= 0.98
    assert sum(point.mode is Mode.PREFILL_DECODE and point.phase is Phase.FULL for point in corpus.points) == 274
    # Every published deployment adds up: workers x their GPUs is the number of GPUs that its row states.
    for point in corpus.points:
        if point.phase is Phase.FULL and point.measured.throughput_tok_s_per_gpu and point.measured.tpot_ms:
            assert point.concurrency is not None
            # Little's law: no more tokens/s than requests in flight / TPOT.
            most = 1e3 * point.concurrency / point.measured.tpot_ms / point.n_gpus
            assert point.measured.throughput_tok_s_per_gpu <= most * 1.06, point
