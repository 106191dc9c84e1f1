"""Analytic operators against published kernel times, which the efficiencies were not fitted to."""

import pytest

from planner.costs.layout import Layout
from planner.costs.operators import GroupedGemm
from planner.costs.sides import projections
from planner.costs.worker import Worker
from specs.model import Precision
from tests.costs.sites import make_site

STEP, V3, QWEN = "stepfun-ai/step3", "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-235B-A22B"


@pytest.mark.parametrize(
    ("gpu", "precision", "model", "context", "measured_us"),
    [
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
    ],
)
def test_attention_layers(gpu: str, precision: str, model: str, context: int, measured_us: float) -> None:
    """Step-3 report, table 9: projections and core of one layer, 64 sequences per GPU, BF16 attention (A800: A100)."""
    site = make_site(gpu, model, precision=precision, kv_cache_dtype="bf16")
    index = len(site.model.layers) - 1
    attention = site.model.layers[index].attention
    assert attention is not None
    gemms = projections(attention, site.model.hidden, 1, site.service.precision)
    time = sum(float(site.kernels.time_ms(gemm)(64.0)) for gemm in gemms)
    time += float(site.attention(1).decode_core(index, context, context)(64.0))
    assert time * 1e3 / measured_us == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("ep", "dispatch_us", "combine_us"),
    [(16, 118, 195), (32, 155, 273), (64, 173, 314), (128, 192, 369), (256, 194, 360)],
)
def test_low_latency_exchanges(ep: int, dispatch_us: float, combine_us: float) -> None:
    """DeepEP, low-latency mode on H800 with 400 Gb/s NICs: 128 tokens per rank, FP8 out, BF16 back."""
    dispatch, combine = Worker(make_site("h800", V3), Layout(1, ep, ep, 1, 1, 256)).exchange(1, low_latency=True)
    assert float(dispatch(128.0)) * 1e3 / dispatch_us == pytest.approx(1.0, abs=0.15)
    assert float(combine(128.0)) * 1e3 / combine_us == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(("experts", "measured_us"), [(1, 48.8 + 32.5), (2, 57.8 + 32.8), (4, 64.5 + 36.9)])
def test_experts(experts: int, measured_us: float) -> None:
    """DeepGEMM, masked grouped GEMM on H800: both products of 1,024 pairs over 1 to 4 experts of DeepSeek-V3.

    Beside the products the operator gathers, scatters and activates, which takes up to half as long again.
    """
    site = make_site("h800", V3)
    operator = GroupedGemm("experts", 7168, 2048, True, experts, experts, 1, 1, 0.0, Precision.FP8)
    predicted_us = float(site.kernels.time_ms(operator)(1024.0)) * 1e3
    assert measured_us <= predicted_us <= 1.6 * measured_us
