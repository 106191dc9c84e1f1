"""Runs of one replica against a step-by-step simulation, and laws that every run obeys.

The event loop skips ahead over steps with only decoding, which is exact: the comparison is to rounding errors.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from planner.simulation.closed_loop import Policy, Requests, run, sample
from planner.simulation.steps import StepTimes
from specs.workload import DiscreteLength, MeanLength
from tests.oracles.closed_loop_run import Seen, aggregated
from tests.simulation.tables import plain, random_policy, random_requests, random_times, same

Case = tuple[StepTimes, Policy, int, int, Requests]


def draw(seed: int, *, lanes: int | None = None, stages: int | None = None) -> Case:
    """A random small instance: budgets below and above prompts, slots scarce and plenty, every scheduler setting."""
    rng = np.random.default_rng(seed)
    lanes = int(rng.choice([1, 1, 2, 3, 4])) if lanes is None else lanes
    stages = int(rng.choice([1, 1, 1, 2, 3])) if stages is None else stages
    slots, clients = int(rng.integers(1, 13)), int(rng.integers(1, 17))
    budget = int(rng.choice([3, 8, 20, 60]))
    times = random_times(rng, slots, budget, lanes=lanes, stages=stages, speculative=rng.random() < 0.3)
    policy = random_policy(rng, budget)
    if rng.random() < 0.5:
        policy = replace(policy, poll_steps=int(rng.integers(2, 9)))
    if rng.random() < 0.4:
        policy = replace(policy, wait_steps=int(rng.integers(1, 12)), wait_tokens=float(rng.uniform(5, 80)))
    if rng.random() < 0.3:
        policy = replace(policy, lag_steps=float(rng.uniform(0.1, 3.0)))
    if rng.random() < 0.2:
        policy = replace(policy, load_ms=float(rng.uniform(0.1, 20.0)))
    requests = random_requests(rng, int(rng.integers(1, 50)), int(rng.choice([5, 40])), int(rng.choice([3, 40])))
    return times, policy, slots, clients, requests


def simulated(case: Case) -> Seen:
    times, policy, slots, clients, requests = case

    def step_ms(decoding: list[int], prompts: list[int]) -> float:
        if any(prompts):
            return times.mixed_ms(decoding, prompts)
        return times.decode_step_ms(max(decoding), sum(decoding))

    return aggregated(
        step_ms,
        lanes=times.lanes,
        slots=slots,
        budget=policy.budget * times.stages,
        prompts_alone=policy.prefill_first,
        serve=lambda tokens: policy.request_ms + policy.token_us * tokens / 1000.0,
        clients=clients,
        inputs=[int(tokens) for tokens in requests.input_tokens],
        outputs=[int(tokens) for tokens in requests.output_tokens],
        poll=policy.poll_steps,
        wait_steps=policy.wait_steps,
        wait_tokens=policy.wait_tokens,
        late_steps=policy.lag_steps,
        load_ms=policy.load_ms,
        queries=times.queries,
        accepted=times.tokens_per_step,
    )


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_as_step_by_step(first: int) -> None:
    for seed in range(first, first + 50):
        case = draw(seed)
        try:
            same(run(*case), simulated(case))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {case[1]}") from error


def test_every_request_ends_and_work_is_conserved() -> None:
    """All requests come out; slots hold; the server is busy whenever there is something to do."""
    for seed in range(100):
        times, policy, slots, clients, requests = draw(seed, stages=1)
        policy = replace(policy, lag_steps=0.0, load_ms=0.0)
        case = (times, policy, slots, clients, requests)
        found, expected = run(*case), simulated(case)
        assert found.ttft_ms.size == requests.input_tokens.size
        assert found.tpot_ms.size == np.count_nonzero(requests.output_tokens > 1)
        assert found.output_tokens == requests.output_tokens.sum()
        assert expected.most_in_flight <= min(slots, clients)
        assert expected.most_on_lane <= math.ceil(slots / times.lanes)
        # Idle only while every request in the system is at the API server.
        idle = found.end_ms - expected.busy_ms
        api = sum(policy.ready_ms(tokens) for tokens in requests.input_tokens)
        assert -1e-6 <= idle <= api + 1e-6
        # A step computes no more than all lanes' budgets, and every token is computed once.
        steps = len(expected.steps)
        least = math.ceil(requests.input_tokens.sum() / (policy.budget * times.lanes))
        assert steps >= max(least, max(times.decode_steps(tokens) for tokens in requests.output_tokens) + 1)


def test_littles_law() -> None:
    """The stays' sum is the area under the number in the system, which is `clients` until the last are sent."""
    for seed in range(100):
        times, policy, slots, clients, requests = draw(seed)
        count = requests.input_tokens.size
        requests = replace(requests, output_tokens=np.full(count, float(2 + seed % 20)))
        found = run(times, policy, slots, clients, requests)
        stays = found.ttft_ms.sum() + (requests.output_tokens[0] - 1) * found.tpot_ms.sum()
        expected = simulated((times, policy, slots, clients, requests))
        ends = np.sort(expected.done_ms)
        clients = min(clients, count)
        # After the k-th last end k requests are left.
        area = clients * ends[count - clients] + sum(
            (clients - 1 - k) * (ends[count - clients + k + 1] - ends[count - clients + k]) for k in range(clients - 1)
        )
        assert stays == pytest.approx(area, rel=1e-9)


