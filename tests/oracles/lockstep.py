"""Lanes in lockstep, simulated step by step: an oracle for `planner.options.mixing`."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Observed:
    """What a simulation saw: mean step, share of steps with a chunk, mean TTFT without a wait for slots (ms)."""

    step_ms: float
    busy_share: float
    ttft_ms: float


def simulate(
    decode: float, one: float, every: float, lanes: int, chunks: int, rate_per_lane: float, steps: int, seed: int
) -> Observed:
    """Steps of a server whose lanes each compute the prompts of a Poisson stream, `chunks` steps each, in order."""
    rng = np.random.default_rng(seed)
    slope = (every - one) / max(lanes - 1, 1)
    arrivals = [
        list(np.cumsum(rng.exponential(1.0 / rate_per_lane, size=max(10, int(steps * one * rate_per_lane * 2)))))
        for _ in range(lanes)
    ]
    position = [0] * lanes
    left = [0] * lanes
    now = time_in_steps = 0.0
    mixed = 0
    waits: list[float] = []
    for number in range(steps):
        active = 0
        for lane in range(lanes):
            if left[lane] == 0 and arrivals[lane][position[lane]] <= now:
                left[lane] = chunks
            active += left[lane] > 0
        step = decode if active == 0 else one + (active - 1) * slope
        now += step
        for lane in range(lanes):
            if left[lane] > 0:
                left[lane] -= 1
                if left[lane] == 0:
                    if number > steps // 10:
                        waits.append(now - arrivals[lane][position[lane]])
                    position[lane] += 1
        if number > steps // 10:
            mixed += active > 0
            time_in_steps += step
    counted = steps - 1 - steps // 10
    return Observed(time_in_steps / counted, mixed / counted, float(np.mean(waits)))
