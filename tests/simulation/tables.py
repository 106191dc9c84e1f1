"""Random step times and requests, and what it means that two runs of them are the same."""

import math
from dataclasses import replace

import numpy as np
import pytest

from planner.simulation.closed_loop import Policy, Requests, Run
from planner.simulation.steps import StepTimes
from tests.oracles.closed_loop_run import Seen


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
    """The policy without prefixes, late looks, holding back and lag."""
    return replace(policy, poll_steps=1, wait_steps=0, wait_tokens=0.0, lag_steps=0.0, delay_ms=0.0, load_ms=0.0)


def same(found: Run, expected: Seen) -> None:
    """Request by request; requests that see their first token or end together come in any order."""
    np.testing.assert_allclose(np.sort(found.ttft_ms), np.sort(expected.ttft_ms), rtol=1e-9)
    tpot = [value for value in expected.tpot_ms if value is not None]
    np.testing.assert_allclose(np.sort(found.tpot_ms), np.sort(np.array(tpot, dtype=float)), rtol=1e-9, atol=1e-9)
    assert found.end_ms == pytest.approx(expected.end_ms, rel=1e-9)
