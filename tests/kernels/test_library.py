"""Which table answers: the engine's own, another's where its own is unfit or missing, none beyond."""

import numpy as np
import pytest

from planner.costs.operators import DecodeAttention, Elementwise, Gemm, GroupedGemm, Operator
from planner.kernels.library import TABLES, MeasuredKernels, preference, tables_of
from specs import catalog
from specs.hardware import GpuSpec
from specs.model import LatentAttention, Precision, SoftmaxAttention
from specs.service import Engine

H100, H200, B200 = (catalog.gpu(name) for name in ("h100", "h200", "b200"))
MLA = LatentAttention(
    heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
)
GQA = SoftmaxAttention(heads=64, kv_heads=8, head_dim=128)
DENSE = Gemm("ffn", 8192, 4096, Precision.BF16)


def attention(kind: LatentAttention | SoftmaxAttention) -> DecodeAttention:
    return DecodeAttention("decode_attention", kind, 8, Precision.FP8, 2000.0, 3000.0)


def experts(precision: Precision) -> GroupedGemm:
    return GroupedGemm("experts", 7168, 2048, True, 256, 32, 8, 8, 0.0, precision)


@pytest.mark.parametrize(
    ("engine", "gpu", "operator", "first"),
    [
        (Engine.VLLM, H200, attention(MLA), Engine.TRTLLM),
        (Engine.SGLANG, H200, attention(MLA), Engine.SGLANG),
        (Engine.VLLM, H200, attention(GQA), Engine.VLLM),
        (Engine.TRTLLM, B200, experts(Precision.FP8), Engine.SGLANG),
        (Engine.TRTLLM, H200, experts(Precision.FP8), Engine.TRTLLM),
        (Engine.VLLM, B200, experts(Precision.FP4), Engine.SGLANG),
        (Engine.VLLM, B200, experts(Precision.FP8), Engine.VLLM),
        (Engine.TRTLLM, H100, DENSE, Engine.TRTLLM),
    ],
)
def test_the_first_engine_that_is_asked(engine: Engine, gpu: GpuSpec, operator: Operator, first: Engine) -> None:
    order = preference(engine, gpu, operator)
    assert order[0] is first
    assert sorted(order) == sorted(Engine)


def test_what_is_borrowed_says_so() -> None:
    own, other, die = (
        MeasuredKernels(H200, Engine.TRTLLM),
        MeasuredKernels(H200, Engine.VLLM),
        MeasuredKernels(catalog.gpu("h800"), Engine.TRTLLM),
    )
    for library in (own, other, die):
        assert library.time_ms(attention(MLA)) is not None
    assert [library.used[attention(MLA)].borrowed for library in (own, other, die)] == [False, True, True]


def test_no_table_knows_elementwise_kernels_or_other_gpus() -> None:
    assert MeasuredKernels(H200, Engine.VLLM).time_ms(Elementwise("norm", 100.0, 2)) is None
    assert MeasuredKernels(catalog.gpu("mi300x"), Engine.VLLM).time_ms(DENSE) is None
    assert MeasuredKernels(catalog.gpu("mi300x"), Engine.VLLM).collectives is None


def test_slowdown_scales_every_answer() -> None:
    plain, slow = MeasuredKernels(H200, Engine.VLLM), MeasuredKernels(H200, Engine.VLLM, slowdown=1.3)
    rows = np.geomspace(1, 1e5, 40)
    for operator in (DENSE, attention(GQA), experts(Precision.FP8)):
        one, two = plain.time_ms(operator), slow.time_ms(operator)
        assert one is not None
        assert two is not None
        assert two(rows) == pytest.approx(1.3 * one(rows), rel=1e-12)


@pytest.mark.parametrize("operator", [DENSE, attention(GQA), attention(MLA), experts(Precision.FP8)])
@pytest.mark.parametrize("engine", Engine)
def test_beyond_the_last_measured_size_the_time_is_one_line(engine: Engine, operator: Operator) -> None:
    """What `last` says is where the table ends: no row lies beyond, and the efficiency of the edge goes on."""
    library = MeasuredKernels(H200, engine)
    time = library.time_ms(operator)
    assert time is not None
    answer = library.used[operator].answer
    rows = [table.x.max() for table in tables_of(H200.id, Engine(answer.origin.framework)).values()]
    assert 1 <= answer.last <= max(rows)
    later = np.linspace(1.0, 4.0, 9) * max(answer.last, time.x[-1])
    assert np.diff(time(later), 2) == pytest.approx(0.0, abs=1e-9 * float(time(later[-1])))


def test_every_shipped_file_belongs_to_the_catalogue_and_opens() -> None:
    files = sorted(TABLES.glob("*/*.npz"))
    assert len(files) == 27
    assert sum(path.stat().st_size for path in files) < 20e6
    for path in files:
        tables = tables_of(catalog.gpu(path.parent.name).id, Engine(path.stem))
        assert {name.split(".")[0] for name in tables} >= {"gemm", "decode_attention"}


def test_every_table_holds_its_rows() -> None:
    """95% of the source rows within 3%, none beyond 15% unless it is counted."""
    for path in sorted(TABLES.glob("*/*.npz")):
        for name, table in tables_of(path.parent.name, Engine(path.stem)).items():
            assert table.origin.error_p95 <= 0.03, (path, name)
            assert table.origin.error_max <= 0.15 or table.origin.flagged > 0, (path, name)
