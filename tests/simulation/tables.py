"""Random step times and requests."""

import math
from dataclasses import replace

import numpy as np

from planner.simulation.closed_loop import Policy, Requests
from planner.simulation.steps import StepTimes


def rising(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    return scale * np.cumsum(rng.uniform(0.0, 1.0, size))


def random_times(
    rng: np.random.Generator, slots: int, budget: int, *, lanes: int = 1, stages: int = 1, speculative: bool = False
) -> StepTimes:
    """Rising tables with no other structure, so that every term is felt."""
    per_lane = math.ceil(slots / lanes)
    queries = int(rng.integers(2, 5)) if speculative else 1
    most = budget + math.ceil(per_lane / stages) * queries
    return StepTimes(
        lanes,
        budget,
        1.0 + rising(rng, per_lane + 1, 0.3),
        rising(rng, lanes * per_lane + 1, 0.1),
        0.5 + rising(rng, most + 1, 0.2),
        rising(rng, lanes * most + 1, 0.1),
        rising(rng, per_lane + 1, 0.2),
        rising(rng, lanes * per_lane + 1, 0.05),
        rising(rng, per_lane + 1, 0.1),
        float(rng.uniform(0.0, 0.2)),
        stages,
        queries,
        float(rng.uniform(1.0, queries)) if speculative else 1.0,
    )


def random_requests(rng: np.random.Generator, count: int, longest_prompt: int, longest_answer: int) -> Requests:
    return Requests(
        rng.integers(1, longest_prompt + 1, count).astype(float),
        rng.integers(1, longest_answer + 1, count).astype(float),
    )


def random_policy(rng: np.random.Generator, budget: int) -> Policy:
    """A plain policy: only the API server takes time."""
    return Policy(budget, bool(rng.integers(2)), float(rng.uniform(0.01, 2.0)), float(rng.uniform(0.0, 50.0)))


def plain(policy: Policy) -> Policy:
    """The policy without late looks, holding back and lag."""
    return replace(policy, poll_steps=1, wait_steps=0, wait_tokens=0.0, lag_steps=0.0, delay_ms=0.0)
