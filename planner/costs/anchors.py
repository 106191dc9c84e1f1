"""Published end-to-end figures that the cost model is held against; nothing is tuned to them.

`docs/accuracy.md` prints them. One rule decides what a prediction is made from. A system that ran one of our engines
takes that engine's CPU time and its measured kernels, or rooflines on a GPU that was never measured (H20, Ascend 910C).
A system with an engine and kernels of its own (DeepSeek, StepFun, CloudMatrix) takes rooflines, at the efficiencies of
`planner.costs.efficiency`, and no CPU time of sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from planner.costs.afd import AfdUnit
from planner.costs.analytic import AnalyticKernels
from planner.costs.kernels import Kernels
from planner.costs.layout import Layout
from planner.costs.linear import PiecewiseLinear
from planner.costs.operators import GroupedGemm, Operator
from planner.costs.site import Site
from planner.costs.worker import Worker
from planner.kernels.library import EngineTables, tables_of
from specs.hardware import GpuSpec
from specs.model import Precision
from specs.scenario import Pool, ResolvedPool, resolve_pool
from specs.service import Engine, KernelSource, Service, Slo, Speculative
from specs.workload import Workload

BF16, FP8, INT8 = Precision.BF16, Precision.FP8, Precision.INT8

WITHIN = 1.5
"""Factor within which a throughput must be predicted, for the schedule that the measured system ran."""

GAIN_WITHIN = 0.05
"""Share by which a gain may differ from the measured one."""

NEAR_OPTIMUM = 0.02
"""Share that the gain at the measured ratio may lack of the gain at the predicted optimum."""


@dataclass(frozen=True)
class Row:
    """One measured figure beside its prediction.

    Args:
        name: what was measured, where, in which unit.
        measured: published.
        predicted: by the cost model.
        how: configuration, assumptions, and what is known of why the two differ.
    """

    name: str
    measured: float
    predicted: float
    how: str

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured


# -- systems -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """A model on GPUs, as a measured system had it.

    Args:
        model: catalogue id of the model.
        gpu: GPU type.
        gpus: GPUs of the worker (of attention and FFN together for AFD).
        input_tokens: prompt (prefill), or context at the first step (decode).
        engine: that ran; None for one of the system's own.
        output_tokens: decode steps over which the context grows.
        precision: of the weights.
        cache: format of the cache.
        speculative: drafts.
        dies: ranks are single dies of a package of two.
    """

    model: str
    gpu: str
    gpus: int
    input_tokens: int
    engine: Engine | None
    output_tokens: int = 2
    precision: Precision = FP8
    cache: Precision = BF16
    speculative: Speculative | None = None
    dies: bool = False

    @cached_property
    def site(self) -> Site:
        """The service on the pool; the objectives play no part in a prediction."""
        service = Service(
            name="anchor",
            model=self.model,
            precision=self.precision,
            kv_cache_dtype=self.cache,
            engine=self.engine or Engine.SGLANG,
            kernels=KernelSource.ANALYTIC if self.engine is None else KernelSource.MEASURED,
            workload=Workload(input_tokens=self.input_tokens, output_tokens=self.output_tokens),
            slo=Slo(ttft_ms=1e5, tpot_ms=1e4),
            speculative=self.speculative,
        )
        pool = resolve_pool(Pool(name="anchor", gpu=self.gpu, count=self.gpus))
        pool = single_dies(pool) if self.dies else pool
        site = Site.of(service, pool)
        if self.engine is not None:
            return site
        return replace(site, engine=replace(site.engine, sequence_us=0.0))

    def worker(self, expert_slots: int, *, overlap: bool) -> Worker:
        """A worker with data-parallel attention and expert parallelism over all GPUs."""
        layout = Layout(1, dp=self.gpus, ep=self.gpus, expert_slots=expert_slots, overlap=overlap)
        return Worker(self.site, layout)

    @property
    def kernels(self) -> str:
        """Where kernel times come from, for the page."""
        measured = self.engine is not None and tables_of(self.site.pool.gpu.id, self.engine)
        return f"{self.engine.value} tables" if self.engine and measured else "rooflines"


def single_dies(pool: ResolvedPool) -> ResolvedPool:
    """A pool of packages of two dies as a pool of as many single dies, each with half of every figure of a package."""
    gpu = pool.gpu
    rates = {"memory_gbyte_per_s": gpu.memory_gbyte_per_s / 2, "scale_up_gbyte_per_s": gpu.scale_up_gbyte_per_s / 2}
    tflops = {precision: value / 2 for precision, value in gpu.dense_tflops.items()}
    die = gpu.model_copy(update={**rates, "memory_bytes": gpu.memory_bytes // 2, "dense_tflops": tflops})
    return pool.model_copy(
        update={
            "gpu": die,
            "scale_up_domain": min(2 * gpu.scale_up_domain, pool.count),
            "scale_up_gbyte_per_s": pool.scale_up_gbyte_per_s / 2,
            "scale_out_gbit_per_s": pool.scale_out_gbit_per_s / 2,
        }
    )


@dataclass(frozen=True, eq=False)
class Experts:
    """A kernel library that knows only the experts of one engine's tables.

    Args:
        gpu: the GPU type.
        engine: whose tables.
    """

    gpu: GpuSpec
    engine: Engine
    source = "measured experts"

    @cached_property
    def _tables(self) -> EngineTables:
        analytic = AnalyticKernels(self.gpu)
        return EngineTables(tables_of(self.gpu.id, self.engine), analytic, analytic.time_ms)

    def time_ms(self, operator: Operator) -> PiecewiseLinear | None:
        """Time of an expert layer, None for everything else."""
        answer = self._tables.answer(operator) if isinstance(operator, GroupedGemm) else None
        return None if answer is None else answer.time


# -- throughput --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decode:
    """Decode steps of a worker with data-parallel attention and expert parallelism over all of its GPUs.

    Args:
        batch: sequences per GPU.
        expert_slots: redundant experts included.
    """

    batch: float
    expert_slots: int

    def tokens_per_s(self, system: System, *, overlap: bool) -> float:
        """Tokens/s per GPU, serial or under two-batch overlap."""
        worker = system.worker(self.expert_slots, overlap=overlap)
        step_ms = float(worker.decode_step_ms(self.batch * system.gpus))
        return self.batch * system.site.tokens_per_step / step_ms * 1e3


@dataclass(frozen=True)
class Prefill:
    """Prefill steps of such a worker.

    Args:
        tokens: new tokens per GPU.
        expert_slots: redundant experts included.
    """

    tokens: int
    expert_slots: int

    def tokens_per_s(self, system: System, *, overlap: bool) -> float:
        """Tokens/s per GPU, serial or under two-batch overlap."""
        worker = system.worker(self.expert_slots, overlap=overlap)
        step_ms = float(worker.prefill_ms(self.tokens / system.input_tokens * system.gpus, 1))
        return self.tokens / step_ms * 1e3


@dataclass(frozen=True)
class Afd:
    """Decode steps of an AFD unit across domains, one attention replica per GPU.

    Args:
        attention_gpus: GPUs for attention; the others hold experts.
        requests: in flight on the unit.
        microbatches: in flight where overlapped.
        expert_slots: of all FFN GPUs.
    """

    attention_gpus: int
    requests: int
    microbatches: int
    expert_slots: int

    def tokens_per_s(self, system: System, *, overlap: bool) -> float:
        """Tokens/s per GPU of the unit, serial or with the micro-batches."""
        ffn_gpus = system.gpus - self.attention_gpus
        unit = AfdUnit(system.site, system.site, 1, ffn_gpus, 1, self.expert_slots, scale_up=False)
        on_replica = self.requests / self.attention_gpus
        step_ms = float(unit.decode_step_ms(on_replica, self.attention_gpus, self.microbatches if overlap else 1))
        return self.requests / step_ms * 1e3 / system.gpus


@dataclass(frozen=True)
class Anchor:
    """A measured throughput and the configuration that reached it.

    Args:
        name: what was measured.
        source: who published it.
        measured: tokens/s per GPU (per package where ranks are dies).
        system: model and GPUs.
        run: what the workers computed.
        overlap: whether the measured system overlapped communication with computation.
        how: assumptions, and what is known of why the prediction differs.
        discount: what imbalance and idle time leave of a balanced, busy pool's throughput; the prediction shown is
            of the balanced, busy pool.
    """

    name: str
    source: str
    measured: float
    system: System
    run: Decode | Prefill | Afd
    overlap: bool = True
    how: str = ""
    discount: float = 1.0

    def predicted(self, *, overlap: bool) -> float:
        """Tokens/s per GPU or package that the model predicts for a balanced, busy pool."""
        return self.run.tokens_per_s(self.system, overlap=overlap) * (2 if self.system.dies else 1)

    def row(self) -> Row:
        """The anchor under the schedule that the measured system ran, with the other schedule's figure beside it."""
        other = f"{'serial' if self.overlap else 'overlapped'}: {self.predicted(overlap=not self.overlap):,.0f}"
        schedule = "overlapped" if self.overlap else "serial"
        how = "; ".join(part for part in (f"{schedule}, {self.system.kernels} ({other})", self.how) if part)
        predicted = self.predicted(overlap=self.overlap)
        return Row(f"{self.name}, tokens/s per GPU ({self.source})", self.measured, predicted, how)


