"""Published end-to-end figures that the analytic cost model is held against, without any tuning to them.

`python -m planner.costs.anchors` prints the table of `docs/cost-model.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.costs.afd import AfdUnit
from planner.costs.layout import Layout
from planner.costs.site import Site
from planner.costs.worker import Worker
from specs.model import Precision
from specs.scenario import Pool, resolve_pool
from specs.service import Engine, Service, Slo
from specs.workload import Workload

WITHIN = 1.5
"""Factor within which a prediction must lie of the measurement, for the schedule that the measured system ran."""

DEEPSEEK = "deepseek-ai/DeepSeek-V3"
STEP = "stepfun-ai/step3"


@dataclass(frozen=True)
class Anchor:
    """A measured throughput and the configuration that reached it.

    Args:
        name: what was measured.
        source: who published it.
        phase: what the workers compute.
        gpu: GPU type.
        gpus: GPUs of the worker (of attention and FFN together for AFD).
        model: catalogue id of the model.
        tokens: prompt tokens (prefill) or context (decode, AFD).
        batch: sequences per GPU (decode), new tokens per GPU (prefill), sequences of the unit (AFD).
        expert_slots: redundant experts included.
        kv_dtype: format of the cache.
        measured: tokens/s per GPU.
        schedule: how the measured system overlapped communication with computation.
        attention_gpus: GPUs for attention (AFD).
        microbatches: in flight (AFD).
    """

    name: str
    source: str
    phase: Literal["decode", "prefill", "afd"]
    gpu: str
    gpus: int
    model: str
    tokens: int
    batch: int
    expert_slots: int
    kv_dtype: Precision
    measured: float
    schedule: str = "two-batch overlap"
    attention_gpus: int = 0
    microbatches: int = 1

    def site(self) -> Site:
        """The model on the GPUs of the measurement; the objectives play no part in a prediction."""
        service = Service(
            name="anchor",
            model=self.model,
            precision=Precision.FP8,
            kv_cache_dtype=self.kv_dtype,
            engine=Engine.SGLANG,
            workload=Workload(input_tokens=self.tokens, output_tokens=2),
            slo=Slo(ttft_ms=1e5, tpot_ms=1e4),
        )
        return Site.of(service, resolve_pool(Pool(name="anchor", gpu=self.gpu, count=self.gpus)))

    def predicted(self, *, overlap: bool) -> float:
        """Tokens/s per GPU that the model predicts, serial or with the overlap that the mode has."""
        match self.phase:
            case "decode":
                step_ms = float(self._worker(overlap=overlap).decode_step_ms(float(self.batch * self.gpus)))
                return self.batch / step_ms * 1e3
            case "prefill":
                prompts = self.batch / self.tokens
                step_ms = float(self._worker(overlap=overlap).prefill_ms(prompts * self.gpus, 1))
                return self.batch / step_ms * 1e3
            case "afd":
                step_ms = float(
                    self.unit().decode_step_ms(
                        self.batch / self.attention_gpus, self.attention_gpus, self.microbatches if overlap else 1
                    )
                )
                return self.batch / step_ms * 1e3 / self.gpus

    def ratio(self, *, overlap: bool) -> float:
        """Predicted over measured."""
        return self.predicted(overlap=overlap) / self.measured

    def unit(self) -> AfdUnit:
        """The AFD unit family of the measurement."""
        site, ffn_gpus = self.site(), self.gpus - self.attention_gpus
        return AfdUnit(site, site, 1, ffn_gpus, 1, self.expert_slots, scale_up=False)

    def _worker(self, *, overlap: bool) -> Worker:
        layout = Layout(dp=self.gpus, ep=self.gpus, tp=1, expert_slots=self.expert_slots, overlap=overlap)
        return Worker(self.site(), layout)


SGLANG = "SGLang, Large-scale EP, 2025-05-05"
PROFILE = "DeepSeek, profile-data, 2025-02"
STEP_REPORT = "Step-3 report, arXiv 2507.19427"
BF16, FP8 = Precision.BF16, Precision.FP8
STEP_SCHEDULE = "3 micro-batches"

ANCHORS = (
    Anchor(
        "DeepSeek-V3 decode, EP72, 256/GPU, 2K context",
        SGLANG,
        "decode",
        "h100",
        72,
        DEEPSEEK,
        2000,
        256,
        288,
        BF16,
        2785,
    ),
    Anchor(
        "DeepSeek-V3 decode, EP128, 128/GPU, 4K context",
        PROFILE,
        "decode",
        "h800",
        128,
        DEEPSEEK,
        4096,
        128,
        256,
        BF16,
        2325,
    ),
    Anchor(
        "DeepSeek-V3 prefill, EP32, 1K prompts", SGLANG, "prefill", "h100", 32, DEEPSEEK, 1024, 16384, 288, BF16, 7209
    ),
    Anchor(
        "DeepSeek-V3 prefill, EP32, 2K prompts", SGLANG, "prefill", "h100", 32, DEEPSEEK, 2048, 16384, 288, BF16, 6818
    ),
    Anchor(
        "DeepSeek-V3 prefill, EP32, 4K prompts", SGLANG, "prefill", "h100", 32, DEEPSEEK, 4096, 16384, 288, BF16, 6288
    ),
    Anchor(
        "DeepSeek-V3 prefill, EP32, 4K prompts", PROFILE, "prefill", "h800", 32, DEEPSEEK, 4096, 16384, 288, BF16, 7839
    ),
    Anchor(
        "Step-3 AFD, 16 A + 16 F, 4K context",
        STEP_REPORT,
        "afd",
        "h800",
        32,
        STEP,
        4096,
        6144,
        48,
        FP8,
        4039,
        STEP_SCHEDULE,
        16,
        3,
    ),
    Anchor(
        "Step-3 AFD, 24 A + 16 F, 4K, BF16 cache",
        STEP_REPORT,
        "afd",
        "h800",
        40,
        STEP,
        4096,
        6144,
        48,
        BF16,
        3321,
        STEP_SCHEDULE,
        24,
        3,
    ),
    Anchor(
        "Step-3 AFD, 32 A + 16 F, 8K context",
        STEP_REPORT,
        "afd",
        "h800",
        48,
        STEP,
        8192,
        6144,
        48,
        FP8,
        2643,
        STEP_SCHEDULE,
        32,
        3,
    ),
)


def table() -> str:
    """The anchors as a Markdown table: measured, predicted without and with overlap, and the ratios."""
    lines = [
        "| anchor | source | GPUs | measured | serial | ratio | overlapped | ratio | measured system |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for anchor in ANCHORS:
        serial, overlapped = anchor.predicted(overlap=False), anchor.predicted(overlap=True)
        lines.append(
            f"| {anchor.name} | {anchor.source} | {anchor.gpus} {anchor.gpu.upper()} | {anchor.measured:,.0f} "
            f"| {serial:,.0f} | {serial / anchor.measured:.2f} "
            f"| {overlapped:,.0f} | {overlapped / anchor.measured:.2f} | {anchor.schedule} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