def test_one_client_sees_the_sum_of_step_times() -> None:
    for seed in range(40):
        times, policy, _, _, requests = draw(seed, lanes=1, stages=1)
        policy = replace(policy, wait_steps=5, wait_tokens=1e9, poll_steps=7, lag_steps=2.0)
        found = run(times, policy, 1, 1, requests)
        decode_ms = times.decode_step_ms(1, 1)
        ttft, tpot = [], []
        for prompt, answer in zip(requests.input_tokens.astype(int), requests.output_tokens, strict=True):
            whole, rest = divmod(int(prompt), policy.budget)
            parts = [policy.budget] * whole + [rest] * (rest > 0)
            ttft.append(policy.ready_ms(prompt) + policy.load_ms + sum(times.mixed_ms([0], [part]) for part in parts))
            if answer > 1:
                tpot.append(math.ceil((answer - 1) / times.tokens_per_step) * decode_ms / (answer - 1))
        np.testing.assert_allclose(found.ttft_ms, ttft, rtol=1e-9)
        np.testing.assert_allclose(found.tpot_ms, tpot, rtol=1e-9)
        further = requests.output_tokens[requests.output_tokens > 1] - 1
        assert found.end_ms == pytest.approx(sum(ttft) + float((np.array(tpot) * further).sum()))


def test_settings_without_effect() -> None:
    """Looking every step, holding back for no step or below no tokens, and no lag are the plain case."""
    for seed in range(60):
        times, policy, slots, clients, requests = draw(seed)
        expected = run(times, plain(policy), slots, clients, requests)
        for same_policy in (
            replace(plain(policy), poll_steps=1, wait_steps=0, wait_tokens=1e9),
            replace(plain(policy), wait_steps=9, wait_tokens=0.0),
        ):
            found = run(times, same_policy, slots, clients, requests)
            np.testing.assert_array_equal(found.ttft_ms, expected.ttft_ms)
            np.testing.assert_array_equal(found.tpot_ms, expected.tpot_ms)
        later = run(times, replace(plain(policy), delay_ms=3.0), slots, clients, requests)
        np.testing.assert_allclose(later.ttft_ms, expected.ttft_ms + 3.0)
        np.testing.assert_array_equal(later.tpot_ms, expected.tpot_ms)


