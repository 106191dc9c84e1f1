"""Step times of one worker as tables over whole numbers, for the event loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from planner.costs.linear import FloatArray, PiecewiseLinear, total
from planner.costs.worker import Worker


@dataclass(frozen=True, eq=False)
class StepTimes:
    """Step times of a worker without two-batch overlap, whatever its lanes (DP ranks) bring.

    Without overlap a step is a sum of functions of one variable (`planner.costs.worker`), each tabulated here over whole
    numbers. Engines run steps with prompts outside captured graphs: such a step takes at least `launch_ms`.

    Args:
        lanes: DP ranks, which start and end every step together.
        decode_ms: step with only decoding sequences, by sequences on the fullest lane, shape (slots per lane + 1,).
        token_ms: operators of a step with prompts that follow the tokens of the fullest lane, shape (most tokens + 1,).
        expert_ms: experts, by tokens over all lanes, shape (lanes * most tokens + 1,).
        core_ms: decode attention, by sequences on the fullest lane, shape (slots per lane + 1,).
        prompt_ms: attention core of one prompt token, mean over a prompt.
        fixed_ms: what a step with prompts takes in any case (head, sampling, engine).
        launch_ms: time to launch the kernels of a step outside captured graphs.
    """

    lanes: int
    decode_ms: FloatArray
    token_ms: FloatArray
    expert_ms: FloatArray
    core_ms: FloatArray
    prompt_ms: float
    fixed_ms: float
    launch_ms: float

    @staticmethod
    def of(worker: Worker, slots: int, budget: int) -> StepTimes:
        """Tables for up to `slots` requests on the replica and `budget` tokens in a step of one lane."""
        layout, site = worker.layout, worker.site
        per_lane = max(1, math.ceil(slots / layout.dp))
        sequences = np.arange(per_lane + 1, dtype=float)
        decode = worker.decode_step_ms(np.maximum(sequences, 1.0) * layout.dp)
        groups = site.model.layers
        share = layout.pp * -(-site.model.layer_count // layout.pp) / site.model.layer_count
        most = budget + per_lane * site.queries

        def layers(parts: list[PiecewiseLinear]) -> PiecewiseLinear:
            return total(part.scaled(group.count * share) for part, group in zip(parts, groups, strict=True))

        per_token = [
            total([worker.attention.token_time(index), *worker.exchanges(index, low_latency=False)])
            for index in range(len(groups))
        ]
        experts = [worker.experts.expert_time(index) for index in range(len(groups))]
        lengths = site.lengths
        cores = [worker.attention.decode_core(index, lengths.first_context, lengths.last_context) for index in range(len(groups))]
        chunks = max(1, math.ceil(lengths.input / budget))
        core = worker.attention.prefill_core_ms(lengths, np.array(chunks))
        prompt = sum(group.count * float(part) for group, part in zip(groups, core, strict=True)) * share
        once = total(worker.once_parts.values())
        return StepTimes(
            layout.dp,
            decode,
            layers(per_token)(np.arange(most + 1)),
            layers(experts)(np.arange(layout.dp * most + 1)),
            np.where(sequences > 0, layers(cores)(sequences), 0.0),
            prompt * chunks / lengths.input,
            layout.pp * float(once(1.0 + 0.0 * per_lane)),
            0.0,
        )

    def mixed_ms(self, sequences: list[int], prompts: list[int], queries: int = 1) -> float:
        """A step in which lane i decodes `sequences[i]` requests and computes `prompts[i]` prompt tokens, ms."""
        tokens = [b * queries + p for b, p in zip(sequences, prompts, strict=True)]
        time = self.token_ms[max(tokens)] + self.expert_ms[sum(tokens)] + self.core_ms[max(sequences)]
        time += self.prompt_ms * max(prompts)
        return max(float(time), self.launch_ms) + self.fixed_ms
