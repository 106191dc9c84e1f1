"""Where the time of a step goes: milliseconds by operator.

Entries are the serial times of all layers, micro-batches and pipeline stages. `overlap` is what running some of them
side by side saves (negative; absent where nothing overlaps), so that the entries of a breakdown always add up to the
step that `Worker` and `AfdUnit` state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from planner.costs.afd import AfdUnit
from planner.costs.engines import EngineTraits
from planner.costs.lengths import Lengths
from planner.costs.linear import FloatArray
from planner.costs.sides import AttentionSide
from planner.costs.worker import Worker, per_part


@dataclass(frozen=True)
class _Load:
    """What one micro-batch brings: tokens and sequences on one rank, prompts' attention per layer group."""

    tokens: float
    all_tokens: float
    sequences: float
    prompts: float
    prefill_core_ms: list[FloatArray] | None


def decode_breakdown(worker: Worker, in_flight: float, slots: float | None = None) -> dict[str, float]:
    """A decode step of a worker, ms by operator.

    Args:
        worker: the worker.
        in_flight: mean requests in flight on the replica.
        slots: slots of the replica; `in_flight` itself where None.
    """
    parts, queries = worker.layout.parts, worker.site.queries
    sequences = _sequences(in_flight, slots, parts)
    everything = max(in_flight * worker.layout.dp / parts, 1.0)
    load = _Load(sequences * queries, everything * queries, sequences, 0.0, None)
    step = float(worker.decode_step_ms(in_flight, slots))
    return _close(_stage(worker, load, everything, sequences * queries, low_latency=True), worker.layout.pp, step)


def mixed_breakdown(worker: Worker, in_flight: float, slots: float | None, chunks: int) -> dict[str, float]:
    """A step in which every DP rank also computes one of `chunks` chunks of a prompt, ms by operator.

    Args:
        worker: the worker.
        in_flight: mean requests in flight on the replica.
        slots: slots of the replica; `in_flight` itself where None.
        chunks: equal chunks of one prompt.
    """
    parts, queries, batches = worker.layout.parts, worker.site.queries, _batches(worker)
    sequences = _sequences(in_flight, slots, parts)
    everything = max(in_flight * worker.layout.dp / parts, 1.0)
    size = worker.site.lengths.input / chunks / batches
    core = worker.attention.prefill_core_ms(worker.site.lengths, chunks)
    load = _Load(
        sequences * queries + size, everything * queries + size * worker.layout.dp, sequences, 1.0 / batches, core
    )
    step = float(worker.mixed_step_ms(in_flight, slots, chunks))
    positions = sequences * queries + 1.0 / batches
    return _close(_stage(worker, load, everything, positions, low_latency=False), worker.layout.pp, step)


def prefill_breakdown(worker: Worker, prompts: float, chunks: int) -> dict[str, float]:
    """A prefill of `prompts` prompts in `chunks` chunks each, ms by operator.

    Args:
        worker: the worker.
        prompts: prompts on the replica that start together.
        chunks: equal chunks of each prompt.
    """
    layout, batches = worker.layout, _batches(worker)
    on_rank = float(np.ceil(prompts / layout.dp))
    size = worker.site.lengths.input / chunks
    core = worker.attention.prefill_core_ms(worker.site.lengths, chunks)
    load = _Load(on_rank * size / batches, prompts * size / batches, 0.0, on_rank / batches, core)
    parts = _stage(worker, load, 0.0, on_rank / batches, low_latency=False)
    parts = {name: ms * (chunks + layout.pp - 1) for name, ms in parts.items()}
    if worker.site.has_prefix and worker.site.workload.prefix_tier == "host":
        parts["prefix_load"] = float(worker.prefix_load_ms(on_rank))
    return _close(parts, 1, float(worker.prefill_ms(prompts, chunks)))


