"""The step-time expressions against an event-driven flow shop."""

from typing import Literal

import numpy as np
import pytest

from planner.costs.pipeline import identical_layers_ms, max_plus_ms, periodic_max_plus_ms
from tests.oracles.flow_shop import flow_shop_ms

OWN = (0, 1, 2, 3)
HALF_DUPLEX = (0, 1, 2, 1)
ONE_GPU = (0, 1, 0, 2)
ONE_GPU_HALF_DUPLEX = (0, 1, 0, 1)
SERVERS = [OWN, HALF_DUPLEX, ONE_GPU, ONE_GPU_HALF_DUPLEX]
ROUNDING = 1e-11


def random_stage_ms(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Stage times: spread out, on a coarse grid (ties), or almost equal (near-critical cycles)."""
    if kind == "spread":
        return rng.exponential(1.0, shape)
    if kind == "ties":
        return rng.integers(0, 4, shape).astype(float)
    return 1.0 + 1e-3 * rng.standard_normal(shape)


@pytest.mark.parametrize("microbatches", range(1, 9))
@pytest.mark.parametrize("order", ["static", "fifo"])
def test_identical_layers_equal_the_simulation(microbatches: int, order: Literal["static", "fifo"]) -> None:
    rng = np.random.default_rng(microbatches)
    for kind in ("spread", "ties", "near"):
        for _ in range(8):
            layers, stages = int(rng.integers(1, 25)), int(rng.integers(1, 6))
            stage = random_stage_ms(rng, (stages,), kind)
            expected = flow_shop_ms([[list(stage)] * microbatches] * layers, range(stages), order=order)
            assert identical_layers_ms(stage, layers, microbatches) == pytest.approx(expected, rel=ROUNDING)


def test_identical_layers_at_full_depth() -> None:
    rng = np.random.default_rng(61)
    stage = rng.exponential(1.0, (6, 4))
    expected = [flow_shop_ms([[list(times)] * 3] * 61, OWN) for times in stage]
    np.testing.assert_allclose(identical_layers_ms(stage, 61, 3), expected, rtol=ROUNDING)


def test_identical_layers_respect_both_lower_bounds_and_one_microbatch_is_serial() -> None:
    stage = np.random.default_rng(0).exponential(1.0, (500, 4))
    total, slowest = stage.sum(-1), stage.max(-1)
    for microbatches in range(1, 9):
        step = identical_layers_ms(stage, 61, microbatches)
        assert (step >= 61 * total * (1 - ROUNDING)).all()
        assert (step >= (61 * microbatches * slowest + total - slowest) * (1 - ROUNDING)).all()
    np.testing.assert_allclose(identical_layers_ms(stage, 61, 1), 61 * total, rtol=ROUNDING)


@pytest.mark.parametrize("servers", SERVERS)
@pytest.mark.parametrize("kind", ["spread", "ties", "near"])
def test_max_plus_equals_the_simulation(servers: tuple[int, ...], kind: str) -> None:
    rng = np.random.default_rng(11)
    for microbatches in (1, 2, 3, 4, 6):
        for _ in range(5):
            stage = random_stage_ms(rng, (int(rng.integers(1, 9)), microbatches, 4), kind)
            expected = flow_shop_ms(stage.tolist(), servers)
            assert max_plus_ms(stage, servers) == pytest.approx(expected, rel=ROUNDING)


def test_static_order_is_first_in_first_out_on_servers_of_their_own() -> None:
    rng = np.random.default_rng(12)
    for microbatches in (2, 3, 5):
        stage = rng.exponential(1.0, (7, microbatches, 4))
        expected = flow_shop_ms(stage.tolist(), OWN, order="fifo")
        assert max_plus_ms(stage, OWN) == pytest.approx(expected, rel=ROUNDING)


def test_order_of_arrival_differs_where_servers_are_shared() -> None:
    """The simulator does distinguish the two orders, so agreement with the static one says something."""
    stage = np.random.default_rng(13).exponential(1.0, (20, 8, 4, 4))
    static = [flow_shop_ms(s.tolist(), HALF_DUPLEX) for s in stage]
    fifo = [flow_shop_ms(s.tolist(), HALF_DUPLEX, order="fifo") for s in stage]
    assert any(a != pytest.approx(b, rel=1e-6) for a, b in zip(static, fifo, strict=True))


@pytest.mark.parametrize("servers", SERVERS)
def test_release_and_prologue_equal_the_simulation(servers: tuple[int, ...]) -> None:
    rng = np.random.default_rng(14)
    for microbatches in (1, 2, 4):
        stage = rng.exponential(1.0, (10, 3, microbatches, 4))
        release = rng.exponential(2.0, (10, microbatches))
        prologue = rng.exponential(1.0, (10, 2, microbatches))
        for args in (
            {"prologue_ms": prologue},
            {"release_ms": release},
            {"release_ms": release, "prologue_ms": prologue},
        ):
            expected = [
                flow_shop_ms(stage[i].tolist(), servers, **{name: value[i].tolist() for name, value in args.items()})
                for i in range(10)
            ]
            np.testing.assert_allclose(max_plus_ms(stage, servers, **args), expected, rtol=ROUNDING)


def test_prologue_without_release_times_is_added() -> None:
    rng = np.random.default_rng(15)
    stage = rng.exponential(1.0, (50, 1, 1, 4))
    prologue = rng.exponential(1.0, (50, 3, 1))
    with_prologue = periodic_max_plus_ms(np.broadcast_to(stage, (50, 1, 4, 4)), 58, OWN, prologue_ms=prologue)
    pipeline = identical_layers_ms(stage[:, 0, 0], 58, 4)
    np.testing.assert_allclose(with_prologue, 4 * prologue.sum((-1, -2)) + pipeline, rtol=ROUNDING)


@pytest.mark.parametrize("servers", SERVERS)
@pytest.mark.parametrize("kind", ["spread", "ties", "near"])
@pytest.mark.parametrize(("pattern", "repeats"), [(1, 61), (1, 3), (2, 47), (6, 10)])
def test_periodic_equals_the_full_recursion(servers: tuple[int, ...], kind: str, pattern: int, repeats: int) -> None:
    rng = np.random.default_rng(pattern)
    for microbatches in (1, 2, 3, 4):
        stage = random_stage_ms(rng, (300, pattern, microbatches, 4), kind)
        release = rng.exponential(5.0, (300, microbatches))
        full = max_plus_ms(np.tile(stage, (1, repeats, 1, 1)), servers, release_ms=release)
        periodic = periodic_max_plus_ms(stage, repeats, servers, release_ms=release)
        np.testing.assert_allclose(periodic, full, rtol=ROUNDING)


def test_slowly_converging_cycles_are_run_out() -> None:
    """A release delay on a slower, almost critical cycle takes many layers to be absorbed."""
    stage = np.array([1.0, 1.0, 1.0, 0.999])
    release = np.array([0.0, 0.0, 0.0, 0.05])
    pattern = np.broadcast_to(stage, (1, 4, 4))
    for repeats in (10, 30, 61, 200):
        full = max_plus_ms(np.broadcast_to(stage, (repeats, 4, 4)), OWN, release_ms=release)
        periodic = periodic_max_plus_ms(pattern, repeats, OWN, release_ms=release)
        assert periodic == pytest.approx(float(full), rel=ROUNDING)


def test_identical_layers_equal_the_recursion_on_many_elements() -> None:
    stage = np.random.default_rng(17).exponential(1.0, (3, 7000, 1, 1, 4))
    periodic = periodic_max_plus_ms(np.broadcast_to(stage, (3, 7000, 1, 3, 4)), 61, OWN)
    assert periodic.shape == (3, 7000)
    np.testing.assert_allclose(periodic, identical_layers_ms(stage[..., 0, 0, :], 61, 3), rtol=ROUNDING)


def test_an_empty_last_microbatch_changes_nothing() -> None:
    stage = np.random.default_rng(18).exponential(1.0, (100, 5, 3, 4))
    padded = np.concatenate([stage, np.zeros((100, 5, 1, 4))], axis=2)
    for servers in SERVERS:
        np.testing.assert_allclose(max_plus_ms(padded, servers), max_plus_ms(stage, servers), rtol=ROUNDING)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="stages"):
        max_plus_ms(np.ones((2, 2, 3)), OWN)
    with pytest.raises(ValueError, match="repeats"):
        periodic_max_plus_ms(np.ones((1, 2, 4)), 0, OWN)
    with pytest.raises(ValueError, match="microbatches"):
        identical_layers_ms(np.ones(4), 61, 0)
