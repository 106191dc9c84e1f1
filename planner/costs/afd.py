"""Step and memory of an AFD unit: attention replicas in lockstep with one FFN replica.

Per layer a micro-batch passes four stages on four servers: attention, A2F (activations to the experts), FFN, F2A
(results back). Links are full duplex, so that A2F and F2A do not share a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from planner.costs.layout import AfdLayout
from planner.costs.linear import FloatArray, PiecewiseLinear, total
from planner.costs.memory import Reservation, reserve
from planner.costs.pattern import LayerPattern
from planner.costs.pipeline import identical_layers_ms
from planner.costs.routing import distinct_domains, distinct_ranks
from planner.costs.sides import ACTIVATION_BYTES, AttentionSide, ExpertSide, draft_group
from planner.costs.site import Site
from planner.costs.worker import dispatch_bytes, per_part
from specs.model import MoeFfn

SERVERS = (0, 1, 2, 3)
"""Attention, A2F, FFN and F2A run side by side."""


@dataclass(frozen=True)
class Crossing:
    """Bytes that one token sends across between attention and FFN, in one direction.

    Args:
        scale_out: copies that pass an attention GPU's and an FFN GPU's scale-out link.
        scale_up: copies that an FFN GPU's scale-up link carries (all of them inside a domain; forwarding otherwise).
    """

    scale_out: float
    scale_up: float


@dataclass(frozen=True, eq=False)
class AfdUnit:
    """AFD units that differ only in their attention replicas and micro-batches, which the methods take as arrays.

    Args:
        attention_site: the service on the attention pool.
        ffn_site: the service on the FFN pool (the same object where both are one pool).
        tp: tensor-parallel ranks of an attention replica.
        ep: expert-parallel ranks of the FFN replica.
        moe_tp: ranks that share each expert.
        expert_slots: expert slots over all EP ranks.
        scale_up: whether each unit lies in one scale-up domain.
        fused: whether one kernel on the FFN GPUs receives, computes and returns tile by tile (FastAFD on DeepGEMM's
            MegaMoE); inside a scale-up domain only.
    """

    attention_site: Site
    ffn_site: Site
    tp: int
    ep: int
    moe_tp: int
    expert_slots: int
    scale_up: bool
    fused: bool = False

    def __post_init__(self) -> None:
        if self.fused and not self.scale_up:
            raise ValueError("a kernel that receives, computes and returns needs one scale-up domain")

    @staticmethod
    def of(attention_site: Site, ffn_site: Site, layout: AfdLayout) -> AfdUnit:
        """The unit family of a layout."""
        return AfdUnit(
            attention_site,
            ffn_site,
            layout.tp,
            layout.ep,
            layout.moe_tp,
            layout.expert_slots,
            layout.scale_up,
        )

    def layout(self, attention_replicas: int, microbatches: int) -> AfdLayout:
        """The layout with given numbers of attention replicas and micro-batches."""
        return AfdLayout(
            self.tp, attention_replicas, self.ep, self.moe_tp, self.expert_slots, microbatches, self.scale_up
        )

    @property
    def ffn_gpus(self) -> int:
        """GPUs of the FFN replica."""
        return self.ep * self.moe_tp

    @cached_property
    def attention(self) -> AttentionSide:
        """The attention side of one replica."""
        return self.attention_site.attention(self.tp)

    @cached_property
    def experts(self) -> ExpertSide:
        """The experts of the FFN replica."""
        return self.ffn_site.experts(self.ep, self.moe_tp, self.expert_slots)

    @cached_property
    def pattern(self) -> LayerPattern:
        """Order of the layer groups."""
        return LayerPattern.of(self.attention_site.model)

    # -- stages --------------------------------------------------------------------------------------------------

    @cached_property
    def crossing(self) -> Crossing:
        """Copies of one token between the sides, the same in both directions.

        Inside a domain every distinct FFN rank gets its copy and returns its partial sum; the `moe_tp` shards of an
        expert each need one. Across domains a token crosses once per distinct FFN domain, striped over that domain's
        links; inside it is forwarded to the ranks and the partial sums are reduced before they return.
        """
        moe = self.attention_site.moe
        if moe is None:
            raise ValueError(f"{self.attention_site.model.id} has no experts to disaggregate")
        routing = {
            "groups": moe.groups,
            "groups_per_token": moe.groups_per_token,
            "slots": self.expert_slots,
        }
        reached = distinct_ranks(moe.experts, moe.experts_per_token, self.ep, **routing) * self.moe_tp
        if self.scale_up:
            return Crossing(0.0, reached)
        domain = self.ffn_site.fabric.domain
        ranks_per_domain = max(1, domain // self.moe_tp)
        entered = distinct_domains(moe.experts, moe.experts_per_token, self.ep, ranks_per_domain, **routing)
        entered *= max(1, -(-self.moe_tp // domain))  # the shards of one expert may fill several domains
        return Crossing(entered, max(reached - entered, 0.0))

    def crossing_ms(
        self,
        tokens: FloatArray,
        replicas: FloatArray,
        bytes_per_copy: float,
        all_tokens: FloatArray | None = None,
    ) -> FloatArray:
        """Time of one direction of a layer's exchange, ms.

        The busiest link sets it: an attention GPU carries its replica's tokens / tp times the copies, an FFN GPU the
        tokens of all replicas times the copies / FFN GPUs.

        Args:
            tokens: tokens of one micro-batch on one attention replica.
            replicas: attention replicas of the unit.
            bytes_per_copy: bytes of one copy.
            all_tokens: tokens of all replicas together; replicas x tokens where None.
        """
        fixed_us = self.attention_site.fabric.setup_us + self._hop_us
        return np.asarray(fixed_us * 1e-3 + self._transfer_ms(tokens, replicas, bytes_per_copy, all_tokens))

    @property
    def _hop_us(self) -> float:
        near, far = self.attention_site.fabric, self.ffn_site.fabric
        return near.scale_up_latency_us if self.scale_up else max(near.scale_out_latency_us, far.scale_out_latency_us)

    def _transfer_ms(
        self, tokens: FloatArray, replicas: FloatArray, bytes_per_copy: float, all_tokens: FloatArray | None
    ) -> FloatArray:
        """`crossing_ms` without launch and hop: issue of the messages, and bytes over the busiest link."""
        near, far = self.attention_site.fabric, self.ffn_site.fabric
        crossing = self.crossing
        on_attention = tokens / self.tp
        on_ffn = (tokens * replicas if all_tokens is None else all_tokens) / self.ffn_gpus
        issue = near.issue_us * np.maximum(replicas * self.tp, self.ffn_gpus)
        if self.scale_up:
            rate = near.scale_up_bytes_per_ms
            moved = crossing.scale_up * np.maximum(on_attention, on_ffn) * bytes_per_copy / rate
        else:
            rate = min(near.scale_out_bytes_per_ms, far.scale_out_bytes_per_ms)
            moved = crossing.scale_out * np.maximum(on_attention, on_ffn) * bytes_per_copy / rate
            forwarded = crossing.scale_up * on_ffn * bytes_per_copy / far.scale_up_bytes_per_ms
            moved = np.maximum(moved, forwarded)
        return np.asarray(issue * 1e-3 + moved)

    @cached_property
    def _token_times(self) -> list[PiecewiseLinear]:
        return [self.attention.token_time(index) for index in range(len(self.attention_site.model.layers))]

    @cached_property
    def _expert_times(self) -> list[PiecewiseLinear]:
        return [self.experts.expert_time(index) for index in range(len(self.attention_site.model.layers))]

    @cached_property
    def _decode_cores(self) -> list[PiecewiseLinear]:
        lengths = self.attention_site.lengths
        return [
            self.attention.decode_core(index, lengths.first_context, lengths.last_context)
            for index in range(len(self.attention_site.model.layers))
        ]

    @cached_property
    def _once(self) -> PiecewiseLinear:
        engine = self.attention_site.engine.step_ms
        return total([*self.attention.head_parts().values(), engine])

    def stage_ms(
        self,
        tokens: ArrayLike,
        sequences: ArrayLike,
        replicas: ArrayLike,
        prefill_core_ms: list[FloatArray] | None = None,
        all_tokens: ArrayLike | None = None,
    ) -> list[FloatArray]:
        """Stage times of one micro-batch, per layer group, shape (..., 4) in ms.

        Args:
            tokens: tokens of one micro-batch on one attention replica, any shape.
            sequences: decoding sequences among them, same shape.
            replicas: attention replicas of the unit, same shape or scalar.
            prefill_core_ms: attention core of the micro-batch's prompt chunk, per layer group.
            all_tokens: tokens of one micro-batch on all replicas together; replicas x tokens where None.
        """
        tokens, sequences, replicas = np.broadcast_arrays(
            np.asarray(tokens, dtype=float), np.asarray(sequences, dtype=float), np.asarray(replicas, dtype=float)
        )
        together = tokens * replicas if all_tokens is None else np.asarray(all_tokens, dtype=float)
        model, precision = self.attention_site.model, self.attention_site.service.precision
        result = []
        for index, group in enumerate(model.layers):
            compute = self._token_times[index](tokens) + self._decode_cores[index](sequences)
            if prefill_core_ms is not None:
                compute = compute + prefill_core_ms[index]
            stages = np.zeros((*tokens.shape, 4))
            stages[..., 0] = compute
            if isinstance(group.ffn, MoeFfn):
                width = group.ffn.expert_hidden or model.hidden
                out, back = dispatch_bytes(width, precision), width * ACTIVATION_BYTES
                experts = self._expert_times[index](together)
                if self.fused:
                    # Receiving, products and returning share the kernel; only a hop either way stands outside.
                    for size in (out, back):
                        experts = np.maximum(experts, self._transfer_ms(tokens, replicas, size, together))
                    stages[..., 2] = experts + 2.0 * self._hop_us * 1e-3
                else:
                    stages[..., 1] = self.crossing_ms(tokens, replicas, out, together)
                    stages[..., 2] = experts
                    stages[..., 3] = self.crossing_ms(tokens, replicas, back, together)
            result.append(stages)
        return result

    # -- steps ---------------------------------------------------------------------------------------------------

    def decode_step_ms(
        self, in_flight: ArrayLike, replicas: ArrayLike, microbatches: ArrayLike, slots: ArrayLike | None = None
    ) -> FloatArray:
        """One step in which every sequence of the unit gets a token, ms.

        Args:
            in_flight: mean requests in flight on one attention replica, any shape.
            replicas: attention replicas of the unit, same shape or scalar.
            microbatches: micro-batches in flight, same shape or scalar.
            slots: slots of one attention replica; `in_flight` itself where None.
        """
        in_flight, count = np.asarray(in_flight, dtype=float), np.asarray(microbatches)
        slots = in_flight if slots is None else np.asarray(slots, dtype=float)
        sequences = per_part(in_flight, slots, count)
        queries = self.attention_site.queries
        stages = self.stage_ms(sequences * queries, sequences, replicas)
        layers = self.pattern.time_ms(stages, count, SERVERS)
        return layers + self.draft_ms(sequences, replicas, count) + self._once(sequences * queries * count)

    def draft_ms(self, sequences: FloatArray, replicas: ArrayLike, microbatches: ArrayLike) -> FloatArray:
        """Drafting by a multi-token-prediction module: per draft token one more layer, and the head."""
        drafts = self.attention_site.queries - 1
        if not drafts or not self.attention_site.model.draft_params:
            return np.zeros(sequences.shape)
        stages = self.stage_ms(sequences, sequences, replicas)[draft_group(self.attention_site.model)]
        head = total(self.attention.head_parts().values())(sequences * np.asarray(microbatches))
        return np.asarray(drafts * (identical_layers_ms(stages, 1, microbatches) + head))

    def mixed_step_ms(
        self,
        in_flight: ArrayLike,
        replicas: ArrayLike,
        microbatches: ArrayLike,
        slots: ArrayLike | None,
        chunks: ArrayLike,
        *,
        one_lane: bool = False,
    ) -> FloatArray:
        """One step in which attention replicas also compute one of `chunks` equal chunks of a prompt, ms.

        Arguments as in `decode_step_ms`; `chunks` is a scalar or has the same shape. `one_lane`: a single replica has
        a chunk; otherwise every one has its own.
        """
        in_flight, count = np.asarray(in_flight, dtype=float), np.asarray(microbatches)
        slots = in_flight if slots is None else np.asarray(slots, dtype=float)
        sequences = per_part(in_flight, slots, count)
        queries = self.attention_site.queries
        size = self.attention_site.lengths.input / np.asarray(chunks) / count
        tokens = sequences * queries + size
        together = sequences * queries * np.asarray(replicas) + size if one_lane else None
        whole = self.attention.prefill_core_ms(self.attention_site.lengths, chunks)
        core = [ms / count for ms in whole]
        stages = self.stage_ms(tokens, sequences, replicas, core, together)
        layers = self.pattern.time_ms(stages, count, SERVERS)
        return layers + self.draft_ms(sequences, replicas, count) + self._once(sequences * queries * count + 1.0)

    # -- memory --------------------------------------------------------------------------------------------------

    @cached_property
    def attention_weight_bytes(self) -> float:
        """Weights on one attention GPU."""
        return self.attention.weight_bytes()

    @cached_property
    def ffn_weight_bytes(self) -> float:
        """Weights on one FFN GPU."""
        return self.experts.weight_bytes()

    def reservation(self) -> Reservation:
        """Memory that requests take on one attention GPU."""
        return reserve(self.attention_site, self.tp, 1, decode=True)

    def largest_slots(self, tokens: float) -> int:
        """Most requests that one attention replica's memory holds; 0 where not even one fits.

        Args:
            tokens: tokens of the largest step on one attention replica.
        """
        site = self.attention_site
        activations = self.attention.activation_bytes(tokens)
        return self.reservation().largest(site.memory_bytes - self.attention_weight_bytes - activations)

    def ffn_activation_bytes(self, tokens: ArrayLike) -> FloatArray:
        """Buffers on one FFN GPU for `tokens` tokens of the unit's largest step."""
        moe = self.attention_site.moe
        assert moe is not None  # `crossing` has refused dense models
        width = moe.expert_hidden or self.attention_site.model.hidden
        pairs = np.asarray(tokens, dtype=float) * moe.experts_per_token / self.ep
        return np.asarray(pairs * (width * 3.0 + moe.intermediate / self.moe_tp * 3.0))

    def ffn_fits(self, tokens: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Whether the FFN GPUs hold their experts and the buffers for `tokens` tokens of the unit's largest step."""
        needed = self.ffn_weight_bytes + self.ffn_activation_bytes(tokens)
        return np.asarray(needed <= self.ffn_site.memory_bytes)
