"""Step, prefill and memory of one colocated worker: roles mixed, prefill and decode."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from planner.costs.analytic import SIXTEEN_BIT_INPUT
from planner.costs.exchange_laws import Phase
from planner.costs.layout import Layout
from planner.costs.linear import FloatArray, PiecewiseLinear, constant, total
from planner.costs.memory import Reservation, reserve
from planner.costs.pattern import LayerPattern
from planner.costs.routing import Collective, Copies, distinct_ranks, remote_copies
from planner.costs.sides import ACTIVATION_BYTES, AttentionSide, ExpertSide, draft_group
from planner.costs.site import Site
from specs.model import BYTES_PER_ELEMENT, MoeFfn, Precision

EXCHANGE_CORE_SHARE = 20.0 / 132.0
"""Share of the GPU's cores that throughput-oriented exchange kernels take from what they overlap with: DeepEP's normal
mode runs on 20 to 24 of 132 SMs; its low-latency mode and one-sided copies take none."""

OVERLAP_SERVERS = (0, 1, 0, 1)
"""Two-batch overlap: attention and experts share the GPU's cores, dispatch and combine its links."""


def dispatch_bytes(hidden: int, precision: Precision) -> float:
    """Bytes of one dispatched token: FP8 with an FP32 scale for every 128 elements, BF16 for BF16 products."""
    if precision in SIXTEEN_BIT_INPUT:
        return hidden * BYTES_PER_ELEMENT[Precision.BF16]
    return hidden * (1.0 + 4.0 / 128.0)


def per_part(in_flight: FloatArray, slots: FloatArray, parts: ArrayLike) -> FloatArray:
    """Mean load of the fullest of `parts` equal parts when `in_flight` of `slots` slots are taken.

    Slots are dealt out evenly, so the fullest part has ceil(slots / parts) of them; a part that runs has one request
    at least.
    """
    fullest = np.ceil(slots / np.asarray(parts, dtype=float))
    return np.asarray(np.maximum(in_flight * fullest / slots, 1.0))


