"""NCCL all-reduce over the GPUs of one machine, one process each."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Sequence
from typing import Any

from planner.calibrate.backend import NotMeasurableError
from planner.calibrate.harness import SAMPLES

CALLS = 20
"""All-reduces in one sample."""


def all_reduce_samples_ms(torch: Any, ranks: int, sizes_bytes: Sequence[int]) -> dict[int, list[float]]:
    """Samples of an all-reduce of BF16, as the first rank sees them, by size.

    Args:
        torch: the module.
        ranks: GPUs.
        sizes_bytes: of the buffer that every rank holds.

    Raises:
        NotMeasurableError: a process failed.
    """
    multiprocessing = importlib.import_module("torch.multiprocessing")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results: Any = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        multiprocessing.spawn(_worker, args=(ranks, port, tuple(sizes_bytes), results), nprocs=ranks, join=True)
    except Exception as error:
        raise NotMeasurableError(f"NCCL: {' '.join(str(error).split())[-200:]}") from None
    found: dict[int, list[float]] = results.get()
    return found


def _worker(rank: int, ranks: int, port: int, sizes_bytes: Sequence[int], results: Any) -> None:
    torch: Any = importlib.import_module("torch")
    distributed: Any = importlib.import_module("torch.distributed")
    torch.cuda.set_device(rank)
    distributed.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    found = {}
    for size in sizes_bytes:
        buffer = torch.randn(max(1, size // 2), dtype=torch.bfloat16, device="cuda")
        for _ in range(5):
            distributed.all_reduce(buffer)
        samples = []
        for _ in range(SAMPLES):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            distributed.barrier()
            start.record()
            for _ in range(CALLS):
                distributed.all_reduce(buffer)
            end.record()
            end.synchronize()
            samples.append(float(start.elapsed_time(end)) / CALLS)
        found[size] = samples
    if rank == 0:
        results.put(found)
    distributed.destroy_process_group()
