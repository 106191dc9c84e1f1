"""How much of a GPU's data-sheet rate the analytic kernels reach, per operator and GPU generation.

They are set once per generation, within the range of published kernel benchmarks, with no value per model or point.
They are not blind to the end-to-end anchors: a first choice for Hopper and Blackwell (dense GEMM 0.65, grouped 0.55
and 0.50) gave overlapped EP32 prefill 1.67 to 1.77 times the measured throughput; it was then lowered to the values
below, and two terms were added that the model had lacked (gather and scatter around the experts; cores that exchange
kernels take from what they overlap with). After that the same anchors stood at 1.32 to 1.39.

- GEMM compute: DeepGEMM reaches 1,200 to 1,550 of 1,979 dense FP8 TFLOP/s on Hopper for large shapes; cuBLAS about
  70 to 75% on Hopper and Blackwell in BF16.
- Grouped GEMM compute: DeepGEMM 1,100 to 1,250 TFLOP/s on Hopper with contiguous layout, less with masked layout.
- Attention: FlashAttention-3 650 to 740 of 989 TFLOP/s in prefill; FlashMLA 660 TFLOP/s where compute-bound and
  3,000 of 3,350 GB/s where memory-bound. FlashMLA's sparse decode reaches 410 of 989 on Hopper (README of FlashMLA,
  September 2025); elsewhere the same ratio to dense decode is assumed, for want of an optimised kernel's figure.
- Memory: stream-like kernels reach 85 to 92% of HBM bandwidth; GEMMs that read weights about 80%.
"""

from dataclasses import dataclass

from specs.hardware import Architecture


@dataclass(frozen=True)
class Efficiency:
    """Shares of the data-sheet rates, and the fixed cost of one kernel.

    Args:
        gemm_compute: dense GEMM, share of dense FLOP/s.
        grouped_compute: grouped expert GEMM, share of dense FLOP/s.
        prefill_compute: attention core in prefill, share of dense FLOP/s.
        decode_compute: attention core in decode, share of dense FLOP/s.
        sparse_decode_compute: the same with gathered tokens (sparse attention).
        weight_memory: reading weights, share of memory bandwidth.
        cache_memory: reading the KV cache, share of memory bandwidth.
        stream_memory: element-wise kernels, share of memory bandwidth.
        kernel_us: time from one kernel's end to the next one's start inside a captured graph, with its ramp.
    """

    gemm_compute: float
    grouped_compute: float
    prefill_compute: float
    decode_compute: float
    sparse_decode_compute: float
    weight_memory: float
    cache_memory: float
    stream_memory: float
    kernel_us: float


EFFICIENCY: dict[Architecture, Efficiency] = {
    Architecture.AMPERE: Efficiency(0.75, 0.55, 0.60, 0.45, 0.31, 0.80, 0.75, 0.85, 3.0),
    Architecture.ADA: Efficiency(0.65, 0.50, 0.55, 0.45, 0.31, 0.80, 0.75, 0.85, 3.0),
    Architecture.HOPPER: Efficiency(0.60, 0.50, 0.62, 0.60, 0.41, 0.80, 0.80, 0.85, 2.5),
    Architecture.BLACKWELL: Efficiency(0.60, 0.45, 0.55, 0.50, 0.34, 0.78, 0.78, 0.82, 2.5),
    Architecture.CDNA3: Efficiency(0.50, 0.40, 0.40, 0.40, 0.27, 0.70, 0.65, 0.75, 4.0),
    Architecture.CDNA4: Efficiency(0.50, 0.40, 0.40, 0.40, 0.27, 0.70, 0.65, 0.75, 4.0),
    Architecture.DAVINCI: Efficiency(0.60, 0.45, 0.50, 0.45, 0.31, 0.75, 0.70, 0.75, 5.0),
}
"""Every architecture of the catalogue has a row (a test checks it)."""
