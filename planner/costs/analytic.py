"""Analytic kernel times: rooflines with stated efficiencies, for every operator and every GPU of the catalogue."""

from __future__ import annotations

import math

import numpy as np

from planner.costs.attention import CoreWork, decode_work, prefill_work
from planner.costs.efficiency import EFFICIENCY
from planner.costs.linear import FloatArray, PiecewiseLinear, affine, fit, roofline
from planner.costs.operators import DecodeAttention, Elementwise, Gemm, GroupedGemm, Operator, PrefillAttention
from planner.costs.routing import hottest_rank_activated, hottest_rank_tokens
from specs.hardware import GpuSpec
from specs.model import BYTES_PER_ELEMENT, Precision

SIXTEEN_BIT_INPUT = (Precision.BF16, Precision.INT4)
"""Number formats of weights whose products take BF16 activations."""

LARGEST_TOKENS = float(1 << 20)
"""Tokens in one step up to which concave kernels are fitted."""


class AnalyticKernels:
    """Rooflines: max(FLOPs / reachable FLOP/s, bytes / reachable bandwidth) plus a fixed time per kernel.

    Args:
        gpu: the GPU type.
        slowdown: factor on every time (1.3 for kernels 30% slower), for sensitivity studies.
    """

    source = "analytic roofline"

    def __init__(self, gpu: GpuSpec, *, slowdown: float = 1.0) -> None:
        self._gpu = gpu
        self._slowdown = slowdown
        self._efficiency = EFFICIENCY[gpu.architecture]

    def flops_per_ms(self, precision: Precision) -> float:
        """Dense data-sheet FLOP per ms; a precision that the hardware lacks runs at the BF16 rate."""
        rates = self._gpu.dense_tflops
        return rates.get(precision, rates[Precision.BF16]) * 1e9

    @property
    def bytes_per_ms(self) -> float:
        """Data-sheet HBM bytes per ms."""
        return self._gpu.memory_gbyte_per_s * 1e6

    def time_ms(self, operator: Operator) -> PiecewiseLinear:
        """Time in ms as a function of the operator's variable."""
        return self._time_ms(operator).scaled(self._slowdown)

    def _time_ms(self, operator: Operator) -> PiecewiseLinear:
        kernel_ms = self._efficiency.kernel_us * 1e-3
        match operator:
            case Gemm():
                return self._gemm(operator, kernel_ms)
            case GroupedGemm():
                return self._grouped(operator, kernel_ms)
            case DecodeAttention():
                phases = decode_work(
                    operator.attention,
                    operator.tp,
                    operator.kv_dtype,
                    operator.first_context,
                    operator.last_context,
                    operator.queries,
                )
                efficiency = self._efficiency.decode_compute, self._efficiency.sparse_decode_compute
                return self._core(phases, *efficiency)
            case PrefillAttention():
                phases = prefill_work(
                    operator.attention, operator.tp, operator.kv_dtype, operator.new_tokens, operator.context
                )
                return self._core(phases, self._efficiency.prefill_compute, self._efficiency.prefill_compute)
            case Elementwise():
                per_token = operator.bytes_per_token / (self.bytes_per_ms * self._efficiency.stream_memory)
                return affine(operator.kernels * kernel_ms, per_token)

    def _gemm(self, gemm: Gemm, kernel_ms: float) -> PiecewiseLinear:
        weight = BYTES_PER_ELEMENT[gemm.precision]
        activation = 2.0 if gemm.precision in SIXTEEN_BIT_INPUT else 1.0
        bandwidth = self.bytes_per_ms * self._efficiency.weight_memory
        compute = 2.0 * gemm.inputs * gemm.outputs / (self.flops_per_ms(gemm.precision) * self._efficiency.gemm_compute)
        memory = (gemm.inputs * activation + gemm.outputs * 2.0) / bandwidth
        return roofline(kernel_ms, [(0.0, compute), (gemm.inputs * gemm.outputs * weight / bandwidth, memory)])

    def _grouped(self, grouped: GroupedGemm, kernel_ms: float) -> PiecewiseLinear:
        matrices = 3 if grouped.gated else 2
        params = matrices * grouped.hidden * grouped.intermediate
        weight = params * BYTES_PER_ELEMENT[grouped.precision]
        activation = 2.0 if grouped.precision in SIXTEEN_BIT_INPUT else 1.0
        bandwidth = self.bytes_per_ms * self._efficiency.weight_memory
        flops = self.flops_per_ms(grouped.precision) * self._efficiency.grouped_compute
        pair_compute = 2.0 * params / flops
        # Around the products each pair's token is gathered and scattered (read and written both times), and the
        # activation function reads what the first product wrote. These kernels do not hide behind the products.
        moved = grouped.hidden * 2.0 * (activation + 2.0) + matrices * grouped.intermediate * 2.0
        pair_memory = moved / (self.bytes_per_ms * self._efficiency.stream_memory)

        def time(tokens: FloatArray) -> FloatArray:
            pairs, activated = hottest_rank(grouped, tokens)
            return np.asarray(
                5 * kernel_ms + pairs * pair_memory + np.maximum(pairs * pair_compute, activated * weight / bandwidth)
            )

        return fit(time, low=1.0, high=LARGEST_TOKENS)

    def _core(self, phases: tuple[CoreWork, ...], compute: float, sparse_compute: float) -> PiecewiseLinear:
        """Attention phases one after the other, each at its own roofline; ms over sequences."""
        per_sequence = 0.0
        for work in phases:
            share = sparse_compute if work.sparse else compute
            products = work.flops / (self.flops_per_ms(Precision.BF16) * share)
            products += work.flops_fp8 / (self.flops_per_ms(Precision.FP8) * compute)
            per_sequence += max(products, work.bytes_moved / (self.bytes_per_ms * self._efficiency.cache_memory))
        return affine(sum(work.kernels for work in phases) * self._efficiency.kernel_us * 1e-3, per_sequence)


def hottest_rank(grouped: GroupedGemm, tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Token-expert pairs and activated experts on the most loaded expert-parallel rank.

    Routing skew sets the mean m of the rank with the popular experts (`planner.costs.routing`). Random routing adds to
    it: the largest of `ranks` sums of many rare events with mean m is about m + sqrt(2 m ln ranks) (Gaussian extreme
    value; the variance of activated slots is that of Bernoulli trials). No rank gets more than fits its slots.

    Args:
        grouped: the operator.
        tokens: tokens entering the layer, any shape, >= 1.

    Returns:
        Pairs and activated experts, each of the shape of `tokens`.
    """
    slots = grouped.slots_per_rank * grouped.ranks
    routing = (grouped.experts, grouped.experts_per_token, grouped.ranks, grouped.skew, slots)
    spread = 2.0 * math.log(grouped.ranks) if grouped.ranks > 1 else 0.0
    mean = hottest_rank_tokens(tokens, *routing)
    most = tokens * min(grouped.experts_per_token, grouped.slots_per_rank)
    pairs = np.minimum(mean + np.sqrt(spread * mean), most)
    active = hottest_rank_activated(tokens, *routing)
    idle_share = 1.0 - active / grouped.slots_per_rank
    active = np.minimum(active + np.sqrt(spread * active * idle_share), grouped.slots_per_rank)
    return pairs, np.minimum(active, pairs)
