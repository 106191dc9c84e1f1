"""Event-driven simulation of micro-batches that pass through the stages of every layer on shared servers."""

import heapq
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Job = tuple[int, int, int]  # layer, micro-batch, stage


@dataclass
class _Server:
    planned: deque[Job] = field(default_factory=deque)
    waiting: list[Job] = field(default_factory=list)
    running: Job | None = None


def flow_shop_ms(
    stage_ms: Sequence[Sequence[Sequence[float]]],
    server_of_stage: Sequence[int],
    *,
    order: Literal["static", "fifo"] = "static",
    release_ms: Sequence[float] | None = None,
    prologue_ms: Sequence[Sequence[float]] = (),
) -> float:
    """Simulate and return the completion time of the last micro-batch.

    Layers are chains of (server, duration); prologue layers are chains of one job. A server takes its jobs by (layer,
    stage, micro-batch) in that order, waiting for a job that is not ready, or, with ``fifo``, in order of arrival.
    """
    microbatches = len(stage_ms[0])
    chains: list[list[list[tuple[int, float]]]] = [
        [[(server_of_stage[0], layer[j])] for j in range(microbatches)] for layer in prologue_ms
    ]
    chains += [
        [[(server_of_stage[k], time) for k, time in enumerate(layer[j])] for j in range(microbatches)]
        for layer in stage_ms
    ]
    servers: dict[int, _Server] = defaultdict(_Server)
    for i, layer_chains in enumerate(chains):
        for k in range(len(layer_chains[0])):
            for j in range(microbatches):
                servers[layer_chains[j][k][0]].planned.append((i, j, k))

    arrivals: list[tuple[float, int, Job, str]] = []
    counter = 0
    for j in range(microbatches):
        start = release_ms[j] if release_ms is not None else 0.0
        heapq.heappush(arrivals, (start, counter, (0, j, 0), "ready"))
        counter += 1
    finished = 0.0
    while arrivals:
        now, _, job, kind = heapq.heappop(arrivals)
        layer, batch, stage = job
        server = servers[chains[layer][batch][stage][0]]
        if kind == "ready":
            server.waiting.append(job)
        else:
            finished = max(finished, now)
            server.running = None
            following: Job | None = None
            if stage + 1 < len(chains[layer][batch]):
                following = (layer, batch, stage + 1)
            elif layer + 1 < len(chains):
                following = (layer + 1, batch, 0)
            if following is not None:
                heapq.heappush(arrivals, (now, counter, following, "ready"))
                counter += 1
        if server.running is None and server.waiting:
            candidate = server.planned[0] if order == "static" else server.waiting[0]
            if candidate in server.waiting:
                server.waiting.remove(candidate)
                server.planned.remove(candidate)
                server.running = candidate
                i, j, k = candidate
                heapq.heappush(arrivals, (now + chains[i][j][k][1], counter, candidate, "done"))
                counter += 1
    assert not any(server.planned for server in servers.values())
    return finished