LARGE_EP = "SGLang, large-scale EP, 2025-05-05"
PROFILE = "DeepSeek, profile-data, 2025-02"
DAY_6 = "DeepSeek, open-source week, day 6"
ANT = "Ant and SGLang, 2025-09-26"
STEP_REPORT = "Step-3 report, arXiv 2507.19427"
CLOUD_MATRIX = "arXiv 2506.12708"

V3, R1, STEP = "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1", "stepfun-ai/step3"


def _sglang_prefill(tokens: int, measured: float) -> Anchor:
    return Anchor(
        f"DeepSeek-V3 prefill, 32 H100, EP32, {tokens // 1024}K prompts",
        LARGE_EP,
        measured,
        System(V3, "h100", 32, tokens, Engine.SGLANG),
        Prefill(16384, 288),
        how="16,384 tokens per GPU, stated for 4K and assumed for the others",
    )


def _h20(batch: int, drafts: int, accepted: float, measured: float) -> Anchor:
    speculative = Speculative(draft_tokens=drafts, accept_length=accepted)
    return Anchor(
        f"DeepSeek-R1 decode, 16 H20, EP16, {batch}/GPU",
        ANT,
        measured,
        System(R1, "h20", 16, 4096, Engine.SGLANG, 1536, cache=FP8, speculative=speculative),
        Decode(batch, 256),
        overlap=False,
        how=f"4,096 + 1,536 tokens, {drafts} draft{'s' * (drafts > 1)} and {accepted} tokens per step (middle of the "
        "published range); FP8 cache; their overlap inside one batch is not modelled",
    )


