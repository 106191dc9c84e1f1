"""Steps of lanes in lockstep: against a simulation, and Newton's roots against bisection."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.costs.queueing import prefill_wait_ms
from planner.options.mixing import Mix
from tests.oracles.lockstep import simulate


def mix(decode, one, every, lanes, chunks):
    as_array = [np.array([[float(value)]]) for value in (decode, one, every, lanes)]
    return Mix(*as_array, np.array([[chunks]]))


CASES = [
    (12.5, 35.8, 37.6, 16, 1, 0.00055),
    (12.5, 35.8, 37.6, 16, 1, 0.0029),
    (10.0, 30.0, 60.0, 8, 4, 0.0007),
    (10.0, 30.0, 60.0, 8, 4, 0.0020),
    (10.0, 30.0, 35.0, 2, 4, 0.0060),
    (10.0, 14.0, 14.0, 1, 6, 0.0069),
    (20.0, 25.0, 90.0, 32, 2, 0.0027),
    (9.0, 60.0, 70.0, 128, 1, 0.00015),
    (9.0, 60.0, 70.0, 128, 1, 0.00035),
]
"""Steps without a chunk, with one, with one on every lane; lanes; chunks; prompts per ms and lane."""


@pytest.mark.parametrize(("decode", "one", "every", "lanes", "chunks", "lane_rate"), CASES)
def test_steps_and_ttft_are_those_of_a_simulation(decode, one, every, lanes, chunks, lane_rate):
    made = mix(decode, one, every, lanes, chunks)
    mixed = made.at(np.array([[lane_rate * lanes]]))
    seen = simulate(decode, one, every, lanes, chunks, lane_rate, steps=30_000, seed=7)
    assert float(mixed.step_ms[0, 0]) == pytest.approx(seen.step_ms, rel=0.04)
    assert float(mixed.busy_share[0, 0]) == pytest.approx(seen.busy_share, rel=0.07)
    prompt, step = float(mixed.prompt_step_ms[0, 0]), float(mixed.step_ms[0, 0])
    busy, chunked = float(mixed.share[0, 0]) * prompt / step, float(mixed.busy_share[0, 0])
    others = (chunked - float(mixed.share[0, 0])) / (1 - float(mixed.share[0, 0]))
    rest = 0.5 * (others * prompt**2 + (1 - others) * decode**2) / (others * prompt + (1 - others) * decode)
    ttft = chunks * prompt + float(prefill_wait_ms(busy, 1, chunks * prompt)) + rest
    # A lane that computes prompts more than half of the time sees them coincide more than on average.
    assert ttft == pytest.approx(seen.ttft_ms, rel=0.05 if busy < 0.5 else 0.13)


times = st.tuples(st.floats(1, 50), st.floats(0, 80), st.floats(0, 200), st.integers(1, 128), st.integers(1, 64))


@settings(max_examples=300, deadline=None)
@given(st.floats(1e-4, 0.98), times, st.floats(0, 5000))
def test_the_rate_is_found_again_from_requests_in_flight(load, given_times, decode_steps):
    decode, longer, spread, lanes, chunks = given_times
    one = decode + longer
    # More lanes never cost more than as many first lanes (the experts' time is subhomogeneous).
    every = one + (min(spread, longer * (lanes - 1)) if lanes > 1 else 0.0)
    made = mix(decode, one, every, lanes, chunks)
    rate = np.array([[load * lanes / (chunks * every)]])
    flight = made.in_flight(rate, decode_steps)
    found = made.rate(flight, decode_steps)
    assert float(made.in_flight(found, decode_steps)[0, 0]) == pytest.approx(float(flight[0, 0]), rel=1e-8)


@settings(max_examples=200, deadline=None)
@given(times, st.floats(0, 5000))
def test_in_flight_and_steps_grow_with_the_rate(given_times, decode_steps):
    decode, longer, spread, lanes, chunks = given_times
    one = decode + longer
    every = one + (min(spread, longer * (lanes - 1)) if lanes > 1 else 0.0)
    made = mix(decode, one, every, lanes, chunks)
    rates = np.linspace(0.0, lanes / (chunks * one), 400)[None, :]
    mixed = made.at(rates)
    below = mixed.share[0] < 1.0
    assert (np.diff(made.in_flight(rates, decode_steps)[0][below]) >= -1e-9).all()
    assert (np.diff(mixed.step_ms[0][below]) >= -1e-9 * every).all()


@settings(max_examples=300, deadline=None)
@given(st.floats(1e-3, 0.97), times)
def test_the_share_of_a_lane_and_of_any_lane_agree(load, given_times):
    decode, longer, spread, lanes, chunks = given_times
    lanes = max(lanes, 2)
    # Here a further lane may cost more than the first, as measured kernels have it.
    one, every = decode + longer, decode + longer + spread
    rate = load * lanes / (chunks * every)
    mixed = mix(decode, one, every, lanes, chunks).at(np.array([[rate]]))
    share, busy, step = (float(part[0, 0]) for part in (mixed.share, mixed.busy_share, mixed.step_ms))
    assert share == pytest.approx(rate * chunks / lanes * step, rel=1e-9)
    # The law of the module, written out: P between few prompts and independent lanes, and the step that follows.
    arrivals = min(rate * (one + min(rate * chunks / lanes * one, 1.0) * (every - one)), 600.0 / chunks)
    idle = -math.expm1(-arrivals) / (math.expm1(arrivals * chunks) * -math.expm1(-rate * decode))
    few, independent = 1.0 / (1.0 + idle), 1.0 - (1.0 - share) ** lanes
    assert busy == pytest.approx(few + math.sqrt(share) * max(independent - few, 0.0), abs=1e-6)
    slope = (every - one) / (lanes - 1)
    wanted = decode + busy * (one - decode) + (lanes * share - busy) * slope
    assert step == pytest.approx(max(wanted, decode), rel=1e-6)


def test_one_lane_is_the_closed_form():
    made = mix(10.0, 14.0, 14.0, 1, 6)
    assert float(made.at(np.array([[0.004]])).step_ms[0, 0]) == pytest.approx(10.0 / (1.0 - 6 * 0.004 * 4.0))
