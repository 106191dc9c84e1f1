"""The CPU as a backend: NumPy in single precision, whatever precision the operator names.

It exercises the harness where there is no GPU. Its tables say `cpu` and are used for planning no GPU.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.calibrate.backend import Call, Candidate, NotMeasurableError
from planner.calibrate.device import Device
from planner.calibrate.work import WorkItem

Array = NDArray[np.float32]

MEMORY_BYTES = 1 << 30
"""What one bench may take."""


@dataclass(frozen=True)
class NumpyBench:
    """A bench whose point at `value` is computed by `at(value)`."""

    at: Callable[[int], Call]

    def candidates(self, value: int) -> Sequence[Candidate]:
        """The one way there is."""
        return [Candidate("numpy float32", [self.at(value)])]


class CpuBackend:
    """NumPy on the CPU."""

    name = "cpu"

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def device(self) -> Device:
        """The processor."""
        return Device(platform.processor() or platform.machine(), MEMORY_BYTES, 0, platform.release(), np.__version__)

    def open(self, item: WorkItem) -> NumpyBench:
        """Allocate what the points of a curve share."""
        match item.operator:
            case "gemm":
                return self._gemm(item)
            case "grouped_gemm":
                return self._grouped(item)
            case "decode_attention":
                return self._decode(item, item["kv_heads"], item["head_dim"], item["head_dim"])
            case "decode_mla":
                rank = item["kv_lora_rank"]
                return self._decode(item, 1, rank + item["qk_rope_head_dim"], rank)
            case "prefill_attention":
                return self._prefill(item, item["head_dim"], item["head_dim"])
            case "prefill_mla":
                return self._prefill(item, item["qk_nope_head_dim"] + item["qk_rope_head_dim"], item["v_head_dim"])
            case "stream":
                return NumpyBench(self._stream)
            case _:
                raise NotMeasurableError("needs several GPUs")

    def estimate_ms(self, calls: Sequence[Call]) -> float:
        """Warm up, then time one call."""
        calls[0]()
        return self.sampler(calls, 1)()

    def sampler(self, calls: Sequence[Call], count: int) -> Callable[[], float]:
        """Wall-clock time of `count` calls in turn over their number."""

        def sample() -> float:
            start_s = time.perf_counter()
            for index in range(count):
                calls[index % len(calls)]()
            return (time.perf_counter() - start_s) * 1e3 / count

        return sample

    def collective_samples_ms(self, item: WorkItem) -> dict[int, list[float]]:
        """None: there is one CPU."""
        raise NotMeasurableError("needs several GPUs")

    def _array(self, *shape: int) -> Array:
        if np.prod(shape, dtype=float) * 4.0 > MEMORY_BYTES:
            raise NotMeasurableError("needs more memory than the CPU backend takes")
        return self._random.standard_normal(shape, dtype=np.float32)

    def _gemm(self, item: WorkItem) -> NumpyBench:
        weight, rows = self._array(item["k"], item["n"]), self._array(max(item.values), item["k"])
        return NumpyBench(lambda value: lambda: rows[:value] @ weight)

    def _grouped(self, item: WorkItem) -> NumpyBench:
        experts, hidden, width = item["active_experts"], item["hidden"], item["intermediate"]
        up = self._array(experts, hidden, (2 if item["gated"] else 1) * width)
        down = self._array(experts, width, hidden)
        tokens = self._array(max(item.values), hidden)

        def at(pairs: int) -> Call:
            parts = np.array_split(tokens[:pairs], experts)
            return lambda: [part @ up[i][:, :width] @ down[i] for i, part in enumerate(parts)]

        return NumpyBench(at)

    def _decode(self, item: WorkItem, kv_heads: int, width: int, value_width: int) -> NumpyBench:
        most, context = max(item.values), item["context"]
        rows = item["heads"] // kv_heads * item["queries"]
        queries, keys = self._array(most, kv_heads, rows, width), self._array(most, kv_heads, context, width)

        def at(sequences: int) -> Call:
            q, k = queries[:sequences], keys[:sequences]
            return lambda: _softmax(q @ k.transpose(0, 1, 3, 2)) @ k[..., :value_width]

        return NumpyBench(at)

    def _prefill(self, item: WorkItem, width: int, value_width: int) -> NumpyBench:
        most, new, end = max(item.values), item["new_tokens"], item["new_tokens"] + item["context"]
        queries, keys = self._array(most, item["heads"], new, width), self._array(most, item["heads"], end, width)
        hidden = np.triu(np.full((new, end), -np.inf, dtype=np.float32), item["context"] + 1)

        def at(prompts: int) -> Call:
            q, k = queries[:prompts], keys[:prompts]
            return lambda: _softmax(q @ k.transpose(0, 1, 3, 2) + hidden) @ k[..., :value_width]

        return NumpyBench(at)

    def _stream(self, value: int) -> Call:
        source = self._array(max(1, value // 8))
        target = np.empty_like(source)
        return lambda: np.multiply(source, np.float32(1.5), out=target)


def _softmax(scores: Array) -> Array:
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
