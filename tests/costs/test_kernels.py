"""Operators against published kernel times, which the efficiencies were not fitted to.

The figures hold the analytic kernels; those of attention layers also the measured tables, which are others' work.
"""

import pytest

from planner.costs.exchange_laws import Phase
from planner.costs.fabric import Fabric
from planner.costs.operators import GroupedGemm
from planner.costs.routing import Collective, Copies, distinct_ranks, remote_copies
from planner.costs.sides import projections
from planner.costs.site import Site
from planner.kernels.library import MeasuredKernels
from specs.model import Precision
from specs.scenario import Pool, resolve_pool
from tests.costs.sites import make_site

STEP, V3, QWEN = "stepfun-ai/step3", "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-235B-A22B"


ATTENTION_LAYERS = [
    ("h800", "fp8", STEP, 8192, 281),
    ("h800", "fp8", STEP, 32_768, 791),
    ("h800", "fp8", V3, 8192, 372),
    ("h800", "fp8", V3, 32_768, 1125),
    ("h800", "fp8", QWEN, 8192, 382),
    ("h800", "fp8", QWEN, 32_768, 1391),
    ("a100", "int8", STEP, 8192, 531),
    ("a100", "int8", STEP, 32_768, 1484),
    ("a100", "int8", QWEN, 8192, 791),
    ("a100", "int8", QWEN, 32_768, 3010),
]
"""Step-3 report, table 9: us of projections and core of a layer, 64 sequences per GPU, BF16 attention (A800: A100)."""


def attention_layer_us(site: Site, context: int) -> float:
    index = len(site.model.layers) - 1
    attention = site.model.layers[index].attention
    assert attention is not None
    gemms = projections(attention, site.model.hidden, 1, site.service.precision)
    time = sum(float(site.kernels.time_ms(gemm)(64.0)) for gemm in gemms)
    return 1e3 * (time + float(site.attention(1).decode_core(index, context, context)(64.0)))


@pytest.mark.parametrize(("gpu", "precision", "model", "context", "measured_us"), ATTENTION_LAYERS)
def test_attention_layers(gpu: str, precision: str, model: str, context: int, measured_us: float) -> None:
    site = make_site(gpu, model, precision=precision, kv_cache_dtype="bf16", analytic=True)
    assert attention_layer_us(site, context) / measured_us == pytest.approx(1.0, abs=0.2)


LONGEST = {
    ("h800", STEP): 16_384,
    ("h800", V3): 32_768,
    ("h800", QWEN): 32_768,
    ("a100", STEP): 4096,
    ("a100", QWEN): 4096,
}
"""Longest contexts of the figures, or of the tables where these are shorter."""


@pytest.mark.parametrize(("gpu", "precision", "model", "context", "measured_us"), ATTENTION_LAYERS)
def test_measured_attention_layers(gpu: str, precision: str, model: str, context: int, measured_us: float) -> None:
    """The same from tables of others' measurements, where they hold; where they do not, the answer says how far."""
    site = make_site(gpu, model, precision=precision, kv_cache_dtype="bf16")
    predicted_us = attention_layer_us(site, context)
    used = {}
    for operator, library in site.kernels.used.items():
        assert isinstance(library, MeasuredKernels)
        assert library.source == "measured kernels"
        used[operator.name] = library.used[operator]
    core = used.pop("decode_attention")
    assert core.answer.outside == max(1.0, context / LONGEST[gpu, model])
    if core.answer.outside == 1.0:
        # Step-3's attention was measured with kernels of its own.
        assert predicted_us / measured_us == pytest.approx(1.0, abs=0.2 if model == STEP else 0.1)
    # What answers for the H800 is the H100, whose die it has, and for INT8 projections another engine.
    assert core.borrowed == (gpu == "h800")
    for projection in used.values():
        assert projection.borrowed
        assert projection.answer.outside == 1.0
        assert projection.answer.origin.framework == ("sglang" if gpu == "h800" else "trtllm")


def test_a_gpu_without_tables_keeps_analytic_kernels() -> None:
    site, analytic = (make_site("mi300x", QWEN, analytic=only) for only in (False, True))
    assert attention_layer_us(site, 8192) == attention_layer_us(analytic, 8192)
    assert {library.source for library in site.kernels.used.values()} == {"analytic roofline"}


