"""Options of one role as a struct of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.costs.afd import AfdUnit
from planner.costs.worker import Worker

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Family = Worker | AfdUnit


@dataclass(frozen=True, eq=False)
class OptionBlock:
    """N options; every array has shape (N,).

    Args:
        families: what the options are built from; `family` indexes it.
        family: index into `families`.
        origin: row of the family's server that the option came from.
        replicas: attention replicas of an AFD unit; 1 for a worker.
        microbatches: micro-batches in flight of an AFD unit; 1 for a worker.
        slots: requests in flight that one replica (one attention replica) is configured for.
        in_flight: mean requests in flight on it.
        chunks: equal chunks in which a prompt is computed; 0 where the role has no prefill.
        utilisation: prefill: share of time busy; other roles: in_flight / slots.
        rate_rps: requests/s of one replica or unit.
        ttft_ms: TTFT at the SLO's statistic (role SERVE), its prefill part (PREFILL) or its decode part (DECODE).
        tpot_ms: TPOT at the SLO's statistic; 0 for PREFILL.
        residency_s: mean seconds that a request spends here.
        level: TTFT level.
    """

    families: tuple[Family, ...]
    family: IntArray
    origin: IntArray
    replicas: IntArray
    microbatches: IntArray
    slots: IntArray
    in_flight: FloatArray
    chunks: IntArray
    utilisation: FloatArray
    rate_rps: FloatArray
    ttft_ms: FloatArray
    tpot_ms: FloatArray
    residency_s: FloatArray
    level: IntArray

    def __len__(self) -> int:
        """Number of options."""
        return int(self.family.size)

    def take(self, rows: NDArray[Any]) -> OptionBlock:
        """The options of some rows."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "families"}
        return OptionBlock(families=self.families, **arrays)

    def at_level(self, level: int) -> OptionBlock:
        """The same options at another level."""
        return replace(self, level=np.full(len(self), level, dtype=np.int64))

    @staticmethod
    def concat(blocks: Sequence[OptionBlock]) -> OptionBlock:
        """All options of several blocks."""
        offsets = np.cumsum([0] + [len(block.families) for block in blocks])
        arrays: dict[str, Any] = {}
        for f in fields(OptionBlock):
            if f.name == "families":
                continue
            parts = [
                getattr(block, f.name) + (offset if f.name == "family" else 0)
                for block, offset in zip(blocks, offsets, strict=False)
            ]
            arrays[f.name] = np.concatenate(parts) if parts else np.zeros(0, dtype=_dtype(f.name))
        return OptionBlock(families=tuple(family for block in blocks for family in block.families), **arrays)

    @staticmethod
    def of(family: Family, **arrays: Any) -> OptionBlock:
        """A block of one family; scalars are repeated, missing integer arrays are zero."""
        columns = [f.name for f in fields(OptionBlock) if f.name not in ("families", "family")]
        defaults: dict[str, Any] = {
            "origin": 0,
            "replicas": 1,
            "microbatches": 1,
            "chunks": 0,
            "level": 0,
            "tpot_ms": 0.0,
        }
        given = [np.asarray(arrays.get(name, defaults.get(name))) for name in columns]
        shaped = np.broadcast_arrays(*given)
        values: dict[str, Any] = {
            name: np.ascontiguousarray(array.ravel()).astype(_dtype(name))
            for name, array in zip(columns, shaped, strict=True)
        }
        count = values["slots"].size
        return OptionBlock(families=(family,), family=np.zeros(count, dtype=np.int64), **values)


def _dtype(name: str) -> type:
    integers = ("family", "origin", "replicas", "microbatches", "slots", "chunks", "level")
    return np.int64 if name in integers else np.float64
