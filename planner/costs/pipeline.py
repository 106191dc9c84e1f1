"""Time of one step that passes micro-batches through the stages of every layer.

A layer is a chain of K stages (in attention-FFN disaggregation: attention, A2F, FFN, F2A). Micro-batch j passes the
stages of layer 1, then those of layer 2, and so on; each stage runs on one server and a server does one job at a time,
in the static order *layer, then stage, then micro-batch* (A(l,0) A(l,1) F(l,0) F(l,1) ... where both run on one GPU:
two-batch overlap). With C(l, j, k) the completion time:

    C(l, j, k) = max(C(l, j, k-1), completion of the job before it on its server) + t(l, j, k)
    C(l, j, -1) = C(l-1, j, K-1)

which is linear in max-plus algebra. Where every stage has a server of its own the static order is first in, first out.
Where stages share a server it is one admissible schedule (not necessarily the shortest), the one that engines fix in
advance. A micro-batch whose stage times are all zero, placed last, changes nothing.

A prologue of layers that run on the server of stage 0 alone (the leading dense layers of a model, computed on the
attention side) precedes the pipeline in the same layer-major order, and is treated exactly.

All times are milliseconds. Oracle: ``tests/oracles/flow_shop.py``, an event-driven simulation.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

# Elements handled at once: the state of a block stays in the second-level cache.
_BLOCK = 8192
# Two states that differ by the same amount in all components, to this fraction of their size, count as one period
# apart. The recursion is non-expansive, so the extrapolated step is off by at most this fraction per period.
_PERIODIC_TOLERANCE = 1e-13
# Periods over which the increments may repeat (the cyclicity of the max-plus matrix).
_LONGEST_CYCLE = 4


def identical_layers_ms(stage_ms: ArrayLike, layers: int, microbatches: ArrayLike) -> FloatArray:
    """Step time of identical layers whose K stages run on K servers of their own, for equal micro-batches.

    max(S + s (M L - 1), L S + (M - 1) s) with S the sum and s the largest of the stage times: the busiest server never
    idles once filled, or a micro-batch never waits between its layers. M = 1 is serial, L S.

    Args:
        stage_ms: (..., K) time of each stage for one micro-batch.
        layers: number of layers L, at least 1.
        microbatches: number of micro-batches M, at least 1; a scalar or of shape (...).

    Returns:
        (...) step time.

    Raises:
        ValueError: ``layers`` or ``microbatches`` below 1.
    """
    microbatches = np.asarray(microbatches)
    if layers < 1 or np.any(microbatches < 1):
        raise ValueError(f"layers ({layers}) and microbatches ({microbatches}) must be at least 1")
    stage = np.asarray(stage_ms, dtype=np.float64)
    total, slowest = stage[..., 0].copy(), stage[..., 0].copy()
    for k in range(1, stage.shape[-1]):  # few stages: far faster than a reduction over the last axis
        total += stage[..., k]
        np.maximum(slowest, stage[..., k], out=slowest)
    busiest_server = total + slowest * (microbatches * layers - 1)
    dependency_chain = layers * total + (microbatches - 1) * slowest
    step: FloatArray = np.maximum(busiest_server, dependency_chain)
    return step


def max_plus_ms(
    stage_ms: ArrayLike,
    server_of_stage: Sequence[int],
    *,
    release_ms: ArrayLike | None = None,
    prologue_ms: ArrayLike | None = None,
) -> FloatArray:
    """Step time by the max-plus recursion over every layer, micro-batch and stage.

    Args:
        stage_ms: (..., L, M, K) stage times; layers and micro-batches may differ. A ``np.broadcast_to`` view is fine.
        server_of_stage: server of each of the K stages, any integers; equal integers share a server.
        release_ms: (..., M) time at which each micro-batch may start; zero by default.
        prologue_ms: (..., k, M) or (..., k, 1) times of leading layers that run on the server of stage 0 alone.

    Returns:
        (...) completion time of the last micro-batch.

    Raises:
        ValueError: a shape that does not fit.
    """
    return periodic_max_plus_ms(stage_ms, 1, server_of_stage, release_ms=release_ms, prologue_ms=prologue_ms)


def periodic_max_plus_ms(
    stage_ms: ArrayLike,
    repeats: int,
    server_of_stage: Sequence[int],
    *,
    release_ms: ArrayLike | None = None,
    prologue_ms: ArrayLike | None = None,
) -> FloatArray:
    """Step time of a pattern of layers that repeats, by the max-plus recursion stopped once it is periodic.

    The recursion is x(n+1) = f(x(n)) over the state x (when each micro-batch and each server becomes free), with
    f(x + c) = f(x) + c. Hence x(n) = x(n-c) + mu in every component proves x(n+i) = x(n-c+i) + mu for all i, and the
    rest is extrapolated. Elements that do not become periodic are run to the end.

    Args:
        stage_ms: (..., P, M, K) stage times of the P layers of the pattern (P = 1: identical layers).
        repeats: how often the pattern occurs, at least 1; the model has P x repeats layers besides the prologue.
        server_of_stage: server of each of the K stages, any integers; equal integers share a server.
        release_ms: (..., M) time at which each micro-batch may start; zero by default.
        prologue_ms: (..., k, M) or (..., k, 1) times of leading layers that run on the server of stage 0 alone.

    Returns:
        (...) completion time of the last micro-batch, exact to rounding.

    Raises:
        ValueError: a shape that does not fit, or ``repeats`` below 1.
    """
    stage = np.asarray(stage_ms, dtype=np.float64)
    if stage.ndim < 3 or stage.shape[-1] != len(server_of_stage) or 0 in stage.shape[-3:]:
        raise ValueError(f"stage_ms {stage.shape} is not (..., layers, micro-batches, {len(server_of_stage)} stages)")
    if repeats < 1:
        raise ValueError(f"repeats ({repeats}) must be at least 1")
    pattern_layers, microbatches, stages = stage.shape[-3:]
    servers = [sorted(set(server_of_stage)).index(server) for server in server_of_stage]

    release = np.zeros(microbatches) if release_ms is None else np.asarray(release_ms, dtype=np.float64)
    prologue = np.zeros((0, 1)) if prologue_ms is None else np.asarray(prologue_ms, dtype=np.float64)
    leading = np.broadcast_shapes(stage.shape[:-3], release.shape[:-1], prologue.shape[:-2])
    size = int(np.prod(leading, dtype=np.int64))

    # Element axis last, so that every job is one contiguous vector.
    stage = _elements_last(stage, leading, (pattern_layers, microbatches, stages))
    release = _elements_last(release, leading, (microbatches,))
    prologue = _elements_last(prologue, leading, (prologue.shape[-2], microbatches))

    step = np.empty(size)
    for start in range(0, size, _BLOCK):
        block = slice(start, min(start + _BLOCK, size))
        state = np.zeros((microbatches + max(servers) + 1, block.stop - block.start))
        state[:microbatches] = release[:, block]
        for layer in prologue[..., block]:
            _pass_stage(state, layer, microbatches, servers[0])
        step[block] = _repeat_pattern(state, np.ascontiguousarray(stage[..., block]), repeats, servers)
    return step.reshape(leading)


def _elements_last(values: FloatArray, leading: tuple[int, ...], trailing: tuple[int, ...]) -> FloatArray:
    """Broadcast to ``leading + trailing`` and return it as ``trailing + (elements,)``."""
    size = int(np.prod(leading, dtype=np.int64))
    return np.moveaxis(np.broadcast_to(values, leading + trailing).reshape((size, *trailing)), 0, -1)


def _pass_stage(state: FloatArray, job_ms: FloatArray, microbatches: int, server: int) -> None:
    """Pass every micro-batch through one stage, in place: rows of ``state`` are micro-batches, then servers."""
    server_free = state[microbatches + server]
    before = server_free
    for j in range(microbatches):
        ready = state[j]
        np.maximum(ready, before, out=ready)
        ready += job_ms[j]
        before = ready
    server_free[:] = before


def _repeat_pattern(state: FloatArray, stage: FloatArray, repeats: int, servers: list[int]) -> FloatArray:
    """Run the pattern ``repeats`` times from ``state`` (micro-batches and servers, n); stage is (P, M, K, n)."""
    microbatches = stage.shape[1]
    # The last micro-batch is the last job of the last stage's server, hence the last to complete.
    last = microbatches - 1
    step = np.empty(state.shape[-1])
    active = np.arange(state.shape[-1])
    history: list[FloatArray] = [state]
    check_at = 2
    for done in range(1, repeats + 1):
        state = history[-1].copy()
        for layer in stage:
            for k, server in enumerate(servers):
                _pass_stage(state, layer[:, k], microbatches, server)
        history = [*history[-_LONGEST_CYCLE:], state]
        if done < check_at or done == repeats:
            continue
        # Checks cost about as much as a layer: they thin out as the run gets longer.
        check_at = done + 1 + done // 4
        pending = np.ones(active.size, dtype=bool)
        for cycle in range(1, min(_LONGEST_CYCLE, done) + 1):
            growth = state - history[-1 - cycle]
            steady = growth.max(axis=0) - growth.min(axis=0) <= _PERIODIC_TOLERANCE * state[last]
            steady &= pending
            if steady.any():
                cycles, rest = divmod(repeats - done + cycle, cycle)
                value = history[-1 - cycle + rest][last] + cycles * growth[last]
                step[active[steady]] = value[steady]
                pending &= ~steady
            if not pending.any():
                return step
        if 2 * np.count_nonzero(pending) <= pending.size:
            active = active[pending]
            stage = stage[..., pending]
            history = [past[:, pending] for past in history]
    step[active] = history[-1][last]
    return step
