"""Measured kernels of one engine on one GPU, from the tables that ship with the catalogue.

Operators that the engine's own tables lack are answered from another engine's tables on the same GPU, and those of a
GPU with the same die from that GPU's; either way the answer says that it is borrowed. What no table knows is left to
the next library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from planner.costs.analytic import AnalyticKernels
from planner.costs.linear import PiecewiseLinear, tamed
from planner.costs.operators import DecodeAttention, Elementwise, Gemm, GroupedGemm, Operator, PrefillAttention
from planner.kernels.answer import Answer
from planner.kernels.collectives import CollectiveTables
from planner.kernels.curves import CurveSet, Stored
from planner.kernels.experts import ExpertTables
from planner.kernels.gemm import GemmTables
from planner.kernels.latent_attention import LatentAttentionTables
from planner.kernels.linear_attention import LinearAttentionTables
from planner.kernels.softmax_attention import SoftmaxAttentionTables
from specs.catalog import DATA
from specs.hardware import Architecture, GpuSpec
from specs.model import LatentAttention, LinearAttention, Precision
from specs.service import Engine

TABLES = DATA / "kernels"

SAME_DIE = {"h800-sxm-80gb": "h100-sxm-80gb"}
"""GPUs whose kernels run as on another one: the H800 is an H100 with slower NVLink."""


def preference(engine: Engine, gpu: GpuSpec, operator: Operator) -> tuple[Engine, ...]:
    """Engines in the order in which their tables are asked.

    The engine's own come first, but for two defects of the source:

    - vLLM's MLA modules take 40 to 50 us longer than TensorRT-LLM's on most GPUs whatever their size (H200: 99 and 57
      us for 4 sequences, B300: 95 and 46; B200: 52 and 52): launches on the host were timed. TensorRT-LLM's stand in.
    - TensorRT-LLM's experts on Blackwell were measured with the CUTLASS backend only, which takes 2.5 times as long as
      the backend that it runs there (`moe_config.backend: TRTLLM`), and vLLM's MXFP4 experts with BF16 activations
      where MXFP8 ones are served. The kernels that both run (FlashInfer's trtllm-gen) were measured behind SGLang.
    """
    others = [other for other in (Engine.TRTLLM, Engine.SGLANG, Engine.VLLM) if other is not engine]
    match operator:
        case DecodeAttention() | PrefillAttention():
            latent = isinstance(operator.attention, LatentAttention) and not operator.attention.index_topk
            if engine is Engine.VLLM and latent:
                return (Engine.TRTLLM, Engine.VLLM, Engine.SGLANG)
        case GroupedGemm():
            shared = engine is Engine.TRTLLM or operator.precision is Precision.FP4
            if shared and gpu.architecture is Architecture.BLACKWELL:
                return (Engine.SGLANG, *(other for other in (engine, *others) if other is not Engine.SGLANG))
    return (engine, *others)


@lru_cache(maxsize=32)
def tables_of(gpu: str, engine: Engine) -> Mapping[str, CurveSet]:
    """The shipped tables of one engine on one GPU; empty where there are none."""
    path: Path = TABLES / SAME_DIE.get(gpu, gpu) / f"{engine.value}.npz"
    return Stored(path) if path.exists() else {}


@dataclass(frozen=True)
class Used:
    """What answered an operator.

    Args:
        answer: the time with its table.
        borrowed: whether the table is another engine's or another GPU's.
    """

    answer: Answer
    borrowed: bool


@dataclass(frozen=True, eq=False)
class EngineTables:
    """The tables of one engine on one GPU.

    Args:
        tables: by name.
        analytic: rooflines of the GPU, without slowdown.
        gemm_ms: time of a dense product, for what was measured together with products.
    """

    tables: Mapping[str, CurveSet]
    analytic: AnalyticKernels
    gemm_ms: Callable[[Gemm], PiecewiseLinear]

    @cached_property
    def _gemm(self) -> GemmTables:
        return GemmTables(self.tables, self.analytic)

    @cached_property
    def _experts(self) -> ExpertTables:
        return ExpertTables(self.tables, self.analytic)

    @cached_property
    def _softmax(self) -> SoftmaxAttentionTables:
        return SoftmaxAttentionTables(self.tables, self.analytic)

    @cached_property
    def _latent(self) -> LatentAttentionTables:
        return LatentAttentionTables(self.tables, self.analytic, self.gemm_ms)

    @cached_property
    def _linear(self) -> LinearAttentionTables:
        return LinearAttentionTables(self.tables, self.analytic)

    def answer(self, operator: Operator) -> Answer | None:
        """The time of an operator, or None."""
        match operator:
            case Gemm():
                return self._gemm.time_ms(operator)
            case GroupedGemm():
                return self._experts.time_ms(operator)
            case DecodeAttention() | PrefillAttention():
                match operator.attention:
                    case LatentAttention():
                        return self._latent.time_ms(operator)
                    case LinearAttention():
                        return self._linear.time_ms(operator)
                    case _:
                        return self._softmax.time_ms(operator)
            case Elementwise():
                return None


class MeasuredKernels:
    """Measured times of one engine's operators on one GPU.

    Args:
        gpu: the GPU type.
        engine: whose kernels.
        slowdown: factor on every time.
    """

    source = "measured kernels"

    def __init__(self, gpu: GpuSpec, engine: Engine, *, slowdown: float = 1.0) -> None:
        self._gpu = gpu
        self._slowdown = slowdown
        self._analytic = AnalyticKernels(gpu)
        self._engine = engine
        self._engines: dict[Engine, EngineTables] = {}
        self.used: dict[Operator, Used] = {}

    def _tables(self, engine: Engine) -> EngineTables:
        if engine not in self._engines:
            self._engines[engine] = EngineTables(tables_of(self._gpu.id, engine), self._analytic, self._gemm_ms)
        return self._engines[engine]

    def _gemm_ms(self, gemm: Gemm) -> PiecewiseLinear:
        """A product as this engine's steps will be charged for it, without slowdown."""
        found = self._find(gemm)
        return self._analytic.time_ms(gemm) if found is None else found.answer.time

    def _find(self, operator: Operator) -> Used | None:
        for engine in preference(self._engine, self._gpu, operator):
            answer = self._tables(engine).answer(operator)
            if answer is not None:
                answer = replace(answer, time=tamed(answer.time))
                return Used(answer, engine is not self._engine or self._gpu.id in SAME_DIE)
        return None

    def time_ms(self, operator: Operator) -> PiecewiseLinear | None:
        """Time in ms as a function of the operator's variable, or None where nothing like it was measured."""
        found = self._find(operator)
        if found is None:
            return None
        self.used[operator] = found
        return found.answer.time if self._slowdown == 1.0 else found.answer.time.scaled(self._slowdown)

    @property
    def collectives(self) -> CollectiveTables | None:
        """Measured collectives of the engine on this very GPU's links, or None."""
        tables = {} if self._gpu.id in SAME_DIE else tables_of(self._gpu.id, self._engine)
        return CollectiveTables(tables) if tables else None
