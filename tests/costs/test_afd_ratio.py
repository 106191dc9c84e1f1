"""The closed-form attention:FFN ratio against brute force."""

import numpy as np
import pytest

from planner.costs.afd_ratio import instance_throughput_tok_per_ms, optimal_attention_ratio


def throughput(
    ratio: np.ndarray, batch: float, attention: float, link: float, slope: float, intercept: float
) -> np.ndarray:
    """Restated step by step: tokens of r instances over the step and the r + 1 instances."""
    step = np.array([max(attention, link, slope * r * batch + intercept) for r in ratio])
    return batch * ratio / step / (1 + ratio)


def test_ratio_equals_brute_force() -> None:
    rng = np.random.default_rng(5)
    regimes = {"attention": 0, "link": 0, "ffn": 0}
    for _ in range(300):
        batch = float(rng.integers(1, 512))
        attention, link = rng.uniform(0.01, 2.0, 2)
        slope, intercept = rng.uniform(1e-4, 1e-2), rng.uniform(0.0, 1.5)
        case = (batch, attention, link, slope, intercept)
        closed = float(optimal_attention_ratio(*case))
        takeover = (max(attention, link) - intercept) / (slope * batch)
        regimes["ffn" if closed > takeover else "attention" if attention > link else "link"] += 1

        grid = np.geomspace(1e-4, 1e5, 2001)
        for _ in range(4):
            best = int(np.argmax(throughput(grid, *case)))
            grid = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)], 201)
        found = grid[np.argmax(throughput(grid, *case))]
        assert closed == pytest.approx(found, rel=1e-3)
        assert throughput(np.array([closed]), *case)[0] >= throughput(grid, *case).max() * (1 - 1e-12)

        whole = np.arange(1.0, max(3.0, np.ceil(closed) + 3))
        best_whole = whole[np.argmax(throughput(whole, *case))]
        assert best_whole in (max(1.0, np.floor(closed)), max(1.0, np.ceil(closed)))
    assert min(regimes.values()) > 20


def test_instances_worked_by_hand() -> None:
    """With slope B = 1 ms and intercept 4 ms the FFN-bound optimum is 2; a 7 ms stage moves it to 7 - 4 = 3."""
    assert optimal_attention_ratio(100.0, 5.0, 3.0, 0.01, 4.0) == pytest.approx(2.0)
    assert optimal_attention_ratio(100.0, 7.0, 3.0, 0.01, 4.0) == pytest.approx(3.0)
    assert optimal_attention_ratio(100.0, 3.0, 7.0, 0.01, 4.0) == pytest.approx(3.0)


def test_ratio_grows_with_context_and_falls_with_the_root_of_the_batch() -> None:
    attention = np.linspace(1.0, 10.0, 50)
    ratio = optimal_attention_ratio(64.0, attention, 0.1, 1e-3, 0.5)
    assert (np.diff(ratio) > 0).all()
    batch = np.array([16.0, 64.0, 256.0])
    np.testing.assert_allclose(optimal_attention_ratio(batch, 0.1, 0.1, 1e-3, 0.5) * np.sqrt(batch), np.sqrt(500.0))


def test_throughput_is_broadcast() -> None:
    ratio = np.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(
        instance_throughput_tok_per_ms(ratio, 32.0, 1.0, 0.5, 1e-2, 0.2), throughput(ratio, 32.0, 1.0, 0.5, 1e-2, 0.2)
    )
