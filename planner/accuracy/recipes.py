"""Engine settings of measured runs that their rows do not state: tokens per step, requests in flight, cache format.

They are facts of the run, not parameters: a budget of 2,048 or 32,768 tokens a step decides how long a prompt waits.
Source: github.com/SemiAnalysisAI/InferenceX, benchmarks/single_node/fixed_seq_len (state of 2026), and for Llama 3.1
70B the scripts of October 2025 (benchmarks/70b_*_slurm.sh in its forks). Recipes changed over time, so that single rows
may have run with other settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from specs.model import Precision
from specs.service import Engine

REQUESTS_PER_SLOT = 10
"""Requests of one run per concurrent client (`--num-prompts CONC*10`)."""

BF16, FP8, FP4, INT4 = Precision.BF16, Precision.FP8, Precision.FP4, Precision.INT4
H100, H200, B200, B300 = "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb", "b300-sxm-288gb"
HOPPER, BLACKWELL = (H100, H200), (B200, B300)
R1 = "deepseek-ai/DeepSeek-R1"
LLAMA = "meta-llama/Llama-3.1-70B"
GPT_OSS = "openai/gpt-oss-120b"
MINIMAX = "MiniMaxAI/MiniMax-M2.5"
KIMI = "moonshotai/Kimi-K2.5"
QWEN = "Qwen/Qwen3.5-397B-A17B"
GLM = "zai-org/GLM-5"

VLLM_DEFAULT_TOKENS = 8192
"""`max_num_batched_tokens` of the API server on GPUs of 70 GiB and more (vllm/engine/arg_utils.py)."""
SGLANG_DEFAULT_TOKENS = 8192
"""`chunked_prefill_size` on H100 and H200 (sglang/srt/server_args.py)."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one run; None where the engine's default stands or is not known.

    Args:
        step_tokens: most tokens of one step.
        max_running: most requests in flight on one replica.
        poll_steps: decode steps between two looks at the queue of arrivals (SGLang `--scheduler-recv-interval`).
        wait_steps: decode steps that prompts may be held back to gather (TensorRT-LLM `batch_wait_timeout_iters`).
        wait_share: share of `step_tokens` that ends the holding back (`batch_wait_max_tokens_ratio`).
        default_cache: whether the cache has the activations' format, BF16.
    """

    step_tokens: int | None = None
    max_running: int | None = None
    poll_steps: int = 1
    wait_steps: int = 0
    wait_share: float = 0.0
    default_cache: bool = False


@dataclass(frozen=True)
class Run:
    """What a recipe depends on: attention degrees, nominal lengths and clients."""

    tp: int
    dp: int
    isl: int
    osl: int
    concurrency: int

    @property
    def is_chat(self) -> bool:
        """1,024 tokens in and out."""
        return self.isl == self.osl == 1024


def _poll(run: Run, least: int = 16) -> int:
    return 30 if run.concurrency >= least else 10


def _fitted(run: Run) -> int:
    """TensorRT-LLM: a prompt and all decoding requests, in blocks of 64, at least 8,192."""
    return max(8192, (run.concurrency + run.isl + 127) // 64 * 64)


def _llama_trtllm(run: Run) -> Recipe:
    waits = run.is_chat and run.tp < 8
    return Recipe(16_384, wait_steps=20 if waits else 0, wait_share=0.9 if waits else 0.0)


def _r1_sglang_fp8(run: Run) -> Recipe:
    return Recipe(32_768 if run.tp == 8 else 8192, poll_steps=_poll(run) if run.tp == 8 else 10)


def _r1_sglang_fp4(run: Run) -> Recipe:
    return Recipe(16_384, 256, poll_steps=_poll(run)) if run.dp == 1 else Recipe(32_768, 256)


def _r1_trtllm_fp8(run: Run) -> Recipe:
    waits = run.is_chat and run.concurrency >= 64
    return Recipe(_fitted(run), wait_steps=40 if waits else 0, wait_share=0.8 if waits else 0.0)


Key = tuple[Engine, str, Precision]

AGGREGATED: tuple[tuple[Key, tuple[str, ...], Callable[[Run], Recipe]], ...] = (
    ((Engine.VLLM, LLAMA, FP8), (H100, H200, B200), lambda run: Recipe(8192)),
    ((Engine.VLLM, LLAMA, FP4), (B200,), lambda run: Recipe(8192)),
    ((Engine.TRTLLM, LLAMA, FP8), (H200, B200), _llama_trtllm),
    ((Engine.TRTLLM, LLAMA, FP4), (B200,), _llama_trtllm),
    ((Engine.VLLM, GPT_OSS, FP4), HOPPER, lambda run: Recipe(8192, default_cache=True)),
    ((Engine.VLLM, GPT_OSS, FP4), BLACKWELL, lambda run: Recipe(8192, 512)),
    ((Engine.TRTLLM, GPT_OSS, FP4), HOPPER, lambda run: Recipe(20_000, default_cache=True)),
    ((Engine.TRTLLM, GPT_OSS, FP4), BLACKWELL, lambda run: Recipe(20_000)),
    ((Engine.SGLANG, R1, FP8), (H200,), lambda run: Recipe(32_768, 512 if run.is_chat else 256, default_cache=True)),
    ((Engine.SGLANG, R1, FP8), BLACKWELL, _r1_sglang_fp8),
    ((Engine.SGLANG, R1, FP4), BLACKWELL, _r1_sglang_fp4),
    ((Engine.TRTLLM, R1, FP8), (H200,), lambda run: Recipe(_fitted(run))),
    ((Engine.TRTLLM, R1, FP8), BLACKWELL, _r1_trtllm_fp8),
    ((Engine.TRTLLM, R1, FP4), BLACKWELL, lambda run: Recipe(_fitted(run))),
    ((Engine.SGLANG, GLM, FP8), (H200,), lambda run: Recipe(SGLANG_DEFAULT_TOKENS, default_cache=True)),
    ((Engine.SGLANG, GLM, FP8), BLACKWELL, lambda run: Recipe(32_768)),
    ((Engine.SGLANG, GLM, FP4), BLACKWELL, lambda run: Recipe(32_768)),
    ((Engine.VLLM, MINIMAX, FP8), (H100,), lambda run: Recipe(VLLM_DEFAULT_TOKENS, 256, default_cache=True)),
    ((Engine.VLLM, MINIMAX, FP8), (H200,), lambda run: Recipe(VLLM_DEFAULT_TOKENS, default_cache=True)),
    ((Engine.VLLM, MINIMAX, FP8), BLACKWELL, lambda run: Recipe(2 * run.isl)),
    ((Engine.VLLM, MINIMAX, FP4), BLACKWELL, lambda run: Recipe(2 * run.isl)),
    ((Engine.VLLM, KIMI, INT4), (H200, B200), lambda run: Recipe(VLLM_DEFAULT_TOKENS, default_cache=True)),
    ((Engine.VLLM, KIMI, FP4), BLACKWELL, lambda run: Recipe(2 * run.isl)),
    ((Engine.SGLANG, QWEN, BF16), BLACKWELL, lambda run: Recipe(32_768, 128, poll_steps=_poll(run))),
    ((Engine.SGLANG, QWEN, FP8), (H200,), lambda run: Recipe(16_384, 128)),
    ((Engine.SGLANG, QWEN, FP8), BLACKWELL, lambda run: Recipe(8192, poll_steps=_poll(run, least=5))),
    ((Engine.SGLANG, QWEN, FP4), BLACKWELL, lambda run: Recipe(16_384, poll_steps=_poll(run, least=5))),
)


def recipe_of(key: Key, gpu: str, run: Run) -> Recipe:
    """Settings of an aggregated InferenceX run; the empty recipe where none is known.

    Args:
        key: engine, catalogue id of the model, format of the weights.
        gpu: catalogue id.
        run: what the recipe depends on.
    """
    for entry, gpus, settings in AGGREGATED:
        if entry == key and gpu in gpus:
            return settings(run)
    return Recipe()