def _step(instances: int, context: int, requests: int, cache: Precision, measured: float) -> Anchor:
    return Anchor(
        f"Step-3 AFD, {8 * instances} A + 16 F on H800, {context // 1024}K, {cache.value.upper()} cache",
        STEP_REPORT,
        measured,
        System(STEP, "h800", 8 * instances + 16, context, None, cache=cache),
        Afd(8 * instances, requests, 3, 48),
        how=f"{requests:,} requests, 3 micro-batches, experts spread over all 16 FFN GPUs (the report shards them)",
    )


def _cloud_matrix(batch: int, tpot: str, measured: float, *, overlap: bool) -> Anchor:
    return Anchor(
        f"DeepSeek-R1 decode, 160 Ascend 910C, EP320 over dies, TPOT {tpot}",
        CLOUD_MATRIX,
        measured,
        System(R1, "910c", 320, 4096, None, 2, INT8, BF16, Speculative(draft_tokens=1, accept_length=1.7), dies=True),
        Decode(batch / 2, 320),
        overlap=overlap,
        how=f"batch {batch} per package (second-hand); assumed: context 4,096, BF16 cache, one draft taken at 70%, "
        "320 expert slots",
    )


ANCHORS = (
    _sglang_prefill(1024, 7209),
    _sglang_prefill(2048, 6818),
    _sglang_prefill(4096, 6288),
    Anchor(
        "DeepSeek-V3 decode, 72 H100, EP72, 256/GPU, 2K context",
        LARGE_EP,
        2785,
        System(V3, "h100", 72, 2000, Engine.SGLANG),
        Decode(256, 288),
    ),
    Anchor(
        "DeepSeek-V3 prefill, 32 H800, EP32, 4K prompts, profile",
        PROFILE,
        7839,
        System(V3, "h800", 32, 4096, None),
        Prefill(16384, 288),
        how="balanced routing",
    ),
    Anchor(
        "DeepSeek-V3 decode, 128 H800, EP128, 128/GPU, 4K context, profile",
        PROFILE,
        2325,
        System(V3, "h800", 128, 4096, None),
        Decode(128, 256),
        how="balanced routing",
    ),
    Anchor(
        "DeepSeek-V3 prefill, 32 H800, EP32, production",
        DAY_6,
        4026,
        System(V3, "h800", 32, 4096, None),
        Prefill(16384, 288),
        how="a day's mean without cache hits; prompts of 4K assumed. Production is 51% of the same system's profile: "
        "load over the day and imbalance, which a step time does not hold; no discount in the prediction",
        discount=4026 / 7839,
    ),
    Anchor(
        "DeepSeek-V3 decode, 144 H800, EP144, context 4,989, production",
        DAY_6,
        1850,
        System(V3, "h800", 144, 4989, None),
        Decode(88, 288),
        how="a day's mean; batch 88 per GPU by Little's law (1,850 tokens/s at 21 tokens/s per user). Production is "
        "80% of the same system's profile; no discount in the prediction",
    ),
    _h20(48, 1, 1.85, 714),
    _h20(32, 1, 1.85, 675),
    _h20(12, 2, 2.55, 423),
    _step(2, 4096, 6144, FP8, 4039),
    _step(3, 4096, 6048, BF16, 3321),
    _step(4, 8192, 6144, FP8, 2643),
    _cloud_matrix(96, "below 50 ms", 1943, overlap=True),
    _cloud_matrix(8, "15 ms", 538, overlap=False),
)


