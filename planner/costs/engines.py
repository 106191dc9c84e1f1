"""What the cost model takes from an engine: overhead, memory it keeps, and how P/D hands over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from specs.service import Engine


@dataclass(frozen=True)
class EngineTraits:
    """Traits of one engine.

    Args:
        step_overhead_ms: scheduling, input preparation and sampling of one step that no kernel hides.
        memory_fraction: share of device memory that weights, cache and activations may take.
        reserve_bytes: CUDA context, graphs and NCCL buffers on every GPU, inside that share.
        first_token_steps: decode steps between the KV cache's arrival and the first token that a client sees (P/D).
        transfer_overlap: "chunk" where the KV cache of finished chunks travels while later chunks compute, "none"
            where it leaves after the prefill.
        data_parallel_tensor_parallel: whether attention DP can be combined with TP inside a DP rank.
        step_tokens: most tokens of one step by default: vLLM's `max_num_batched_tokens` of the API server and
            TensorRT-LLM's `max_num_tokens`, of one DP rank; SGLang's `chunked_prefill_size`, of the worker.
        shared_step_tokens: whether `step_tokens` is divided among the DP ranks.
        prefill_first: whether steps with prompts leave decoding requests out and come first.
        request_ms: time of the API server for one request, one after the other.
        token_us: time of the API server for one prompt token (tokenisation).
    """

    step_overhead_ms: float
    memory_fraction: float
    reserve_bytes: float
    first_token_steps: int
    transfer_overlap: Literal["none", "chunk"]
    data_parallel_tensor_parallel: bool
    step_tokens: int
    shared_step_tokens: bool
    prefill_first: bool
    request_ms: float
    token_us: float


ENGINES: dict[Engine, EngineTraits] = {
    # vLLM: the decode instance pulls the cache once prefill has finished (NixlConnector) and recomputes the last
    # prompt token, so that one decode step precedes the first token.
    Engine.VLLM: EngineTraits(1.0, 0.90, 3.0e9, 1, "none", True, 8192, False, False, 5.0, 3.0),
    # SGLang: the prefill instance samples the first token and sends cache chunk by chunk; the client gets the token
    # from the decode instance, which emits it with its next step.
    Engine.SGLANG: EngineTraits(0.8, 0.90, 3.0e9, 1, "chunk", True, 8192, True, True, 5.0, 3.0),
    # TensorRT-LLM: the context server returns the first token to the orchestrator; attention DP excludes TP.
    Engine.TRTLLM: EngineTraits(0.5, 0.90, 3.0e9, 0, "none", False, 8192, False, False, 5.0, 3.0),
}