FP8_TOKEN, BF16_TOKEN, NVFP4_TOKEN = 7392.0, 14_336.0, 4032.0
"""Bytes of one token of 7168 values with its scales."""


def exchange_us(
    gpu: str,
    kind: Collective,
    phase: Phase,
    copies: Copies,
    size: float,
    ep: int,
    tokens: float,
) -> float:
    fabric = Fabric.of(resolve_pool(Pool.model_validate({"name": "p", "gpu": gpu, "count": 1152})))
    return 1e3 * float(fabric.exchange(copies, size, peers=ep - 1, collective=kind, phase=phase)(tokens))


@pytest.mark.parametrize(
    ("ep", "dispatch_us", "combine_us", "within"),
    [
        (8, 77, 114, 0.24),  # the combine alone is far off; it ran over RDMA
        (16, 118, 195, 0.13),
        (32, 155, 273, 0.08),
        (64, 173, 314, 0.05),
        (128, 192, 369, 0.12),
        (256, 194, 360, 0.06),
    ],
)
def test_low_latency_exchanges(ep: int, dispatch_us: float, combine_us: float, within: float) -> None:
    """DeepEP, low-latency mode on H800 with 400 Gb/s NICs: 128 tokens per rank, FP8 out, BF16 back."""
    kind = Collective.DEEPEP_LOW_LATENCY
    copies = remote_copies(kind, 256, 8, ep, 8)
    dispatch = exchange_us("h800", kind, Phase.DISPATCH, copies, FP8_TOKEN, ep, 128.0)
    combine = exchange_us("h800", kind, Phase.COMBINE, copies, BF16_TOKEN, ep, 128.0)
    assert dispatch / dispatch_us == pytest.approx(1.0, abs=within)
    assert combine / combine_us == pytest.approx(1.0, abs=within)


@pytest.mark.parametrize(
    ("ep", "tokens", "dispatch_us", "combine_us"),
    [
        (8, 128, 39.8, 72.4),
        (16, 8, 23.6, 36.2),
        (16, 128, 102.1, 186.2),
        (16, 256, 183.0, 337.5),
        (32, 8, 32.0, 41.8),
        (32, 128, 143.0, 263.3),
        (32, 256, 264.5, 500.2),
        (64, 8, 35.2, 42.8),
        (64, 128, 166.8, 304.7),
        (64, 256, 301.1, 579.5),
    ],
)
def test_low_latency_exchanges_by_batch(ep: int, tokens: float, dispatch_us: float, combine_us: float) -> None:
    """The same on H100 (aiconfigurator-core 0.12, behind SGLang 0.5.6); small batches to a fifth."""
    kind = Collective.DEEPEP_LOW_LATENCY
    copies = remote_copies(kind, 256, 8, ep, 8)
    dispatch = exchange_us("h100", kind, Phase.DISPATCH, copies, FP8_TOKEN, ep, tokens)
    combine = exchange_us("h100", kind, Phase.COMBINE, copies, BF16_TOKEN, ep, tokens)
    within = 0.2 if tokens < 128 else 0.12
    assert dispatch / dispatch_us == pytest.approx(1.0, abs=within)
    assert combine / combine_us == pytest.approx(1.0, abs=within)


