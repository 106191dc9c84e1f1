"""Step times of one worker as tables over whole numbers, for the event loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from planner.costs.linear import FloatArray, PiecewiseLinear, total
from planner.costs.worker import Worker


@dataclass(frozen=True, eq=False)
class StepTimes:
    """Step times of a worker without two-batch overlap, whatever its lanes (DP ranks) bring.

    Without overlap a step is a sum of functions of one variable (`planner.costs.worker`), each tabulated here over
    whole numbers.

    With pipeline stages a step is one round of as many micro-batches as there are stages. A lane's sequences are dealt
    out evenly to them; its prompt tokens fill one micro-batch after another, `budget` tokens each. The round is as slow
    as `stages` times its fullest micro-batch.

    Args:
        lanes: DP ranks, which start and end every step together.
        budget: most prompt tokens of one lane in one micro-batch.
        decode_ms: step with only decoding sequences but for its routed experts, by sequences on the fullest lane, shape
            (slots per lane + 1,).
        decode_expert_ms: its routed experts, by sequences over all lanes, shape (lanes * slots per lane + 1,).
        token_ms: operators of a step with prompts that follow the tokens of the fullest lane, shape (most tokens + 1,).
        expert_ms: its routed experts, by tokens over all lanes, shape (lanes * most tokens + 1,).
        core_ms: decode attention and drafting of a step with prompts, by sequences on the fullest lane, shape
            (slots per lane + 1,).
        draft_expert_ms: routed experts of that drafting, by sequences over all lanes, shape of `decode_expert_ms`.
        fixed_ms: head, sampling and engine of a step with prompts, shape of `core_ms`.
        prompt_ms: attention core of one prompt token, mean over a prompt.
        stages: pipeline stages.
        queries: tokens that one sequence brings to a step (1, or 1 + draft tokens).
        tokens_per_step: mean tokens that a step yields for one sequence (1, or the accepted length).
    """

    lanes: int
    budget: int
    decode_ms: FloatArray
    decode_expert_ms: FloatArray
    token_ms: FloatArray
    expert_ms: FloatArray
    core_ms: FloatArray
    draft_expert_ms: FloatArray
    fixed_ms: FloatArray
    prompt_ms: float
    stages: int = 1
    queries: int = 1
    tokens_per_step: float = 1.0

    @staticmethod
    def of(worker: Worker, slots: int, budget: int) -> StepTimes:
        """Tables for up to `slots` requests on the replica and `budget` prompt tokens in a step of one lane.

        Raises:
            ValueError: the layout overlaps two batches, whose step is not such a sum.
        """
        layout, site = worker.layout, worker.site
        if layout.overlap:
            raise ValueError("steps with two-batch overlap are not simulated")
        groups, dp, pp, queries = site.model.layers, layout.dp, layout.pp, site.queries
        per_lane = max(1, math.ceil(slots / dp))
        on_lane = np.arange(per_lane + 1, dtype=float)
        on_all = np.arange(dp * per_lane + 1, dtype=float)
        # Of the fullest micro-batch.
        sequences, together = np.ceil(on_lane / pp), np.maximum(on_all / pp, 1.0)
        tokens = np.arange(budget + math.ceil(per_lane / pp) * queries + 1, dtype=float)
        rounds = pp * -(-site.model.layer_count // pp) / site.model.layer_count

        def layers(parts: list[PiecewiseLinear]) -> PiecewiseLinear:
            return total(part.scaled(group.count * rounds) for part, group in zip(parts, groups, strict=True))

        indices, lengths = range(len(groups)), site.lengths
        per_token = layers(
            [
                total([worker.attention.token_time(index), *worker.exchanges(index, low_latency=False)])
                for index in indices
            ]
        )
        experts = layers([worker.experts.expert_time(index) for index in indices])
        cores = layers(
            [worker.attention.decode_core(index, lengths.first_context, lengths.last_context) for index in indices]
        )
        chunks = max(1, math.ceil(lengths.input / budget))
        core = worker.attention.prefill_core_ms(lengths, np.array(chunks))
        prompt = sum(group.count * float(part) for group, part in zip(groups, core, strict=True)) * rounds
        # Drafting is a function of a lane's sequences plus one of all lanes'.
        none = np.zeros(1)
        draft = pp * worker.draft_ms(sequences, np.zeros_like(sequences))
        draft_experts = pp * (worker.draft_ms(np.zeros_like(together), together) - worker.draft_ms(none, none))
        decode_experts = experts(together * queries) + draft_experts
        full = np.maximum(on_lane, 1.0)
        once = total(worker.once_parts.values())
        return StepTimes(
            lanes=dp,
            budget=budget,
            decode_ms=worker.decode_step_ms(full * dp) - decode_experts[dp * full.astype(int)],
            decode_expert_ms=decode_experts,
            token_ms=per_token(tokens) + pp * worker.hop_ms(tokens),
            expert_ms=experts(np.arange(dp * (tokens.size - 1) + 1)),
            core_ms=np.where(on_lane > 0, cores(sequences) + draft, 0.0),
            draft_expert_ms=np.where(on_all > 0, draft_experts, 0.0),
            fixed_ms=pp * once(sequences * queries + 1.0),
            prompt_ms=prompt * chunks / lengths.input,
            stages=pp,
            queries=queries,
            tokens_per_step=site.tokens_per_step,
        )

    @property
    def round_tokens(self) -> int:
        """Most tokens of one lane in one step."""
        return self.budget * self.stages

    def decode_steps(self, output_tokens: float) -> int:
        """Steps from the first token to the last of `output_tokens`; what the last step has too many is lost."""
        return math.ceil((output_tokens - 1.0) / self.tokens_per_step - 1e-9)

    @cached_property
    def _by_sequences(self) -> tuple[list[float], ...]:
        # Single numbers of lists are read faster than those of arrays; the long tables over tokens stay arrays.
        tables = (self.decode_ms, self.decode_expert_ms, self.core_ms, self.draft_expert_ms, self.fixed_ms)
        return tuple(table.tolist() for table in tables)

    def decode_step_ms(self, fullest: int, everything: int) -> float:
        """A step with only decoding sequences.

        Args:
            fullest: sequences on the fullest lane, >= 1.
            everything: sequences over all lanes.
        """
        lane, experts, *_ = self._by_sequences
        return lane[fullest] + experts[everything]

    def mixed_ms(self, sequences: Sequence[int], prompts: Sequence[int]) -> float:
        """A step in which lane i decodes `sequences[i]` requests and computes `prompts[i]` prompt tokens, ms."""
        _, _, core, draft, fixed = self._by_sequences
        if self.lanes == 1 and self.stages == 1:
            fullest = everything = sequences[0]
            new = prompts[0]
            most = rows = fullest * self.queries + new
        else:
            fullest, everything = max(sequences), sum(sequences)
            parts = [min(prompt, self.budget) for prompt in prompts]
            new = max(parts)
            most = max(
                -(-count // self.stages) * self.queries + part for count, part in zip(sequences, parts, strict=True)
            )
            rows = -(-everything // self.stages) * self.queries + sum(parts)
        kernels = (
            self.token_ms.item(most)
            + self.expert_ms.item(rows)
            + core[fullest]
            + draft[everything]
            + self.prompt_ms * new
        )
        return kernels + fixed[fullest]
