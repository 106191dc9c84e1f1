"""Prefill options: workers that only compute prompts, at every TTFT level."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.linear import FloatArray
from planner.costs.queueing import largest_utilisation
from planner.costs.worker import Worker
from planner.options.block import OptionBlock
from planner.options.decode import Level
from planner.options.targets import Targets

IntArray = NDArray[np.int64]

LARGEST_CHUNK_TOKENS = 32_768
"""New tokens of one step on a DP rank."""

MOST_PROMPTS_PER_RANK = 16
CHUNK_FACTORS = (1, 2, 4, 8)
"""Chunk counts tried: the fewest that the largest chunk allows, times these."""


@dataclass(frozen=True)
class Transfer:
    """KV cache on its way from prefill to decode.

    Args:
        bytes_per_request: bytes that one request sends.
        prefix_bytes: bytes of prefix that must first come to the prefill side.
        setup_ms: fixed time of one transfer.
        overlap: whether finished chunks travel while later ones are computed.
    """

    bytes_per_request: float
    prefix_bytes: float
    setup_ms: float
    overlap: bool

    def exposed_ms(
        self, prompts: FloatArray, bytes_per_ms: float, chunks: IntArray, prefill_ms: FloatArray
    ) -> FloatArray:
        """Part of the transfer that adds to TTFT, for `prompts` prompts that share a rate of `bytes_per_ms`, ms.

        Without overlap the whole cache travels after the prefill. With overlap the last chunk's share is exposed at
        least, and all that the time of the earlier chunks does not hide.
        """
        whole = prompts * self.bytes_per_request / bytes_per_ms
        if self.overlap:
            whole = np.maximum(whole / chunks, whole - prefill_ms * (chunks - 1) / chunks)
        return np.asarray(whole + prompts * self.prefix_bytes / bytes_per_ms + self.setup_ms)


NO_TRANSFER = Transfer(0.0, 0.0, 0.0, overlap=False)


def prompt_batches(worker: Worker) -> IntArray:
    """Prompts per step: up to one per DP rank, then equal numbers on all ranks."""
    dp = worker.layout.dp
    per_rank = max(1, min(MOST_PROMPTS_PER_RANK, int(LARGEST_CHUNK_TOKENS // max(worker.site.lengths.input, 1.0))))
    below = [1 << power for power in range(dp.bit_length()) if 1 << power < dp]
    return np.array(below + [dp * count for count in range(1, per_rank + 1)], dtype=np.int64)


def chunk_counts(input_tokens: float) -> IntArray:
    """Chunks that a prompt may be cut into."""
    fewest = math.ceil(input_tokens / LARGEST_CHUNK_TOKENS)
    return np.array(sorted({fewest * f for f in CHUNK_FACTORS if f == 1 or input_tokens / (fewest * f) >= 256}))


def prefill_options(
    worker: Worker,
    targets: Targets,
    levels: Sequence[Level],
    budgets_ms: Sequence[float],
    transfer: Transfer,
    rejected: Counter[str],
) -> OptionBlock:
    """The prefill options of a worker at every level, each at the largest utilisation that TTFT allows there.

    Args:
        worker: the worker.
        targets: SLO and arrivals.
        levels: the service's TTFT levels in this mode.
        budgets_ms: time that each level leaves to prefill and transfer.
        transfer: what is sent to the decode side.
        rejected: counts of refused options, by reason.
    """
    layout, site = worker.layout, worker.site
    prompts, chunks = (a.ravel() for a in np.meshgrid(prompt_batches(worker), chunk_counts(site.lengths.input)))
    on_rank = np.ceil(prompts / layout.dp)
    step_tokens = on_rank * site.lengths.input / chunks
    held = np.array([worker.largest_slots(float(tokens), decode=False) for tokens in step_tokens])
    fits = held >= on_rank * layout.dp
    rejected["memory cannot hold weights and one request"] += int(np.sum(~fits))
    prompts, chunks, on_rank = prompts[fits], chunks[fits], on_rank[fits]
    if not prompts.size:
        return OptionBlock.concat([])
    time = np.empty(prompts.size)
    for count in np.unique(chunks):
        rows = chunks == count
        time[rows] = worker.prefill_ms(prompts[rows], int(count))
    rate_cap = math.inf
    if transfer.bytes_per_request > 0:
        rate_cap = 1e3 * site.fabric.scale_out_bytes_per_ms * layout.gpus / transfer.bytes_per_request
    blocks = []
    refused = np.ones(prompts.size, dtype=bool)
    for index, (level, budget) in enumerate(zip(levels, budgets_ms, strict=True)):
        if layout.tp * layout.pp * site.fabric.scale_out_bytes_per_ms < level.link_bytes_per_ms:
            continue
        exposed = np.zeros(prompts.size)
        if transfer.bytes_per_request > 0:
            exposed = transfer.exposed_ms(on_rank, level.link_bytes_per_ms, chunks, time)
        room = budget - time - exposed
        open_ = np.flatnonzero(room >= 0.0)
        if not open_.size:
            continue
        busy = largest_utilisation(
            np.minimum(room[open_], 1e9), prompts[open_], time[open_], targets.queue_cv, targets.statistic
        )
        good = busy > 0.0
        open_, busy = open_[good], busy[good]
        refused[open_] = False
        rate = np.minimum(1e3 * busy * prompts[open_] / time[open_], rate_cap)
        blocks.append(
            OptionBlock.of(
                worker,
                slots=prompts[open_],
                in_flight=busy * prompts[open_],
                chunks=chunks[open_],
                utilisation=busy,
                rate_rps=rate,
                ttft_ms=budget,
                residency_s=1e-3 * (time + exposed)[open_],
                level=index,
            )
        )
    rejected["TTFT"] += int(np.sum(refused))
    return OptionBlock.concat(blocks)