@pytest.mark.parametrize(
    ("gpu", "nodes", "tokens", "grouped", "dispatch_gbyte", "combine_gbyte"),
    [
        ("h800", 1, 4096, True, 153, 158),
        ("h800", 2, 4096, True, 43, 43),
        ("h800", 4, 4096, True, 58, 57),
        ("h800", 8, 4096, True, 51, 50),
        ("h100", 2, 8192, False, 90, 81),
        ("h100", 4, 8192, False, 61, 61),
        ("b200", 2, 8192, False, 90, 91),
        ("b200", 1, 8192, False, 726, 740),
    ],
)
def test_normal_exchanges(
    gpu: str, nodes: int, tokens: float, grouped: bool, dispatch_gbyte: float, combine_gbyte: float
) -> None:
    """DeepEP, normal mode: V1 on H800 (top 4 groups) and V2, by its own count of bytes, local copies among them.

    It counts a copy for every node that a token reaches, or every rank inside one node.
    """
    kind, ep = Collective.DEEPEP_NORMAL, 8 * nodes
    blocks = nodes if nodes > 1 else 8
    groups = (blocks, min(blocks, 4)) if grouped else (1, 1)
    counted = distinct_ranks(256, 8, blocks, groups=groups[0], groups_per_token=groups[1])
    copies = remote_copies(kind, 256, 8, ep, 8, groups=groups[0], groups_per_token=groups[1])
    for phase, size, gbyte in (
        (Phase.DISPATCH, FP8_TOKEN, dispatch_gbyte),
        (Phase.COMBINE, BF16_TOKEN, combine_gbyte),
    ):
        measured_us = tokens * counted * size / gbyte / 1e3
        assert exchange_us(gpu, kind, phase, copies, size, ep, tokens) / measured_us == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    ("ep", "tokens", "dispatch_us", "combine_us"),
    [
        (8, 1, 18.9, 31.0),
        (8, 64, 22.3, 34.1),
        (8, 512, 89.5, 91.7),
        (8, 2048, 311.8, 322.6),
        (16, 8, 18.9, 31.8),
        (16, 64, 24.1, 35.6),
        (16, 512, 97.1, 98.2),
        (16, 2048, 343.3, 348.4),
        (32, 8, 19.4, 32.2),
        (32, 64, 26.2, 36.4),
        (32, 512, 109.6, 102.5),
        (32, 2048, 373.7, 369.5),
        (64, 8, 20.4, 33.3),
        (64, 64, 28.8, 37.7),
        (64, 512, 115.7, 106.7),
        (64, 2048, 399.2, 372.1),
    ],
)
def test_one_sided_exchanges(ep: int, tokens: float, dispatch_us: float, combine_us: float) -> None:
    """TensorRT-LLM's one-sided NVLink kernels on GB200 (technical blog 18): BF16, 8 of 256 experts, even routing."""
    copies = Copies(min(ep, 8) * (ep - 1) / ep, 0.0)
    for phase, measured_us in ((Phase.DISPATCH, dispatch_us), (Phase.COMBINE, combine_us)):
        predicted = exchange_us("gb200", Collective.ONE_SIDED, phase, copies, BF16_TOKEN, ep, tokens)
        assert predicted / measured_us == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(("size", "measured_us"), [(FP8_TOKEN, 172.2), (NVFP4_TOKEN, 101.7)])
def test_one_sided_exchanges_of_smaller_formats(size: float, measured_us: float) -> None:
    """The same with 2,048 tokens per rank in MXFP8 and NVFP4, EP8."""
    predicted = exchange_us("gb200", Collective.ONE_SIDED, Phase.DISPATCH, Copies(7.0, 0.0), size, 8, 2048.0)
    assert predicted / measured_us == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("size_bytes", "measured_us", "within"), [(2048, 17, 0.02), (66_060_288, 1908, 0.18)])
def test_a_copy_between_nodes(size_bytes: float, measured_us: float, within: float) -> None:
    """NCCL send/recv between two nodes of H100 (Vidur's network profile); bulk RDMA writes are faster."""
    fabric = Fabric.of(resolve_pool(Pool.model_validate({"name": "p", "gpu": "h100", "count": 16})))
    predicted_us = fabric.setup_us + fabric.scale_out_latency_us + 1e3 * size_bytes / fabric.scale_out_bytes_per_ms
    assert predicted_us / measured_us == pytest.approx(1.0, abs=within)


@pytest.mark.parametrize(("experts", "measured_us"), [(1, 48.8 + 32.5), (2, 57.8 + 32.8), (4, 64.5 + 36.9)])
def test_experts(experts: int, measured_us: float) -> None:
    """DeepGEMM, masked grouped GEMM on H800: both products of 1,024 pairs over 1 to 4 experts of DeepSeek-V3.

    Beside the products the operator gathers, scatters and activates, which takes up to half as long again.
    """
    site = make_site("h800", V3, analytic=True)
    operator = GroupedGemm("experts", 7168, 2048, True, experts, experts, 1, 1, 0.0, Precision.FP8)
    predicted_us = float(site.kernels.time_ms(operator)(1024.0)) * 1e3
    assert measured_us <= predicted_us <= 1.6 * measured_us