# -- gains of AFD ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FastAfd:
    """Qwen3-235B on GB200: decode throughput per GPU of AFD over that of one colocated node (FastAFD, 2026-07).

    One FFN node of four GPUs (EP4) and attention nodes of four GPUs (TP1), two micro-batches; vLLM colocated with
    attention DP4 and EP4. The cache is BF16 on both sides, as it is where vLLM is asked for no format.

    Args:
        context: tokens.
        colocated_batch: sequences per GPU.
        afd_batch: sequences per attention GPU.
        nodes: attention nodes of the measured optimum.
        measured: gain there.
        optimum: least and most attention nodes at which the predicted optimum must lie.
        colocated_tokens_per_s: published, per GPU.
        afd_tokens_per_s: published, per GPU.
    """

    context: int
    colocated_batch: int
    afd_batch: int
    nodes: int
    measured: float
    optimum: tuple[int, int]
    colocated_tokens_per_s: float
    afd_tokens_per_s: float

    SEARCHED = range(1, 18)
    """Attention nodes that fit a rack of 18 beside the FFN node."""

    @cached_property
    def system(self) -> System:
        """The colocated system."""
        return System("Qwen/Qwen3-235B-A22B", "gb200", 72, self.context, Engine.VLLM)

    @cached_property
    def unit(self) -> AfdUnit:
        """The AFD unit: DeepGEMM's experts (measured behind TensorRT-LLM), in one kernel with both transfers."""
        site = self.system.site
        experts = Experts(site.pool.gpu, Engine.TRTLLM)
        ffn = replace(site, kernels=Kernels([experts, *site.kernels.libraries]), _attention={}, _experts={})
        return AfdUnit(site, ffn, 1, 4, 1, 128, scale_up=True, fused=True)

    def colocated(self) -> float:
        """Tokens/s per GPU of the colocated node; vLLM has no two-batch overlap there."""
        return Decode(self.colocated_batch, 128).tokens_per_s(replace(self.system, gpus=4), overlap=False)

    def disaggregated(self, nodes: int, unit: AfdUnit | None = None) -> float:
        """Tokens/s per GPU of AFD with `nodes` attention nodes."""
        step_ms = float((unit or self.unit).decode_step_ms(self.afd_batch, 4 * nodes, 2))
        return self.afd_batch / step_ms * 1e3 * nodes / (nodes + 1)

    def gain(self, nodes: int) -> float:
        """Gain of AFD with `nodes` attention nodes."""
        return self.disaggregated(nodes) / self.colocated()

    @cached_property
    def best(self) -> int:
        """Attention nodes of the predicted optimum."""
        return max(self.SEARCHED, key=self.disaggregated)

    def apart(self) -> tuple[int, float]:
        """Optimum and gain of a unit that runs vLLM's own experts, with transfers before and after them."""
        site = self.system.site
        unit = AfdUnit(site, site, 1, 4, 1, 128, scale_up=True)
        best = max(self.SEARCHED, key=lambda nodes: self.disaggregated(nodes, unit))
        return best, self.disaggregated(best, unit) / self.colocated()

    def rows(self) -> Iterator[Row]:
        """Both throughputs, the gain at the measured ratio and the best ratio."""
        name = f"Qwen3-235B on GB200, {self.context // 1024}K context"
        colocated, afd = self.colocated(), self.disaggregated(self.nodes)
        yield Row(
            f"{name}: colocated EP4, tokens/s per GPU (FastAFD)",
            self.colocated_tokens_per_s,
            colocated,
            f"serial, vllm tables, {self.colocated_batch}/GPU, BF16 cache; measured are kernel times, ours hold "
            "the engine's time on the CPU",
        )
        yield Row(
            f"{name}: AFD {self.nodes}:1, tokens/s per GPU (FastAFD)",
            self.afd_tokens_per_s,
            afd,
            f"{self.afd_batch} per attention GPU, 2 micro-batches; experts as DeepGEMM's (measured behind "
            "TensorRT-LLM), in one kernel with both transfers as FastAFD has it",
        )
        nodes, gain = self.apart()
        yield Row(
            f"{name}: gain at {self.nodes}:1 (FastAFD)",
            self.measured,
            self.gain(self.nodes),
            f"gain at our optimum {self.gain(self.best):.3f}; with vLLM's own experts and transfers apart the optimum "
            f"would be {nodes}:1 with {gain:.2f}",
        )
        yield Row(
            f"{name}: best attention nodes per FFN node (FastAFD)",
            self.nodes,
            self.best,
            f"must lie in {self.optimum[0]} to {self.optimum[1]}; the optimum is flat",
        )


