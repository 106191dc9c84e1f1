"""The order of a model's layers as the pipeline recursion needs it: a prologue and runs of repeated patterns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planner.costs.linear import FloatArray
from planner.costs.pipeline import identical_layers_ms, periodic_max_plus_ms
from specs.model import ModelSpec, MoeFfn

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class LayerPattern:
    """Layer groups in the order in which a step passes them.

    Args:
        prologue: groups of the leading layers without experts, one entry per layer.
        runs: (groups of one pattern, repeats), in order. A step leaves one run before it enters the next, which is
            exact for one run and an upper bound for several.
    """

    prologue: tuple[int, ...]
    runs: tuple[tuple[tuple[int, ...], int], ...]

    @staticmethod
    def of(model: ModelSpec) -> LayerPattern:
        """The pattern of a model."""
        counts = [group.count for group in model.layers]
        if model.period > 1 and model.layer_count % model.period == 0:
            repeats = model.layer_count // model.period
            if all(count % repeats == 0 for count in counts):
                # The order inside a period is not recorded: layers of each group are spread evenly over it.
                spread = sorted(
                    ((layer + 0.5) * repeats / count, index)
                    for index, count in enumerate(counts)
                    for layer in range(count // repeats)
                )
                return LayerPattern((), ((tuple(index for _, index in spread), repeats),))
        prologue: list[int] = []
        rest = list(range(len(counts)))
        while len(rest) > 1 and not isinstance(model.layers[rest[0]].ffn, MoeFfn):
            prologue += [rest[0]] * counts[rest[0]]
            rest.pop(0)
        return LayerPattern(tuple(prologue), tuple(((index,), counts[index]) for index in rest))

    def time_ms(self, stages: Sequence[FloatArray], microbatches: ArrayLike, servers: tuple[int, ...]) -> FloatArray:
        """Time of all layers for equal micro-batches, ms.

        Args:
            stages: per layer group, stage times of one micro-batch, shape (..., K).
            microbatches: micro-batches in flight, a scalar or of shape (...).
            servers: server of each stage.
        """
        shape = stages[0].shape[:-1]
        count = np.broadcast_to(np.asarray(microbatches), shape)
        if len(set(servers)) == len(servers) and len(self.runs) == 1 and len(self.runs[0][0]) == 1:
            return self._identical_ms(stages, count)
        time: FloatArray = np.zeros(shape)
        for value in np.unique(count):
            rows = count == value
            time[rows] = self._recursion_ms([stage[rows] for stage in stages], int(value), servers)
        return time

    def _identical_ms(self, stages: Sequence[FloatArray], count: IntArray) -> FloatArray:
        """Closed form: the prologue keeps the attention server busy for all micro-batches before the first run."""
        (group,), repeats = self.runs[0]
        prologue = sum((stages[index][..., 0] for index in self.prologue), np.zeros(count.shape))
        return np.asarray(count * prologue + identical_layers_ms(stages[group], repeats, count))

    def _recursion_ms(self, stages: Sequence[FloatArray], microbatches: int, servers: tuple[int, ...]) -> FloatArray:
        time: FloatArray = np.zeros(stages[0].shape[:-1])
        prologue = np.stack([stages[index][..., 0] for index in self.prologue], axis=-1) if self.prologue else None
        for position, (pattern, repeats) in enumerate(self.runs):
            stage = np.stack([stages[index] for index in pattern], axis=-2)[..., None, :]
            shape = (*stage.shape[:-2], microbatches, stage.shape[-1])
            first = prologue if position == 0 else None
            time = time + periodic_max_plus_ms(
                np.broadcast_to(stage, shape),
                repeats,
                servers,
                prologue_ms=None if first is None else first[..., None],
            )
        return time
