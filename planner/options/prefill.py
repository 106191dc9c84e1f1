"""Prefill options: workers that only compute prompts, at every TTFT level."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.clock import UNLIMITED, Clock
from planner.costs.linear import FloatArray
from planner.costs.queueing import largest_utilisation, prefill_wait_ms
from planner.costs.worker import Worker
from planner.options.block import OptionBlock
from planner.options.decode import Level
from planner.options.frontier import needed
from planner.options.places import join_places
from planner.options.server import WorkerServer
from planner.options.targets import Targets

IntArray = NDArray[np.int64]

LARGEST_CHUNK_TOKENS = 32_768
"""New tokens of one step on a DP rank."""

MOST_PROMPTS_PER_RANK = 16
CHUNK_FACTORS = (1, 2, 3, 4, 6, 8, 12, 16)
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


class PrefillSide:
    """The prefill options of one service, for any TTFT levels that are asked for.

    Each option runs at the largest utilisation that its level's budget allows. Of one worker's prompt batches and
    chunk counts the one with the largest rate is kept, and of the workers those that cannot be replaced in their place
    (see `planner.options.frontier`).

    Args:
        workers: colocated workers of one service.
        targets: SLO and arrivals.
        transfer: what is sent to the decode side.
        rejected: counts of refused workers, by reason.
        prune: whether workers may be dropped for others that fit in their place.
        clock: looked at between workers; every search takes its own.

    Raises:
        OutOfTimeError: the clock ran out first, here or in a search.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        targets: Targets,
        transfer: Transfer,
        rejected: Counter[str],
        *,
        prune: bool = True,
        clock: Clock = UNLIMITED,
    ) -> None:
        tried = []
        for index, worker in enumerate(workers):
            clock.check()
            tried.append(_Tried.of(index, worker))
        rejected["memory cannot hold weights and one request"] += sum(each.worker.size == 0 for each in tried)
        self._workers, self._targets, self._transfer, self._prune = workers, targets, transfer, prune
        self._tried = _Tried.join(tried)
        self._link = np.array([w.layout.tp * w.layout.pp * w.site.fabric.scale_out_bytes_per_ms for w in workers])
        self._nics = np.array([w.layout.gpus * w.site.fabric.scale_out_bytes_per_ms for w in workers])
        if prune and workers:
            self._places = join_places([(w, WorkerServer(w)) for w in workers], links=transfer.bytes_per_request > 0)
        self._found: dict[tuple[float, float], OptionBlock] = {}

    @property
    def links(self) -> list[float]:
        """Rates at which one request's cache can leave some worker, bytes/ms, ascending."""
        return sorted(set(self._link.tolist()))

    @property
    def most_rps_per_gpu(self) -> float:
        """Rate over GPUs of the worker that computes prompts back to back the fastest; 0 without workers."""
        tried = self._tried
        gpus = np.array([worker.layout.gpus for worker in self._workers], dtype=float)
        rate = 1e3 * tried.prompts / tried.time_ms / gpus[tried.worker]
        return float(rate.max(initial=0.0))

    def at(self, levels: Sequence[Level], budgets_ms: Sequence[float], clock: Clock = UNLIMITED) -> OptionBlock:
        """The options of every level, marked with its index.

        Args:
            levels: TTFT levels.
            budgets_ms: time that each leaves to prefill and transfer.
            clock: of the search.
        """
        keys = [(level.link_bytes_per_ms, budget) for level, budget in zip(levels, budgets_ms, strict=True)]
        self._find(sorted(set(keys) - self._found.keys()), clock)
        return OptionBlock.concat([self._found[key].at_level(index) for index, key in enumerate(keys)])

    def _find(self, keys: Sequence[tuple[float, float]], clock: Clock) -> None:
        """Search the best options for several (link rate, budget) pairs at once."""
        tried, transfer, targets = self._tried, self._transfer, self._targets
        rows_of, room_of, exposed_of = [], [], []
        for link, budget in keys:
            exposed = np.zeros(tried.worker.size)
            if transfer.bytes_per_request > 0:
                exposed = transfer.exposed_ms(tried.on_rank, link, tried.chunks, tried.time_ms)
            room = budget - tried.time_ms - exposed
            rows = np.flatnonzero((room >= 0.0) & (self._link[tried.worker] >= link))
            rows_of.append(rows)
            room_of.append(room[rows])
            exposed_of.append(exposed[rows])
        if not keys:
            return
        rows, room, exposed = np.concatenate(rows_of), np.concatenate(room_of), np.concatenate(exposed_of)
        key_of = np.repeat(np.arange(len(keys)), [part.size for part in rows_of])
        batch, time, worker = tried.prompts[rows], tried.time_ms[rows], tried.worker[rows]
        group = key_of * len(self._workers) + worker
        most = 1e3 * batch / time
        if transfer.bytes_per_request > 0:
            most = np.minimum(most, 1e3 * self._nics[worker] / transfer.bytes_per_request)
        busy, rate = np.zeros(rows.size), np.zeros(rows.size)

        def solve(at: IntArray) -> None:
            """Find the utilisation and rate of some options."""
            limit = np.minimum(room[at], 1e9)
            busy[at] = largest_utilisation(limit, batch[at], time[at], targets.queue_cv, targets.statistic)
            rate[at] = np.minimum(1e3 * busy[at] * batch[at] / time[at], most[at])

        # The option of each worker that promises most is solved; then, of those that keep the budget at its rate, the
        # one that promises most; and so on.
        promise = most * room / (room + 0.5 * time)
        best_rate = np.zeros(len(keys) * len(self._workers))
        rivals = np.arange(rows.size)
        while rivals.size:
            clock.check()
            leader = rivals[_best_of(group[rivals], promise[rivals])]
            solve(leader)
            best_rate[group[leader]] = np.maximum(best_rate[group[leader]], rate[leader])
            rivals = np.setdiff1d(rivals, leader, assume_unique=True)
            rivals = rivals[most[rivals] > best_rate[group[rivals]]]
            equal = 1e-3 * best_rate[group[rivals]] * time[rivals] / batch[rivals]
            wait = prefill_wait_ms(equal, batch[rivals], time[rivals], targets.queue_cv, targets.statistic)
            rivals = rivals[wait <= room[rivals] * (1.0 + 1e-9)]
        best = _best_of(group, rate)
        best = best[rate[best] > 0.0]
        for number, key in enumerate(keys):
            mine = best[key_of[best] == number]
            if self._prune and mine.size:
                mine = mine[needed(self._places.take(worker[mine]), rate[mine], rate[mine])]
            self._found[key] = OptionBlock(
                families=tuple(self._workers[i] for i in worker[mine]),
                family=np.arange(mine.size),
                origin=np.zeros(mine.size, dtype=np.int64),
                replicas=np.ones(mine.size, dtype=np.int64),
                microbatches=np.ones(mine.size, dtype=np.int64),
                slots=batch[mine],
                in_flight=busy[mine] * batch[mine],
                chunks=tried.chunks[rows][mine],
                utilisation=busy[mine],
                rate_rps=rate[mine],
                ttft_ms=np.full(mine.size, key[1]),
                tpot_ms=np.zeros(mine.size),
                residency_s=1e-3 * (time + exposed)[mine],
                level=np.zeros(mine.size, dtype=np.int64),
            )


def _best_of(group: IntArray, value: FloatArray) -> IntArray:
    """Row of the largest value of every group, the last one among equals; `group` is ascending."""
    if not group.size:
        return np.zeros(0, dtype=np.int64)
    first = np.concatenate(([True], np.diff(group) > 0))
    largest = np.maximum.reduceat(value, np.flatnonzero(first))[np.cumsum(first) - 1]
    rows = np.flatnonzero(value == largest)
    return np.asarray(rows[np.diff(group[rows], append=-1) != 0])


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

    @staticmethod
    def join(parts: Sequence[_Tried]) -> _Tried:
        """All of several workers."""
        empty = _Tried(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0))
        parts = [empty, *parts]
        return _Tried(
            np.concatenate([part.worker for part in parts]),
            np.concatenate([part.prompts for part in parts]),
            np.concatenate([part.chunks for part in parts]),
            np.concatenate([part.on_rank for part in parts]),
            np.concatenate([part.time_ms for part in parts]),
        )
