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
    workers: Sequence[Worker],
    targets: Targets,
    levels: Sequence[Level],
    budgets_ms: Sequence[float],
    transfer: Transfer,
    rejected: Counter[str],
) -> OptionBlock:
    """The prefill options that can be best at every level, each at the largest utilisation that TTFT allows there.

    Of one worker's prompt batches and chunk counts the one with the largest rate is kept: they take the same GPUs.

    Args:
        workers: colocated workers of one service.
        targets: SLO and arrivals.
        levels: the service's TTFT levels in this mode.
        budgets_ms: time that each level leaves to prefill and transfer.
        transfer: what is sent to the decode side.
        rejected: counts of refused workers, by reason.
    """
    tried = [_Tried.of(index, worker) for index, worker in enumerate(workers)]
    rejected["memory cannot hold weights and one request"] += sum(each.worker.size == 0 for each in tried)
    every = _Tried(*(np.concatenate(column) for column in zip(*(each.columns() for each in tried), strict=True)))
    link = np.array([w.layout.tp * w.layout.pp * w.site.fabric.scale_out_bytes_per_ms for w in workers])
    nics = np.array([w.layout.gpus * w.site.fabric.scale_out_bytes_per_ms for w in workers])
    blocks = []
    served = np.zeros(len(workers), dtype=bool)
    for number, (level, budget) in enumerate(zip(levels, budgets_ms, strict=True)):
        exposed = np.zeros(every.worker.size)
        if transfer.bytes_per_request > 0:
            exposed = transfer.exposed_ms(every.on_rank, level.link_bytes_per_ms, every.chunks, every.time_ms)
        room = budget - every.time_ms - exposed
        rows = np.flatnonzero((room >= 0.0) & (link[every.worker] >= level.link_bytes_per_ms))
        if not rows.size:
            continue
        batch, time = every.prompts[rows], every.time_ms[rows]
        busy = largest_utilisation(np.minimum(room[rows], 1e9), batch, time, targets.queue_cv, targets.statistic)
        rate = 1e3 * busy * batch / time
        if transfer.bytes_per_request > 0:
            rate = np.minimum(rate, 1e3 * nics[every.worker[rows]] / transfer.bytes_per_request)
        order = np.lexsort((rate, every.worker[rows]))
        last = np.flatnonzero(np.diff(every.worker[rows][order], append=-1))
        best = order[last]
        best = best[rate[best] > 0.0]
        served[every.worker[rows][best]] = True
        blocks += [
            OptionBlock.of(
                workers[every.worker[rows][i]],
                slots=batch[i],
                in_flight=busy[i] * batch[i],
                chunks=every.chunks[rows][i],
                utilisation=busy[i],
                rate_rps=rate[i],
                ttft_ms=budget,
                residency_s=1e-3 * (time[i] + exposed[rows][i]),
                level=number,
            )
            for i in best
        ]
    rejected["TTFT"] += int(np.sum(~served)) - sum(each.worker.size == 0 for each in tried)
    return OptionBlock.concat(blocks)


@dataclass(frozen=True, eq=False)
class _Tried:
    """Prompt batches and chunk counts of workers, with their prefill times; arrays of shape (n,)."""

    worker: IntArray
    prompts: IntArray
    chunks: IntArray
    on_rank: FloatArray
    time_ms: FloatArray

    @staticmethod
    def of(index: int, worker: Worker) -> _Tried:
        """All that memory holds of one worker."""
        counts = chunk_counts(worker.site.lengths.input)
        prompts, chunks = (a.ravel() for a in np.meshgrid(prompt_batches(worker), counts))
        on_rank = np.ceil(prompts / worker.layout.dp)
        tokens, inverse = np.unique(on_rank * worker.site.lengths.input / chunks, return_inverse=True)
        held = np.array([worker.largest_slots(float(step), decode=False) for step in tokens])[inverse.ravel()]
        fits = held >= on_rank * worker.layout.dp
        prompts, chunks, on_rank = prompts[fits], chunks[fits], on_rank[fits]
        time = worker.prefill_ms(prompts, chunks) if prompts.size else np.zeros(0)
        return _Tried(np.full(prompts.size, index), prompts, chunks, on_rank, time)

    def columns(self) -> tuple[IntArray, IntArray, IntArray, FloatArray, FloatArray]:
        """The arrays in order."""
        return self.worker, self.prompts, self.chunks, self.on_rank, self.time_ms