GAINS = (
    FastAfd(8192, 64, 96, 7, 1.41, (6, 8), 1781, 2518),
    FastAfd(16384, 32, 48, 11, 1.44, (9, 13), 954, 1377),
)


@dataclass(frozen=True)
class AfdPlugin:
    """DeepSeek-V3.2 on dies of the 910C: tokens/s per die of AFD over those of EP64 (vLLM AFD plugin, 2026-07-23).

    48 or 64 attention dies with 16 for experts stand for units four times as large, and experts for 64 dies.

    Args:
        context: prompt tokens; outputs are 512 to 1,536, 1,024 on average.
        colocated: tokens/s per die of EP64.
        disaggregated: tokens/s per die of 48A16F and 64A16F.
    """

    context: int
    colocated: float
    disaggregated: dict[int, float]

    @cached_property
    def system(self) -> System:
        """The model on dies."""
        return System("deepseek-ai/DeepSeek-V3.2", "910c", 320, self.context, Engine.VLLM, 1024, INT8, BF16, dies=True)

    @cached_property
    def ep64(self) -> tuple[float, float]:
        """Sequences of one die and step in ms of EP64, at the largest batch that its memory holds."""
        worker = Worker(self.system.site, Layout(1, dp=64, ep=64, expert_slots=256))
        batch = worker.largest_slots(64.0, decode=True)
        return batch / 64, float(worker.decode_step_ms(batch))

    @property
    def excess_ms(self) -> float:
        """What a step of EP64 took beyond its prediction, if its batch was the one above."""
        batch, step_ms = self.ep64
        return batch / self.colocated * 1e3 - step_ms

    def predicted(self, attention_dies: int, excess_ms: float = 0.0) -> float:
        """Gain over EP64, also at the largest batch that memory holds.

        Args:
            attention_dies: beside 16 for experts.
            excess_ms: added to the steps of both sides.
        """
        site, replicas = self.system.site, 4 * attention_dies
        unit = AfdUnit(site, site, 1, 64, 1, 256, scale_up=True)
        batch = unit.largest_slots(64.0)
        step_ms = float(unit.decode_step_ms(batch, replicas, 2))
        colocated_batch, colocated_ms = self.ep64
        ours = batch / (step_ms + excess_ms) * replicas / (replicas + 64)
        return ours / colocated_batch * (colocated_ms + excess_ms)

    def rows(self) -> Iterator[Row]:
        """The gains of both ratios."""
        batch, step_ms = self.ep64
        for attention_dies, measured in self.disaggregated.items():
            yield Row(
                f"DeepSeek-V3.2 on 910C dies, {self.context // 1024}K: {attention_dies}A16F over EP64 (vLLM plugin)",
                measured / self.colocated,
                self.predicted(attention_dies),
                f"rooflines; batches are not published: the largest that memory holds (EP64: {batch:.0f} per die, in "
                f"{step_ms:.0f} ms); EP64 serial, AFD with 2 micro-batches. At that batch EP64 took "
                f"{self.excess_ms:.0f} ms more than predicted; with as much on both sides the gain would be "
                f"{self.predicted(attention_dies, self.excess_ms):.2f}",
            )


FLIPS = (
    AfdPlugin(16384, 232.6, {48: 220.3, 64: 258.9}),
    AfdPlugin(32768, 168.2, {48: 151.4, 64: 183.3}),
)


def rows() -> list[Row]:
    """Every anchor beside its prediction."""
    groups: list[Callable[[], Iterator[Row]]] = [anchor.rows for anchor in (*GAINS, *FLIPS)]
    return [*(anchor.row() for anchor in ANCHORS), *(row for group in groups for row in group())]
