"""One configuration, given in full, and what is predicted of it."""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from specs.base import Spec
from specs.errors import SpecError
from specs.model import Precision, default_cache
from specs.plan import PoolPlan, Provenance, Role
from specs.quantities import (
    AS_REAL,
    AS_WHOLE,
    Count,
    CountOrZero,
    MillisecondsOrZero,
    NonNegative,
    Rate,
    Real,
)
from specs.scenario import Pool
from specs.service import Engine, KernelSource, Mode, Speculative, Statistic
from specs.workload import ArrivalProcess, Workload

CONFIGURATION_SCHEMA: Final = "cleave.configuration/1"
PREDICTION_SCHEMA: Final = "cleave.prediction/1"


def _kind(of_mapping: str, of_text: str) -> Discriminator:
    return Discriminator(lambda value: of_text if isinstance(value, str) else of_mapping)


GpuId = Annotated[str, Field(min_length=1, max_length=200)]
Gpu = Annotated[Annotated[Pool, Tag("GPU pool")] | Annotated[GpuId, Tag("GPU id")], _kind("GPU pool", "GPU id")]
"""Id or alias of the catalogue, or a pool, whose network may differ from the catalogue's."""


class WorkerLayout(Spec):
    """Equal replicas of one worker: one engine instance each. `ep x moe_tp = tp x dp`.

    Of `ep` and `moe_tp` one gives the other. Where both are left out, experts are sharded like everything else without
    attention data parallelism (`ep` 1), and spread whole over all `tp x dp` GPUs with it.
    """

    gpu: Gpu | None = None
    """Where it differs from the configuration's."""
    replicas: Count = 1
    tp: Count = 1
    dp: Count = 1
    """Attention data-parallel ranks inside one replica."""
    ep: Count | None = None
    moe_tp: Count | None = None
    """Tensor-parallel ranks of one expert."""
    pp: Count = 1
    expert_slots: CountOrZero | None = None
    """Physical experts of a layer over the replica; by default the fewest that divide over `ep`."""
    overlap: bool = Field(default=False, strict=True)
    """Two-batch overlap of communication with computation."""
    batch: Count | None = None
    """Most requests in flight per replica; by default what memory holds. Of a prefill worker: prompts per step, by
    default one per DP rank."""
    chunk_tokens: Count | None = None
    """Most new tokens per step and replica, over all its DP ranks; by default 8,192, under vLLM and TensorRT-LLM for
    each rank."""

    @model_validator(mode="after")
    def _check(self) -> "WorkerLayout":
        ranks = self.tp * self.dp
        given = {name: value for name, value in (("ep", self.ep), ("moe_tp", self.moe_tp)) if value is not None}
        for name, value in given.items():
            if ranks % value:
                raise SpecError(f"must divide tp x dp = {ranks}, got {value}", field=name)
        if self.ep is not None and self.moe_tp is not None and self.ep * self.moe_tp != ranks:
            raise SpecError(
                f"ep x moe_tp must be tp x dp = {ranks}, got {self.ep} x {self.moe_tp} = {self.ep * self.moe_tp}",
                field="ep",
            )
        if self.overlap and self.dp == 1:
            raise SpecError("needs attention data parallelism (dp > 1), whose exchange it hides", field="overlap")
        return self

    @property
    def expert_parallel(self) -> int:
        """Expert-parallel ranks, with the default filled in."""
        ranks = self.tp * self.dp
        if self.ep is not None:
            return self.ep
        if self.moe_tp is not None:
            return ranks // self.moe_tp
        return ranks if self.dp > 1 else 1

    @property
    def expert_tensor_parallel(self) -> int:
        """Tensor-parallel ranks of one expert, with the default filled in."""
        return self.tp * self.dp // self.expert_parallel

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tp * self.dp * self.pp


class AttentionLayout(Spec):
    """The attention replicas of AFD units."""

    gpu: Gpu | None = None
    """Where it differs from the configuration's."""
    replicas: Count = 1
    """Over all units."""
    tp: Count = 1
    batch: Count | None = None
    """Most requests in flight per replica, over its micro-batches; by default what memory holds."""
    chunk_tokens: Count | None = None
    """Most new tokens per step and replica; by default 8,192."""

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tp


class FfnLayout(Spec):
    """The FFN replicas of AFD units: one each."""

    gpu: Gpu | None = None
    """Where it differs from the configuration's."""
    replicas: Count = 1
    """AFD units."""
    ep: Count = 1
    moe_tp: Count = 1
    """Tensor-parallel ranks of one expert."""
    expert_slots: CountOrZero | None = None
    """Physical experts of a layer over the replica; by default the fewest that divide over `ep`."""

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.ep * self.moe_tp


