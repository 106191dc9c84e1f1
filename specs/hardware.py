"""A GPU and the links around it."""

from enum import StrEnum

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from specs.base import Spec
from specs.model import Precision


class Architecture(StrEnum):
    """GPU generations: kernels' efficiencies are stated per generation."""

    AMPERE = "ampere"
    ADA = "ada"
    HOPPER = "hopper"
    BLACKWELL = "blackwell"
    CDNA3 = "cdna3"
    CDNA4 = "cdna4"
    DAVINCI = "davinci"


class ScaleUp(StrEnum):
    """Kinds of scale-up network."""

    NVLINK = "nvlink"
    PCIE = "pcie"
    INFINITY_FABRIC = "infinity_fabric"
    UNIFIED_BUS = "unified_bus"


class GpuSpec(Spec):
    """A GPU in its usual server. Bandwidths are per GPU and per direction, peak rates without sparsity."""

    id: str
    aliases: tuple[str, ...] = ()
    name: str
    vendor: str
    architecture: Architecture
    memory_bytes: PositiveInt
    """Memory that the driver reports, before any reserve."""
    memory_gbyte_per_s: PositiveFloat
    dense_tflops: dict[Precision, PositiveFloat]
    """Peak dense rate per precision; a precision that is absent has no hardware support (see `tflops`)."""
    scale_up: ScaleUp
    scale_up_gbyte_per_s: PositiveFloat
    scale_up_latency_us: NonNegativeFloat
    scale_up_domain: PositiveInt
    """GPUs that reach one another over the scale-up network."""
    gpus_per_node: PositiveInt
    scale_out_gbit_per_s: PositiveFloat
    scale_out_latency_us: NonNegativeFloat
    host_gbyte_per_s: PositiveFloat
    """Link between a GPU and its CPU's memory."""
    power_w: PositiveFloat
    cost_per_gpu_hour: PositiveFloat
    """Typical price in US dollars; `sources` says whose and when."""
    sources: dict[str, str] = Field(min_length=1)
    """Field name -> where its value comes from."""

    def tflops(self, precision: Precision) -> float:
        """Peak dense TFLOP/s of a GEMM on weights of this precision.

        Weights in a precision without hardware support are unpacked and multiplied in BF16, at its rate.
        """
        return self.dense_tflops.get(precision, self.dense_tflops[Precision.BF16])
