"""An NVIDIA GPU as a backend: timing by CUDA graphs and events, kernels by PyTorch.

A sample is one replay of a captured graph of many calls between two events, with another replay queued before it, so
that neither launches from Python nor an idle GPU are in the time. Kernels are in `planner.calibrate.cuda_operators`.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from planner.calibrate.backend import Bench, Call, NotMeasurableError
from planner.calibrate.cuda_operators import CudaOperators
from planner.calibrate.device import Device
from planner.calibrate.work import WorkItem
from specs.errors import SpecError


class CudaBackend:
    """The first GPU that PyTorch sees."""

    name = "cuda"

    def __init__(self) -> None:
        """Look for PyTorch and a GPU.

        Raises:
            SpecError: one of them is missing.
        """
        try:
            self._torch: Any = importlib.import_module("torch")
        except ImportError:
            raise SpecError(
                "measuring needs PyTorch built for CUDA, and it is not installed (pip install torch); accepted "
                "without it: --dry-run, or --backend cpu to try the harness",
                field="--backend",
            ) from None
        if not self._torch.cuda.is_available():
            raise SpecError(
                f"measuring needs an NVIDIA GPU, and PyTorch {self._torch.__version__} sees none; accepted without "
                "one: --dry-run, or --backend cpu to try the harness",
                field="--backend",
            )
        properties = self._torch.cuda.get_device_properties(0)
        cache_bytes = int(getattr(properties, "L2_cache_size", 0) or 64 << 20)
        self._device = Device(
            str(properties.name),
            int(properties.total_memory),
            cache_bytes,
            _driver_version(),
            str(self._torch.__version__),
        )
        self._operators = CudaOperators(self._torch, cache_bytes)

    def device(self) -> Device:
        """The GPU."""
        return self._device

    def open(self, item: WorkItem) -> Bench:
        """Allocate what the points of a curve share."""
        self._torch.cuda.empty_cache()
        try:
            return self._operators.open(item)
        except self._torch.cuda.OutOfMemoryError:
            raise NotMeasurableError("does not fit into the GPU's memory") from None

    def estimate_ms(self, calls: Sequence[Call]) -> float:
        """Warm up, then the mean of three calls launched from Python."""
        cuda = self._torch.cuda
        for index in range(2):
            calls[index % len(calls)]()
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        start.record()
        for index in range(3):
            calls[index % len(calls)]()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 3.0

    def sampler(self, calls: Sequence[Call], count: int) -> Callable[[], float]:
        """Replays of a graph of `count` calls in turn."""
        cuda = self._torch.cuda
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            for index in range(count):
                calls[index % len(calls)]()
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)

        def sample() -> float:
            graph.replay()
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / count

        return sample

    def collective_samples_ms(self, item: WorkItem) -> dict[int, list[float]]:
        """All-reduce over the first GPUs, one process each."""
        ranks = int(item["ranks"])
        there = int(self._torch.cuda.device_count())
        if there < ranks:
            raise NotMeasurableError(f"needs {ranks} GPUs; there {'is' if there == 1 else 'are'} {there}")
        from planner.calibrate.collectives import all_reduce_samples_ms

        return all_reduce_samples_ms(self._torch, ranks, item.values)


def _driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"