def afd_breakdown(
    unit: AfdUnit, in_flight: float, replicas: int, microbatches: int, slots: float | None = None
) -> dict[str, float]:
    """A decode step of an AFD unit, ms by operator.

    Args:
        unit: the unit.
        in_flight: mean requests in flight on one attention replica.
        replicas: attention replicas of the unit.
        microbatches: micro-batches in flight.
        slots: slots of one attention replica; `in_flight` itself where None.
    """
    site, attention = unit.attention_site, unit.attention
    sequences = _sequences(in_flight, slots, microbatches)
    tokens = sequences * site.queries
    stages = unit.stage_ms(tokens, sequences, replicas)
    parts: dict[str, float] = defaultdict(float)
    for index, group in enumerate(site.model.layers):
        per_step = group.count * microbatches
        _add(
            parts, _attention_parts(attention, site.lengths, index, _Load(tokens, 0.0, sequences, 0.0, None)), per_step
        )
        _add(parts, dict(zip(("a2f", "experts", "f2a"), map(float, stages[index][1:]), strict=True)), per_step)
    _add(parts, _once(attention, site.engine, tokens * microbatches))
    parts["draft"] = float(unit.draft_ms(np.asarray(sequences), replicas, microbatches))
    return _close(parts, 1, float(unit.decode_step_ms(in_flight, replicas, microbatches, slots)))


def _sequences(in_flight: float, slots: float | None, parts: int) -> float:
    taken = np.asarray(in_flight, dtype=float)
    return float(per_part(taken, taken if slots is None else np.asarray(slots, dtype=float), parts))


def _batches(worker: Worker) -> int:
    return 2 if worker.layout.overlap else 1


def _stage(worker: Worker, load: _Load, decoding: float, positions: float, *, low_latency: bool) -> dict[str, float]:
    """One pipeline stage: all its layers for its micro-batches, and what it does once.

    Args:
        worker: the worker.
        load: of one micro-batch.
        decoding: sequences of one micro-batch over all DP ranks.
        positions: sampled positions of one micro-batch on one DP rank.
        low_latency: decode-style exchange.
    """
    batches, model = _batches(worker), worker.site.model
    share = -(-model.layer_count // worker.layout.pp) / model.layer_count
    parts: dict[str, float] = defaultdict(float)
    for index, group in enumerate(model.layers):
        dispatch, combine = worker.exchanges(index, low_latency=low_latency)
        layer = _attention_parts(worker.attention, worker.site.lengths, index, load)
        layer["dispatch"] = float(dispatch(load.tokens))
        layer["experts"] = float(worker.experts.expert_time(index)(load.all_tokens))
        layer["combine"] = float(combine(load.tokens))
        _add(parts, layer, group.count * batches * share)
    _add(parts, _once(worker.attention, worker.site.engine, positions * batches))
    if load.sequences:
        parts["draft"] = float(worker.draft_ms(np.asarray(load.sequences * batches), np.asarray(decoding * batches)))
    parts["pipeline_hop"] = float(worker.hop_ms(np.asarray(load.tokens)))
    return parts


def _attention_parts(attention: AttentionSide, lengths: Lengths, index: int, load: _Load) -> dict[str, float]:
    parts = {name: float(time(load.tokens)) for name, time in attention.token_parts(index).items()}
    if load.sequences:
        core = attention.decode_core(index, lengths.first_context, lengths.last_context)
        parts["decode_attention"] = float(core(load.sequences))
    if load.prefill_core_ms is not None:
        parts["prefill_attention"] = float(load.prefill_core_ms[index]) * load.prompts
    return parts


def _once(attention: AttentionSide, engine: EngineTraits, positions: float) -> dict[str, float]:
    parts = {name: float(time(positions)) for name, time in attention.head_parts().items()}
    return {**parts, "engine": float(engine.step_ms(positions))}


def _add(parts: dict[str, float], more: Mapping[str, float], times: float = 1.0) -> None:
    for name, ms in more.items():
        parts[name] += ms * times


def _close(parts: Mapping[str, float], times: int, step_ms: float) -> dict[str, float]:
    """Drop what takes no time, and account for what ran side by side."""
    found = {name: ms * times for name, ms in parts.items() if ms > 0.0}
    saved = step_ms - sum(found.values())
    if abs(saved) > 1e-9 * step_ms:
        found["overlap"] = saved
    return found
