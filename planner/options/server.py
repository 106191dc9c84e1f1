"""One face for workers and AFD units: what the options need of whatever decodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planner.costs.afd import AfdUnit
from planner.costs.linear import FloatArray
from planner.costs.site import Site
from planner.costs.worker import Worker

IntArray = NDArray[np.int64]


class Server(Protocol):
    """A family of n servers. Arrays of batches have shape (n, g); per-server arrays shape (n,)."""

    @property
    def site(self) -> Site:
        """The service on the pool that holds attention."""

    @property
    def copies(self) -> IntArray:
        """Attention replicas that share one queue: those of a unit, 1 for a worker."""

    @property
    def lanes(self) -> IntArray:
        """Prompts that are computed side by side: DP ranks, or attention replicas."""

    @property
    def gpus(self) -> IntArray:
        """GPUs of one server."""

    @property
    def attention_gpus(self) -> IntArray:
        """GPUs that hold KV cache."""

    @property
    def parts(self) -> IntArray:
        """Equal parts of one replica's batch."""

    @property
    def microbatches(self) -> IntArray:
        """Micro-batches in flight of an AFD unit; 1 for a worker."""

    @property
    def links(self) -> int:
        """GPUs, and so NICs, that hold the cache of one request."""

    def take(self, rows: IntArray) -> Server:
        """The servers of some rows, which may repeat."""

    def limited(self, most_slots: int) -> Server:
        """The same servers with no more slots than requests that there can be."""

    def decode_step_ms(self, in_flight: FloatArray, slots: FloatArray) -> FloatArray:
        """Step with only decoding sequences; `in_flight` and `slots` of one replica."""

    def mixed_step_ms(
        self, in_flight: FloatArray, slots: FloatArray, chunks: ArrayLike, *, one_lane: bool = False
    ) -> FloatArray:
        """Step in which every lane, or only one, also computes a prompt chunk."""

    def slots_cap(self, chunk_tokens: FloatArray) -> IntArray:
        """Most slots of one replica that memory holds beside chunks of `chunk_tokens` (n,) tokens per lane."""


@dataclass(frozen=True, eq=False)
class WorkerServer:
    """One worker, in as many rows as are asked for.

    Args:
        worker: the worker.
        rows: n.
        most_slots: slots beyond which there are no requests (closed loop); None for no limit.
    """

    worker: Worker
    rows: int = 1
    most_slots: int | None = None

    def take(self, rows: IntArray) -> WorkerServer:
        """As many rows as `rows` has."""
        return WorkerServer(self.worker, rows.size, self.most_slots)

    def limited(self, most_slots: int) -> WorkerServer:
        """The same worker with no more slots."""
        return replace(self, most_slots=most_slots)

    def _all(self, value: int) -> IntArray:
        return np.full(self.rows, value, dtype=np.int64)

    @property
    def site(self) -> Site:
        """The service on the pool."""
        return self.worker.site

    @cached_property
    def copies(self) -> IntArray:
        """A worker stands alone."""
        return self._all(1)

    @cached_property
    def lanes(self) -> IntArray:
        """DP ranks."""
        return self._all(self.worker.layout.dp)

    @cached_property
    def gpus(self) -> IntArray:
        """GPUs of the worker."""
        return self._all(self.worker.layout.gpus)

    @cached_property
    def attention_gpus(self) -> IntArray:
        """All GPUs hold KV cache."""
        return self.gpus

    @cached_property
    def parts(self) -> IntArray:
        """DP ranks x micro-batches."""
        return self._all(self.worker.layout.parts)

    @cached_property
    def microbatches(self) -> IntArray:
        """Two-batch overlap is part of the layout."""
        return self._all(1)

    @property
    def links(self) -> int:
        """GPUs of one DP rank."""
        return self.worker.layout.tp * self.worker.layout.pp

    def decode_step_ms(self, in_flight: FloatArray, slots: FloatArray) -> FloatArray:
        """Step with only decoding sequences."""
        return self.worker.decode_step_ms(in_flight, slots)

    def mixed_step_ms(
        self, in_flight: FloatArray, slots: FloatArray, chunks: ArrayLike, *, one_lane: bool = False
    ) -> FloatArray:
        """Step in which every DP rank, or only one, also computes a prompt chunk."""
        return self.worker.mixed_step_ms(in_flight, slots, chunks, one_lane=one_lane)

    def slots_cap(self, chunk_tokens: FloatArray) -> IntArray:
        """Most slots that memory holds."""
        cap = _by_value(chunk_tokens, lambda tokens: self.worker.largest_slots(tokens, decode=True))
        return cap if self.most_slots is None else np.minimum(cap, self.most_slots)


@dataclass(frozen=True, eq=False)
class AfdServer:
    """AFD units that differ in their attention replicas and micro-batches.

    Args:
        unit: what the units share.
        copies: attention replicas, shape (n,).
        microbatches: micro-batches in flight, shape (n,).
        most_slots: slots of a unit beyond which there are no requests (closed loop); None for no limit.
    """

    unit: AfdUnit
    copies: IntArray
    microbatches: IntArray
    most_slots: int | None = None

    def take(self, rows: IntArray) -> AfdServer:
        """The units of some rows."""
        return AfdServer(self.unit, self.copies[rows], self.microbatches[rows], self.most_slots)

    def limited(self, most_slots: int) -> AfdServer:
        """The same units with no more slots."""
        return replace(self, most_slots=most_slots)

    @property
    def site(self) -> Site:
        """The service on the attention pool."""
        return self.unit.attention_site

    @cached_property
    def lanes(self) -> IntArray:
        """Every attention replica computes a prompt of its own."""
        return self.copies

    @cached_property
    def gpus(self) -> IntArray:
        """GPUs of the unit."""
        return self.attention_gpus + self.unit.ffn_gpus

    @cached_property
    def attention_gpus(self) -> IntArray:
        """GPUs of the attention replicas."""
        return self.copies * self.unit.tp

    @cached_property
    def parts(self) -> IntArray:
        """Micro-batches."""
        return self.microbatches

    @property
    def links(self) -> int:
        """GPUs of one attention replica."""
        return self.unit.tp

    def decode_step_ms(self, in_flight: FloatArray, slots: FloatArray) -> FloatArray:
        """Step with only decoding sequences."""
        return self.unit.decode_step_ms(in_flight, self.copies[:, None], self.microbatches[:, None], slots)

    def mixed_step_ms(
        self, in_flight: FloatArray, slots: FloatArray, chunks: ArrayLike, *, one_lane: bool = False
    ) -> FloatArray:
        """Step in which every attention replica, or only one, also computes a prompt chunk."""
        copies, microbatches = self.copies[:, None], self.microbatches[:, None]
        return self.unit.mixed_step_ms(in_flight, copies, microbatches, slots, chunks, one_lane=one_lane)

    def slots_cap(self, chunk_tokens: FloatArray) -> IntArray:
        """Most slots of one attention replica that memory holds; at least one per micro-batch or none."""
        cap = _by_value(chunk_tokens, self.unit.largest_slots)
        if self.most_slots is not None:
            cap = np.minimum(cap, self.most_slots // self.copies)
        fits = self.unit.ffn_fits(self.copies * chunk_tokens)
        return np.where(fits & (cap >= self.microbatches), cap, 0)


def _by_value(values: FloatArray, function: Callable[[float], int]) -> IntArray:
    """Apply a function of one number to every distinct value."""
    distinct, inverse = np.unique(values, return_inverse=True)
    return np.array([function(float(value)) for value in distinct], dtype=np.int64)[inverse.ravel()]
