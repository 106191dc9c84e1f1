"""What the cost model takes from an engine: overhead, memory it keeps, and how P/D hands over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.costs.linear import PiecewiseLinear, affine
from specs.service import Engine

STEP_MS = 0.3
"""Not fitted: what is left of a step's preparation where the next step is prepared while one runs, as all three do."""

REQUEST_MS, TOKEN_US = 3.0, 3.0
"""Not fitted: HTTP, validation and tokenisation of one request on an API server of one process."""


@dataclass(frozen=True)
class EngineTraits:
    """Traits of one engine.

    Args:
        sequence_us: CPU time of one sequence in a step: scheduling, sampling, detokenisation.
        first_token_steps: decode steps between the KV cache's arrival and the first token that a client sees (P/D).
        recomputes_last_token: whether the first of these steps computes the last prompt token again and yields the
            first token alone; otherwise that comes with the cache and is shown with the second (P/D).
        transfer_overlap: "chunk" where the KV cache of finished chunks travels while later chunks compute, "none"
            where it leaves after the prefill.
        data_parallel_tensor_parallel: whether attention DP can be combined with TP inside a DP rank.
        shared_step_tokens: whether `step_tokens` is divided among the DP ranks.
        prefill_first: whether steps with prompts leave decoding requests out and come first.
        delay_ms: time of a request on its way in and of its first token on the way out, whatever the load.
        lag_steps: decode steps that a request is late for the running batch: the engine prepares a step while another
            runs, and hands its tokens on while the next one runs.
        step_overhead_ms: preparation of one step that no kernel hides.
        memory_fraction: share of device memory that weights, cache and activations may take.
        reserve_bytes: CUDA context, graphs and NCCL buffers on every GPU, inside that share.
        step_tokens: most tokens of one step by default: vLLM's `max_num_batched_tokens` of the API server and
            TensorRT-LLM's `max_num_tokens`, of one DP rank; SGLang's `chunked_prefill_size` (on GPUs of up to 160 GB),
            of the worker.
        request_ms: time of the API server for one request, one after the other.
        token_us: time of the API server for one prompt token (tokenisation), one request after the other.
    """

    sequence_us: float
    first_token_steps: int
    recomputes_last_token: bool
    transfer_overlap: Literal["none", "chunk"]
    data_parallel_tensor_parallel: bool
    shared_step_tokens: bool
    prefill_first: bool
    delay_ms: float
    lag_steps: float
    step_overhead_ms: float = STEP_MS
    memory_fraction: float = 0.90
    reserve_bytes: float = 3.0e9
    step_tokens: int = 8192
    request_ms: float = REQUEST_MS
    token_us: float = TOKEN_US

    @property
    def step_ms(self) -> PiecewiseLinear:
        """CPU time of a step that no kernel hides, over sequences on one DP rank."""
        return affine(self.step_overhead_ms, 1e-3 * self.sequence_us)

    def step_budget(self, lanes: int, step_tokens: int | None = None) -> int:
        """Most new tokens of one step of a worker, over its DP ranks.

        Args:
            lanes: DP ranks.
            step_tokens: the setting, in the terms of the engine's own; its default where None.
        """
        tokens = self.step_tokens if step_tokens is None else step_tokens
        return tokens if self.shared_step_tokens else tokens * lanes


SEQUENCE_US = {Engine.VLLM: 32.0, Engine.SGLANG: 42.0, Engine.TRTLLM: 13.0}
LAG_STEPS = {Engine.VLLM: 3.0, Engine.SGLANG: 0.5, Engine.TRTLLM: 0.5}
DELAY_MS = {Engine.VLLM: 5.0, Engine.SGLANG: 125.0, Engine.TRTLLM: 20.0}
"""Fitted, as the two above, to the aggregated points of one half of the corpus: what `benchmarks/accuracy.py --fit`
prints."""

HAND_OVER_MS = 90.0
"""P/D: routers and orchestration between prefill and decode, with the set-up of the transfer, as clients see it; one
value for all engines. Set by hand with the errors of both halves of the corpus in view, so neither fitted nor blind."""

ENGINES: dict[Engine, EngineTraits] = {
    # vLLM: the decode instance pulls the cache once prefill has finished (NixlConnector) and recomputes the last
    # prompt token, so that one decode step precedes the first token.
    Engine.VLLM: EngineTraits(
        sequence_us=SEQUENCE_US[Engine.VLLM],
        first_token_steps=1,
        recomputes_last_token=True,
        transfer_overlap="none",
        data_parallel_tensor_parallel=True,
        shared_step_tokens=False,
        prefill_first=False,
        delay_ms=DELAY_MS[Engine.VLLM],
        lag_steps=LAG_STEPS[Engine.VLLM],
    ),
    # SGLang: the prefill instance samples the first token and sends cache chunk by chunk; the client gets the token
    # from the decode instance, which emits it with its next step.
    Engine.SGLANG: EngineTraits(
        sequence_us=SEQUENCE_US[Engine.SGLANG],
        first_token_steps=1,
        recomputes_last_token=False,
        transfer_overlap="chunk",
        data_parallel_tensor_parallel=True,
        shared_step_tokens=True,
        prefill_first=True,
        delay_ms=DELAY_MS[Engine.SGLANG],
        lag_steps=LAG_STEPS[Engine.SGLANG],
    ),
    # TensorRT-LLM: the context server returns the first token to the orchestrator; attention DP excludes TP.
    Engine.TRTLLM: EngineTraits(
        sequence_us=SEQUENCE_US[Engine.TRTLLM],
        first_token_steps=0,
        recomputes_last_token=False,
        transfer_overlap="none",
        data_parallel_tensor_parallel=False,
        shared_step_tokens=False,
        prefill_first=False,
        delay_ms=DELAY_MS[Engine.TRTLLM],
        lag_steps=LAG_STEPS[Engine.TRTLLM],
    ),
}


@dataclass(frozen=True)
class FittedParameter:
    """A value chosen so that predictions meet measured points (`docs/accuracy.md` says which half of them).

    Args:
        name: of the parameter, with its unit.
        scope: engine or GPU that it belongs to.
        value: chosen.
        meaning: in the engine.
    """

    name: str
    scope: str
    value: float
    meaning: str


_MEANINGS = (
    ("sequence_us", SEQUENCE_US, "CPU time of one sequence in a step: scheduling, sampling, detokenisation"),
    ("lag_steps", LAG_STEPS, "steps that a request is late for the running batch and its first token for the client"),
    ("delay_ms", DELAY_MS, "time of a request on its way in and of its first token on its way out, at any load"),
)

FITTED: tuple[FittedParameter, ...] = tuple(
    FittedParameter(name, engine.value, values[engine], meaning)
    for name, values, meaning in _MEANINGS
    for engine in (Engine.VLLM, Engine.SGLANG, Engine.TRTLLM)
)
"""All fitted values: three for each engine, none for P/D, for a GPU or for a model."""