def test_prompts_are_held_back_no_longer_than_stated() -> None:
    """Two clients: the second prompt comes late while the first is decoded, and waits `wait_steps` whole steps."""
    rng = np.random.default_rng(0)
    times = random_times(rng, 2, 100)
    requests = Requests(np.array([1.0, 50.0]), np.array([60.0, 1.0]))
    policy = Policy(100, False, 0.0, 200.0)  # the second is ready after 0.2 + 10 ms
    start, step_ms = 0.2 + times.mixed_ms([0], [1]), times.decode_step_ms(1, 1)
    before = math.ceil((10.2 - start) / step_ms)
    for wait, expected in ((0, before), (7, before + 7)):
        found = run(times, replace(policy, wait_steps=wait, wait_tokens=80.0), 2, 2, requests)
        assert found.ttft_ms[1] == pytest.approx(start + expected * step_ms + times.mixed_ms([1], [50]))
    # 50 prompt tokens and one decoding request reach the threshold: nothing waits.
    found = run(times, replace(policy, wait_steps=7, wait_tokens=51.0), 2, 2, requests)
    assert found.ttft_ms[1] == pytest.approx(start + before * step_ms + times.mixed_ms([1], [50]))


def test_the_engine_looks_every_nth_step() -> None:
    """Looks stay on multiples of the interval, also when nothing came for several of them."""
    rng = np.random.default_rng(0)
    times = random_times(rng, 2, 100)
    requests = Requests(np.array([1.0, 50.0]), np.array([60.0, 1.0]))
    policy = Policy(100, True, 0.0, 200.0, poll_steps=4)
    start, step_ms = 0.2 + times.mixed_ms([0], [1]), times.decode_step_ms(1, 1)
    looks = 4 * math.ceil((10.2 - start) / step_ms / 4)
    assert math.ceil((10.2 - start) / step_ms) % 4
    found = run(times, policy, 2, 2, requests)
    assert found.ttft_ms[1] == pytest.approx(start + looks * step_ms + times.mixed_ms([0], [50]))


def test_fewer_slots_than_lanes() -> None:
    """Three slots on four lanes are three; ten on four are ten."""
    rng = np.random.default_rng(3)
    requests = Requests(np.full(40, 5.0), np.full(40, 20.0))
    for slots in (3, 10):
        times = random_times(rng, slots, 100, lanes=4)
        case = (times, Policy(100, False, 0.01, 0.0), slots, 20, requests)
        expected = simulated(case)
        assert expected.most_in_flight == slots
        same(run(*case), expected)


def test_same_seed_same_run() -> None:
    length = MeanLength(mean=50.0, cv=0.4)
    rng = np.random.default_rng(0)
    times, policy = random_times(rng, 8, 64), Policy(64, True, 1.0, 1.0)
    first, again, other = (run(times, policy, 8, 8, Requests.of(length, length, 100, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.ttft_ms, again.ttft_ms)
    np.testing.assert_array_equal(first.tpot_ms, again.tpot_ms)
    assert first.end_ms == again.end_ms != other.end_ms


@pytest.mark.parametrize("cv", [0.0, 0.1, 0.5, 0.577, 0.6, 1.0, 2.0])
def test_sampled_lengths(cv: float) -> None:
    count = 200_000
    drawn = sample(MeanLength(mean=900.0, cv=cv), count, np.random.default_rng(5))
    assert drawn.min() >= 1
    assert (drawn == np.round(drawn)).all()
    assert drawn.mean() == pytest.approx(900.0, rel=5 * max(cv, 1e-4) / math.sqrt(count))
    assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.03, abs=1e-9)


def test_sampled_values() -> None:
    length = DiscreteLength(values=(10, 20, 70), weights=(1.0, 2.0, 1.0))
    drawn = sample(length, 100_000, np.random.default_rng(5))
    assert [float((drawn == value).mean()) for value in length.values] == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    assert (sample(17, 5, np.random.default_rng(0)) == 17).all()
