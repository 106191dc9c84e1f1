"""A service: one model under one workload and one service-level objective."""

import math
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from specs.base import Spec
from specs.errors import SpecError
from specs.model import Precision, default_cache
from specs.quantities import AS_REAL, AS_WHOLE, Count, Milliseconds, Name, NonNegative, Rate, at_most
from specs.workload import Workload

MAX_SKEW = 10.0
"""Largest exponent of expert popularity: one expert gets all."""
MAX_EXPERTS = 10_000
MAX_CHOICES = 1000
"""Degrees or pools that a limit may list."""

Degrees = Annotated[tuple[Count, ...], Field(min_length=1, max_length=MAX_CHOICES), at_most(MAX_CHOICES)]


class Mode(StrEnum):
    """Serving modes."""

    AGGREGATED = "aggregated"
    PREFILL_DECODE = "prefill_decode"
    AFD = "afd"
    PREFILL_DECODE_AFD = "prefill_decode_afd"


class Engine(StrEnum):
    """Inference engines."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TRTLLM = "trtllm"


class KernelSource(StrEnum):
    """Where operator times come from, after the user's own calibration."""

    MEASURED = "measured"
    """Measured tables where there are any, analytic rooflines elsewhere."""
    ANALYTIC = "analytic"
    """Rooflines at stated efficiencies alone: what optimised kernels would reach, whatever engines run today."""


class Statistic(StrEnum):
    """The statistic that an SLO speaks of."""

    MEAN = "mean"
    P50 = "p50"
    P90 = "p90"
    P95 = "p95"
    P99 = "p99"


class Phase(StrEnum):
    """Which part of a request the service computes."""

    FULL = "full"
    PREFILL = "prefill"
    DECODE = "decode"


class Slo(Spec):
    """Service-level objective. A single-phase service gives only the time of its phase."""

    ttft_ms: Milliseconds | None = None
    """Time to first token."""
    tpot_ms: Milliseconds | None = None
    """Time per output token after the first."""
    statistic: Statistic = Statistic.MEAN


class Speculative(Spec):
    """Speculative decoding."""

    draft_tokens: Annotated[int, Field(strict=True, gt=0, le=64), AS_WHOLE]
    """Tokens drafted per step."""
    accept_length: Annotated[float, Field(strict=True, ge=1), AS_REAL]
    """Mean tokens emitted per step: accepted drafts plus the model's own."""

    @model_validator(mode="after")
    def _check(self) -> "Speculative":
        if self.accept_length > self.draft_tokens + 1:
            raise SpecError(
                f"must be at most draft_tokens + 1 = {self.draft_tokens + 1}, got {self.accept_length:g}",
                field="accept_length",
            )
        return self


class Limits(Spec):
    """Restrictions on the layouts of one service; None means none."""

    tp: Degrees | None = None
    """Tensor-parallel degrees allowed."""
    ep: Degrees | None = None
    """Expert-parallel degrees allowed."""
    max_gpus_per_replica: Count | None = None
    min_replicas: Count | None = None
    pools: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_CHOICES), at_most(MAX_CHOICES)] | None = None
    """GPU pools allowed."""


def _without_default(schema: dict[str, Any]) -> None:
    """Drop the default of a field whose default depends on another field."""
    del schema["default"]


def _workload_kind(value: object) -> str:
    return "workload name" if isinstance(value, str) else "workload"


class Service(Spec):
    """One model, its workload, its SLO and the freedom left to the planner."""

    name: Name
    model: str = Field(min_length=1, max_length=4096)
    """Hugging Face id of the catalogue, or a path to a `config.json`."""
    precision: Precision = Precision.FP8
    """Weights and GEMMs."""
    kv_cache_dtype: Precision = Field(
        default=Precision.FP8,
        description="Default: fp8 where `precision` is fp8 or fp4, bf16 elsewhere.",
        json_schema_extra=_without_default,
    )
    engine: Engine = Engine.SGLANG
    kernels: KernelSource = KernelSource.MEASURED
    """Where operator times come from, after the user's own calibration."""
    workload: Annotated[
        Annotated[Workload, Tag("workload")] | Annotated[str, Tag("workload name")], Discriminator(_workload_kind)
    ]
    """The requests, or the name of a workload of the catalogue."""
    slo: Slo
    modes: Annotated[tuple[Mode, ...], Field(min_length=1, max_length=len(Mode)), at_most(len(Mode))] = tuple(Mode)
    """Serving modes that the planner may choose from."""
    weight: Rate = 1.0
    """Worth of one output token/s of this service when throughput is maximised."""
    demand_rps: Rate | None = None
    """Requests/s: a cap when throughput is maximised, a floor when something is minimised."""
    phase: Phase = Phase.FULL
    speculative: Speculative | None = None
    routing_skew: Annotated[float, Field(strict=True, ge=0, le=MAX_SKEW), AS_REAL] = 0.0
    """Exponent of the power law of expert popularity; 0 for uniform routing."""
    expert_loads: (
        Annotated[tuple[NonNegative, ...], Field(min_length=2, max_length=MAX_EXPERTS), at_most(MAX_EXPERTS)] | None
    ) = None
    """Tokens that each expert of a typical layer got, in any order and unit; the skew is then taken from them."""
    split: bool = Field(default=False, strict=True)
    """Whether several modes may serve shares of the traffic."""
    launchable: bool = Field(default=True, strict=True)
    """Whether only what the engine can launch today may be planned."""
    limits: Limits = Limits()

    @model_validator(mode="before")
    @classmethod
    def _default_kv_cache_dtype(cls, data: Any) -> Any:
        if isinstance(data, dict) and "kv_cache_dtype" not in data:
            return {**data, "kv_cache_dtype": default_cache(data.get("precision", Precision.FP8))}
        return data

    @cached_property
    def skew(self) -> float:
        """Exponent of the power law of expert popularity.

        Of a histogram it is the exponent whose hottest tenth of the experts gets the same share of the tokens.
        """
        if self.expert_loads is None:
            return self.routing_skew
        loads = sorted(self.expert_loads, reverse=True)
        hot = max(1, len(loads) // 10)
        share = sum(loads[:hot]) / sum(loads)
        low, high = 0.0, MAX_SKEW
        for _ in range(50):
            middle = 0.5 * (low + high)
            weights = [(rank + 1) ** -middle for rank in range(len(loads))]
            low, high = (middle, high) if sum(weights[:hot]) < share * sum(weights) else (low, middle)
        return low

    @model_validator(mode="after")
    def _check(self) -> "Service":
        if self.expert_loads is not None and self.routing_skew:
            raise SpecError("must be left out beside routing_skew", field="expert_loads")
        if self.expert_loads is not None and not 0 < sum(self.expert_loads) < math.inf:
            raise SpecError("must have a positive, finite sum", field="expert_loads")
        if len(set(self.modes)) != len(self.modes):
            raise SpecError("must name each mode once", field="modes")
        needed = {Phase.FULL: ("ttft_ms", "tpot_ms"), Phase.PREFILL: ("ttft_ms",), Phase.DECODE: ("tpot_ms",)}
        for field in needed[self.phase]:
            if getattr(self.slo, field) is None:
                raise SpecError(
                    f"is required by phase {self.phase.value}: a positive number of milliseconds", field=f"slo.{field}"
                )
        return self