_SERVERS: dict[Mode, tuple[str, ...]] = {
    Mode.AGGREGATED: ("worker",),
    Mode.PREFILL_DECODE: ("prefill", "decode"),
    Mode.AFD: ("attention", "ffn"),
    Mode.PREFILL_DECODE_AFD: ("prefill", "attention", "ffn"),
}
"""Fields that describe the servers, by mode."""

_SERVER_FIELDS = ("worker", "prefill", "decode", "attention", "ffn")


def _without_default(schema: dict[str, Any]) -> None:
    """Drop the default of a field whose default depends on another field."""
    del schema["default"]


class Configuration(Spec):
    """One deployment of one model under one workload, with nothing left to choose."""

    schema_id: Literal["cleave.configuration/1"] = Field(alias="schema")
    model: str = Field(min_length=1, max_length=4096)
    """Hugging Face id of the catalogue, or a path to a `config.json`."""
    gpu: Gpu
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
        Annotated[Workload, Tag("workload")] | Annotated[str, Tag("workload name")], _kind("workload", "workload name")
    ]
    """The requests, or the name of a workload of the catalogue. In a closed loop `concurrency` counts the requests in
    the system, over all replicas."""
    request_rate_rps: Rate | None = None
    """Requests/s over all replicas; needed by every arrival process but the closed loop, whose rate is predicted."""
    requests: Count | None = None
    """Requests of a benchmark run in a closed loop whose clients all start at once; such a run is then simulated."""
    statistic: Statistic = Statistic.MEAN
    """Of TTFT and TPOT."""
    speculative: Speculative | None = None
    routing_skew: Annotated[float, Field(strict=True, ge=0, le=10), AS_REAL] = 0.0
    """Exponent of the power law of expert popularity; 0 for uniform routing."""
    mode: Mode = Field(
        default=Mode.AGGREGATED,
        description="Default: the one mode that has the servers given.",
        json_schema_extra=_without_default,
    )
    worker: WorkerLayout | None = None
    """Mode aggregated."""
    prefill: WorkerLayout | None = None
    """Modes prefill_decode and prefill_decode_afd."""
    decode: WorkerLayout | None = None
    """Mode prefill_decode."""
    attention: AttentionLayout | None = None
    """Modes afd and prefill_decode_afd."""
    ffn: FfnLayout | None = None
    """Modes afd and prefill_decode_afd."""
    microbatches: Annotated[int, Field(strict=True, ge=1, le=64), AS_WHOLE] | None = None
    """Micro-batches in flight of an AFD unit; 2 by default, and only in AFD modes."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        if "kv_cache_dtype" not in data:
            filled["kv_cache_dtype"] = default_cache(data.get("precision", Precision.FP8))
        if "mode" not in data:
            given = {name for name in _SERVER_FIELDS if data.get(name) is not None}
            fitting = [mode for mode, names in _SERVERS.items() if set(names) == given]
            filled["mode"] = fitting[0] if fitting else Mode.AGGREGATED
        return filled

    @model_validator(mode="after")
    def _check(self) -> "Configuration":
        needed = _SERVERS[self.mode]
        for name in _SERVER_FIELDS:
            if (getattr(self, name) is not None) != (name in needed):
                what = "is required by" if name in needed else "does not belong to"
                raise SpecError(f"{what} mode {self.mode.value}, whose servers are {', '.join(needed)}", field=name)
        if self.microbatches is not None and self.attention is None:
            raise SpecError(f"belongs to AFD modes, but the mode is {self.mode.value}", field="microbatches")
        if self.attention is not None and self.ffn is not None and self.attention.replicas % self.ffn.replicas:
            raise SpecError(
                f"must be a multiple of ffn.replicas = {self.ffn.replicas} (the units), got {self.attention.replicas}",
                field="attention.replicas",
            )
        if isinstance(self.workload, Workload):
            self.check_load(self.workload)
        elif self.request_rate_rps is None:
            raise SpecError("is required: a positive number of requests/s", field="request_rate_rps")
        return self

    def check_load(self, workload: Workload) -> None:
        """Refuse a load that is missing or given twice.

        Raises:
            SpecError: an open arrival process without a rate, or a closed loop with one.

        """
        process = workload.arrival.process
        if process is not ArrivalProcess.CLOSED_LOOP and self.requests is not None:
            raise SpecError("belongs to a closed_loop arrival, whose clients start at once", field="requests")
        if process is ArrivalProcess.CLOSED_LOOP and self.request_rate_rps is not None:
            raise SpecError("must be left out of a closed loop, whose rate is predicted", field="request_rate_rps")
        if process is not ArrivalProcess.CLOSED_LOOP and self.request_rate_rps is None:
            raise SpecError(
                f"is required by process {process.value}: a positive number of requests/s "
                "(or a closed_loop arrival with a concurrency)",
                field="request_rate_rps",
            )

    @property
    def servers(self) -> dict[str, WorkerLayout | AttentionLayout | FfnLayout]:
        """The servers of the mode by their field."""
        return {name: getattr(self, name) for name in _SERVERS[self.mode]}

    def to_json(self) -> str:
        """Return the configuration as JSON text, every default written out."""
        return self.model_dump_json(by_alias=True, indent=2, exclude_none=True)


class Obstacle(StrEnum):
    """Why a configuration cannot run as asked."""

    MEMORY = "memory"
    """Weights and one request do not fit."""
    SATURATED = "saturated"
    """More requests arrive than it can serve."""


class Memory(Spec):
    """Memory of one GPU, bytes. `weights + kv + activations + free = available`."""

    available: NonNegative
    """What the engine may use."""
    weights: NonNegative
    kv: NonNegative
    """Reserved for all slots, from the residency of requests."""
    activations: NonNegative
    """Of the largest step, with the buffers of the exchange between experts."""
    free: Real
    """Negative where it does not fit."""


class Seen(Spec):
    """A latency over the requests of a run."""

    mean: MillisecondsOrZero
    p50: MillisecondsOrZero
    p90: MillisecondsOrZero
    p99: MillisecondsOrZero


class Benchmark(Spec):
    """What clients see of a simulated benchmark run, its burst at the start, API server and engine's lag included.

    The steady state of the prediction is the engine's own and has none of these.
    """

    requests: Count
    ttft_ms: Seen
    tpot_ms: Seen | None
    """None where one output token has none."""
    throughput_tok_s: NonNegative
    """Output tokens over the whole run, the end included, where clients run out of requests."""


class Prediction(Spec):
    """What a configuration reaches, or why it cannot run."""

    schema_id: Literal["cleave.prediction/1"] = Field(alias="schema")
    mode: Mode
    statistic: Statistic
    """Of TTFT and TPOT."""
    feasible: bool = Field(strict=True)
    obstacle: Obstacle | None = None
    """None where it is feasible; else there are no latencies and rates."""
    reason: str = ""
    """The obstacle in words."""
    largest_rate_rps: NonNegative | None = None
    """Requests/s that it can serve, whatever their latency; None where not even one request fits."""
    ttft_ms: MillisecondsOrZero | None = None
    tpot_ms: MillisecondsOrZero | None = None
    """None where one output token has none."""
    throughput_tok_s: NonNegative | None = None
    """Output tokens/s."""
    throughput_tok_s_per_gpu: NonNegative | None = None
    request_rate_rps: NonNegative | None = None
    gpus: Count
    in_flight: NonNegative | None = None
    """Mean requests that are being computed, over all replicas, without those that wait."""
    slots: CountOrZero
    """Requests that may be in flight at once, over all replicas that decode."""
    utilisation: NonNegative | None = None
    """Mean requests in flight over `slots`."""
    prompt_step_share: NonNegative | None = None
    """Share of the steps of one lane (a DP rank or an attention replica) that compute a prompt chunk; None in P/D."""
    prefill_utilisation: NonNegative | None = None
    """Share of time that the prefill workers compute; None without them."""
    decode_step_ms: MillisecondsOrZero | None = None
    """Step without a prompt chunk, at the mean number in flight."""
    mixed_step_ms: MillisecondsOrZero | None = None
    """Step in which every lane also computes a prompt chunk; None in P/D."""
    prefill_ms: MillisecondsOrZero | None = None
    """All chunks of a prompt, without waits."""
    chunks: CountOrZero = 0
    """Equal chunks that a prompt is cut into."""
    pools: tuple[PoolPlan, ...] = ()
    """The servers as a plan writes them; empty where memory holds no request."""
    memory: dict[Role, Memory]
    """Of one GPU, by role."""
    breakdown: dict[str, dict[str, Real]] = Field(default_factory=dict)
    """Milliseconds by operator of each kind of step: `decode`, `mixed`, `prefill`. `overlap` is what running some of
    them side by side saves (negative); the entries of one kind add up to its step."""
    benchmark: Benchmark | None = None
    """The run that `requests` of the configuration asked for."""
    provenance: Provenance
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Prediction":
        if self.feasible != (self.obstacle is None):
            raise SpecError(
                f"{'must be null' if self.feasible else 'is required'} where feasible is {str(self.feasible).lower()}",
                field="obstacle",
            )
        for name in ("ttft_ms", "throughput_tok_s", "throughput_tok_s_per_gpu", "request_rate_rps", "in_flight"):
            if self.feasible != (getattr(self, name) is not None):
                raise SpecError(
                    f"{'is required' if self.feasible else 'must be null'} where feasible is "
                    f"{str(self.feasible).lower()}",
                    field=name,
                )
        return self

    def to_json(self) -> str:
        """Return the prediction as JSON text."""
        return self.model_dump_json(by_alias=True, indent=2)