@dataclass(frozen=True, eq=False)
class Worker:
    """A worker of one layout on a site. Batches are requests in flight over the whole replica.

    Args:
        site: the service on the pool.
        layout: parallel degrees.
    """

    site: Site
    layout: Layout

    @cached_property
    def attention(self) -> AttentionSide:
        """The attention side on one DP rank."""
        return self.site.attention(self.layout.tp)

    @cached_property
    def experts(self) -> ExpertSide:
        """The routed experts over the replica."""
        return self.site.experts(self.layout.ep, self.layout.moe_tp, self.layout.expert_slots)

    @cached_property
    def pattern(self) -> LayerPattern:
        """Order of the layer groups."""
        return LayerPattern.of(self.site.model)

    # -- operators -----------------------------------------------------------------------------------------------

    def exchange(self, group: int, *, low_latency: bool) -> tuple[PiecewiseLinear, PiecewiseLinear]:
        """Dispatch and combine of one layer of `group`: ms over tokens of one DP rank.

        Without attention data parallelism all ranks hold all tokens: experts are computed where they are and an
        all-reduce adds them up, the shared experts' where there are any (`AttentionSide.token_parts`). Otherwise the
        TP ranks of a DP rank each send their share of its tokens.
        """
        layout, model = self.layout, self.site.model
        ffn = model.layers[group].ffn
        if not isinstance(ffn, MoeFfn) or layout.tp * layout.dp == 1:
            return constant(0.0), constant(0.0)
        width = ffn.expert_hidden or model.hidden
        if layout.dp == 1:
            if ffn.shared_intermediate:
                return constant(0.0), constant(0.0)
            return constant(0.0), self.site.fabric.all_reduce(layout.tp, width * ACTIVATION_BYTES)
        ranks = layout.ep * layout.moe_tp
        copies = self.copies(ffn, low_latency=low_latency)
        share = 1.0 / layout.tp
        size, kernels = dispatch_bytes(width, self.site.service.precision), self.collective(low_latency=low_latency)
        out = self.site.fabric.exchange(copies, size, peers=ranks - 1, collective=kernels)
        back = self.site.fabric.exchange(
            copies, width * ACTIVATION_BYTES, peers=ranks - 1, collective=kernels, phase=Phase.COMBINE
        )
        return out.scaled(1.0, stretch=share), back.scaled(1.0, stretch=share)

    def collective(self, *, low_latency: bool) -> Collective:
        """Kernels of an exchange: the best there are for the fabric and the phase."""
        if self.layout.ep == 1:
            return Collective.ALL_GATHER
        if self.layout.ep * self.layout.moe_tp <= self.site.fabric.domain:
            return Collective.ONE_SIDED
        return Collective.DEEPEP_LOW_LATENCY if low_latency else Collective.DEEPEP_NORMAL

    def copies(self, ffn: MoeFfn, *, low_latency: bool) -> Copies:
        """Copies of one token that leave its rank in a dispatch, by link; a combine returns as many."""
        layout, moe_tp = self.layout, self.layout.moe_tp
        ranks, domain = layout.ep * moe_tp, self.site.fabric.domain
        if layout.ep == 1:
            # Every rank holds a shard of every expert: all-gather, reduce-scatter.
            near = min(ranks, domain)
            return Copies(scale_up=near - 1.0, scale_out=float(ranks - near))
        if moe_tp > domain:
            raise ValueError(f"{moe_tp} shards of an expert do not fit a scale-up domain of {domain} GPUs")
        collective = self.collective(low_latency=low_latency)
        copies = remote_copies(
            collective,
            ffn.experts,
            ffn.experts_per_token,
            layout.ep,
            domain // moe_tp,
            groups=ffn.groups,
            groups_per_token=ffn.groups_per_token,
            slots=layout.expert_slots,
        )
        if moe_tp == 1:
            return copies
        # Every shard of an expert needs the token: copies inside a domain go to all `moe_tp` of them, also those of the
        # sender's own EP rank. Normal mode enters a domain once; low latency sends each shard its copy.
        reached = distinct_ranks(
            ffn.experts,
            ffn.experts_per_token,
            layout.ep,
            groups=ffn.groups,
            groups_per_token=ffn.groups_per_token,
            slots=layout.expert_slots,
        )
        own = reached / layout.ep * (moe_tp - 1)
        each = moe_tp if collective is Collective.DEEPEP_LOW_LATENCY else 1
        return Copies(copies.scale_up * moe_tp + own, copies.scale_out * each)

    @cached_property
    def once_parts(self) -> dict[str, PiecewiseLinear]:
        """What a step does once, ms over sampled positions of one DP rank, by name."""
        parts = self.attention.head_parts()
        parts["engine"] = self.site.engine.step_ms
        return parts

    @cached_property
    def _once(self) -> PiecewiseLinear:
        return total(self.once_parts.values())

    @cached_property
    def _token_times(self) -> list[PiecewiseLinear]:
        return [self.attention.token_time(index) for index in range(len(self.site.model.layers))]

    @cached_property
    def _expert_times(self) -> list[PiecewiseLinear]:
        return [self.experts.expert_time(index) for index in range(len(self.site.model.layers))]

    @cached_property
    def _decode_cores(self) -> list[PiecewiseLinear]:
        lengths = self.site.lengths
        return [
            self.attention.decode_core(index, lengths.first_context, lengths.last_context)
            for index in range(len(self.site.model.layers))
        ]

    # Without overlap a step is a plain sum, so that the layers' functions are added up once.

    def _serial(self, *, low_latency: bool) -> PiecewiseLinear:
        if low_latency not in self._serial_cache:
            parts = []
            for index, group in enumerate(self.site.model.layers):
                for part in (self._token_times[index], *self.exchanges(index, low_latency=low_latency)):
                    parts.append(part.scaled(float(group.count)))
            self._serial_cache[low_latency] = total(parts)
        return self._serial_cache[low_latency]

    @cached_property
    def _serial_cache(self) -> dict[bool, PiecewiseLinear]:
        return {}

    @cached_property
    def _all_experts(self) -> PiecewiseLinear:
        groups = self.site.model.layers
        return total(part.scaled(float(group.count)) for part, group in zip(self._expert_times, groups, strict=True))

    @cached_property
    def _all_cores(self) -> PiecewiseLinear:
        groups = self.site.model.layers
        return total(part.scaled(float(group.count)) for part, group in zip(self._decode_cores, groups, strict=True))

    # -- steps ---------------------------------------------------------------------------------------------------

    def _layers_ms(
        self,
        tokens: FloatArray,
        all_tokens: FloatArray,
        sequences: FloatArray | None,
        prefill_core_ms: list[FloatArray] | None,
        prompts: FloatArray | float,
        *,
        low_latency: bool,
    ) -> FloatArray:
        """Time of all layers of one pipeline stage for one micro-batch, or for two overlapped ones.

        Args:
            tokens: tokens of one micro-batch on one DP rank.
            all_tokens: tokens of one micro-batch over all DP ranks.
            sequences: decoding sequences of one micro-batch on one DP rank, or None.
            prefill_core_ms: attention core of one prompt chunk, per layer group, or None.
            prompts: prompt chunks of one micro-batch on one DP rank.
            low_latency: decode-style exchange.
        """
        groups = self.site.model.layers
        share = -(-self.site.model.layer_count // self.layout.pp) / self.site.model.layer_count
        if not self.layout.overlap:
            time = self._serial(low_latency=low_latency)(tokens) + self._all_experts(all_tokens)
            if sequences is not None:
                time = time + self._all_cores(sequences)
            if prefill_core_ms is not None:
                cores = sum(group.count * core for group, core in zip(groups, prefill_core_ms, strict=True))
                time = time + cores * np.asarray(prompts)
            return np.asarray(time * share)
        stages: list[list[FloatArray]] = []
        for index in range(len(groups)):
            compute = self._token_times[index](tokens)
            if prefill_core_ms is not None:
                compute = compute + prefill_core_ms[index] * np.asarray(prompts)
            if sequences is not None:
                compute = compute + self._decode_cores[index](sequences)
            dispatch, combine = self.exchanges(index, low_latency=low_latency)
            stages.append([compute, dispatch(tokens), self._expert_times[index](all_tokens), combine(tokens)])
        shape = np.broadcast_shapes(*(part.shape for parts in stages for part in parts))
        if not low_latency:
            slower = 1.0 / (1.0 - EXCHANGE_CORE_SHARE)
            stages = [[part * (slower if k in (0, 2) else 1.0) for k, part in enumerate(parts)] for parts in stages]
        stacked = [np.stack([np.broadcast_to(part, shape) for part in parts], axis=-1) for parts in stages]
        return self.pattern.time_ms(stacked, microbatches=2, servers=OVERLAP_SERVERS) * share

    def exchanges(self, index: int, *, low_latency: bool) -> tuple[PiecewiseLinear, PiecewiseLinear]:
        """`exchange`, computed once."""
        key = (index, low_latency)
        if key not in self._exchange_cache:
            self._exchange_cache[key] = self.exchange(index, low_latency=low_latency)
        return self._exchange_cache[key]

    @cached_property
    def _exchange_cache(self) -> dict[tuple[int, bool], tuple[PiecewiseLinear, PiecewiseLinear]]:
        return {}

    def draft_ms(self, sequences: FloatArray, everything: FloatArray) -> FloatArray:
        """Drafting by a multi-token-prediction module: per draft token one more layer, and the head.

        Drafts of a model without such a module come from elsewhere and are not priced.

        Args:
            sequences: sequences on one DP rank.
            everything: sequences over all DP ranks.
        """
        drafts = self.site.queries - 1
        if not drafts or not self.site.model.draft_params:
            return np.zeros(sequences.shape)
        index = draft_group(self.site.model)
        dispatch, combine = self.exchanges(index, low_latency=True)
        compute = self._token_times[index](sequences) + self._decode_cores[index](sequences)
        exchange = dispatch(sequences) + combine(sequences)
        head = total(self.attention.head_parts().values())(sequences)
        return np.asarray(drafts * (compute + exchange + self._expert_times[index](everything) + head))

    def hop_ms(self, tokens: FloatArray) -> FloatArray | float:
        """Passing `tokens` tokens of a DP rank from one pipeline stage to the next; each TP rank sends its share."""
        if self.layout.pp == 1:
            return 0.0
        fabric = self.site.fabric
        crossing = self.layout.gpus > fabric.domain
        latency_us = fabric.scale_out_latency_us if crossing else fabric.scale_up_latency_us
        rate = fabric.scale_out_bytes_per_ms if crossing else fabric.scale_up_bytes_per_ms
        moved = tokens * self.site.model.hidden * ACTIVATION_BYTES / self.layout.tp
        return (fabric.setup_us + latency_us) * 1e-3 + moved / rate

    def _step_ms(self, layers_ms: FloatArray, positions: FloatArray, tokens: FloatArray) -> FloatArray:
        """A step of `pp` stages: a token's latency through all of them, each as slow as the largest."""
        return self.layout.pp * (layers_ms + self._once(positions) + self.hop_ms(tokens))

    def decode_step_ms(self, in_flight: ArrayLike, slots: ArrayLike | None = None) -> FloatArray:
        """One step with only decoding sequences, ms.

        Args:
            in_flight: mean requests in flight on the replica, any shape.
            slots: slots of the replica (the batch that the engine is configured for), same shape; `in_flight` itself
                where None.

        Returns:
            Step time in ms, same shape.
        """
        in_flight = np.asarray(in_flight, dtype=float)
        slots = in_flight if slots is None else np.asarray(slots, dtype=float)
        parts = self.layout.parts
        sequences = per_part(in_flight, slots, parts)
        queries = self.site.queries
        everything = np.maximum(in_flight * self.layout.dp / parts, 1.0) * queries
        batches = 2 if self.layout.overlap else 1
        layers = self._layers_ms(sequences * queries, everything, sequences, None, 0.0, low_latency=True)
        layers = layers + self.draft_ms(sequences * batches, everything / queries * batches)
        return self._step_ms(layers, sequences * queries * batches, sequences * queries)

    def mixed_step_ms(
        self, in_flight: ArrayLike, slots: ArrayLike | None, chunks: ArrayLike, *, one_lane: bool = False
    ) -> FloatArray:
        """One step in which DP ranks also compute one of `chunks` equal chunks of a prompt, ms.

        Arguments as in `decode_step_ms`; `chunks` is a scalar or has the same shape. `one_lane`: a single rank has a
        chunk, which the others wait for; otherwise every one has its own.
        """
        in_flight = np.asarray(in_flight, dtype=float)
        slots = in_flight if slots is None else np.asarray(slots, dtype=float)
        layout, parts = self.layout, self.layout.parts
        batches = 2 if layout.overlap else 1
        sequences = per_part(in_flight, slots, parts)
        queries = self.site.queries
        size = self.site.lengths.input / np.asarray(chunks)
        tokens = sequences * queries + size / batches
        everything = (
            np.maximum(in_flight * layout.dp / parts, 1.0) * queries + size * (1 if one_lane else layout.dp) / batches
        )
        core = self.attention.prefill_core_ms(self.site.lengths, chunks)
        layers = self._layers_ms(tokens, everything, sequences, core, 1.0 / batches, low_latency=False)
        decoding = np.maximum(in_flight * layout.dp / parts, 1.0) * batches
        layers = layers + self.draft_ms(sequences * batches, decoding)
        return self._step_ms(layers, sequences * queries * batches + 1.0, tokens)

    def prefill_ms(self, prompts: ArrayLike, chunks: ArrayLike) -> FloatArray:
        """Time to prefill `prompts` prompts that start together, each in `chunks` equal chunks.

        Prompts spread evenly over the DP ranks; the fullest rank sets the pace. With pipeline stages the chunks
        follow one another through them.

        Args:
            prompts: prompts on the replica, any shape, >= 1.
            chunks: chunks of each prompt, scalar or the same shape.

        Returns:
            Time in ms from the start to the last prompt's first token, same shape.
        """
        prompts, chunks = np.asarray(prompts, dtype=float), np.asarray(chunks)
        layout = self.layout
        on_rank = np.ceil(prompts / layout.dp)
        size = self.site.lengths.input / chunks
        core = self.attention.prefill_core_ms(self.site.lengths, chunks)
        batches = 2 if layout.overlap else 1
        layers = self._layers_ms(
            on_rank * size / batches, prompts * size / batches, None, core, on_rank / batches, low_latency=False
        )
        stage = self._step_ms(layers, on_rank, on_rank * size) / layout.pp
        return (chunks + layout.pp - 1) * stage + self.prefix_load_ms(on_rank)

    def prefix_load_ms(self, prompts: ArrayLike) -> FloatArray:
        """Time to bring the prefixes of `prompts` prompts of one DP rank from host memory, ms; 0 where in HBM."""
        prompts = np.asarray(prompts, dtype=float)
        if self.site.workload.prefix_tier != "host" or not self.site.has_prefix:
            return np.zeros_like(prompts)
        size = self.attention.kv_bytes(self.site.lengths.prefix, self.layout.pp)
        return prompts * size / self.site.fabric.host_bytes_per_ms

    # -- memory --------------------------------------------------------------------------------------------------

    @cached_property
    def weight_bytes(self) -> float:
        """Weights on one GPU."""
        return self.attention.weight_bytes(self.layout.pp) + self.experts.weight_bytes(self.layout.pp)

    def activation_bytes(self, tokens: float) -> float:
        """Activations and exchange buffers on one GPU for a step of `tokens` tokens on a DP rank."""
        moe = self.site.moe
        buffers = 0.0
        if moe is not None and self.layout.dp > 1:
            width = moe.expert_hidden or self.site.model.hidden
            buffers = tokens * moe.experts_per_token * width * 3.0 / self.layout.tp
        return self.attention.activation_bytes(tokens) + buffers

    def reservation(self, *, decode: bool) -> Reservation:
        """Memory that requests take on one GPU of this worker.

        Args:
            decode: requests stay until their last token; otherwise only until their prompt is computed.
        """
        if decode not in self._reservations:
            self._reservations[decode] = reserve(self.site, self.layout.tp, self.layout.pp, decode=decode)
        return self._reservations[decode]

    @cached_property
    def _reservations(self) -> dict[bool, Reservation]:
        return {}

    def largest_slots(self, tokens: float, *, decode: bool) -> int:
        """Most requests that the replica's memory holds, 0 where not even one fits.

        Args:
            tokens: tokens of the largest step on a DP rank, for activations.
            decode: requests stay until their last token.
        """
        free = self.site.memory_bytes - self.weight_bytes - self.activation_bytes(tokens)
        return self.reservation(decode=decode).largest(free) * self.layout.dp
