"""P/D runs against a step-by-step simulation, and laws that every run obeys. Agreement is to rounding errors."""

import math
from dataclasses import replace

import numpy as np
import pytest

from planner.simulation.closed_loop import Policy, Requests
from planner.simulation.handed_over import Pair, run_pair
from tests.oracles.closed_loop_run import Seen, handed_over
from tests.simulation.tables import random_policy, random_times, same

KINDS = [(0, False), (1, False), (1, True)]
"""Decode steps before the client sees the first token, and whether the decode worker computes that one."""

Case = tuple[Pair, Policy, int, Requests]


def draw(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    budget, slots = int(rng.choice([4, 10, 40])), int(rng.integers(1, 10))
    pair = Pair(
        random_times(rng, 4, budget, lanes=int(rng.integers(1, 5)), stages=int(rng.choice([1, 1, 2]))),
        int(rng.integers(1, 4)),
        random_times(rng, slots, 1, lanes=int(rng.integers(1, 4)), speculative=rng.random() < 0.3),
        int(rng.integers(1, 4)),
        slots,
        float(rng.choice([0.0, rng.uniform(0.1, 10.0)])),
        *KINDS[int(rng.integers(0, 3))],
    )
    # The API server takes some time, and no two prompts are equal, so that events do not coincide by construction:
    # rounding would decide which comes first.
    policy = random_policy(rng, budget)
    count = int(rng.integers(1, 60))
    requests = Requests(
        rng.permutation(np.arange(1.0, count + 1)), rng.integers(1, int(rng.choice([4, 41])), count).astype(float)
    )
    return pair, policy, int(rng.integers(1, 20)), requests


def simulated(case: Case) -> Seen:
    pair, policy, clients, requests = case
    lanes = pair.decode.lanes
    return handed_over(
        lambda tokens: pair.prefill.mixed_ms([0] * pair.prefill.lanes, tokens),
        lambda batch: pair.decode.decode_step_ms(-(-batch // lanes), batch),
        prefill_workers=pair.prefill_workers,
        decode_workers=pair.decode_workers,
        lanes=pair.prefill.lanes,
        slots=pair.slots,
        budget=policy.budget * pair.prefill.stages,
        transfer_ms=pair.transfer_ms,
        first_from_decode=bool(pair.first_token_steps),
        serve=lambda tokens: policy.request_ms + policy.token_us * tokens / 1000.0,
        clients=clients,
        inputs=[int(tokens) for tokens in requests.input_tokens],
        outputs=[int(tokens) for tokens in requests.output_tokens],
        accepted=pair.decode.tokens_per_step,
        recomputes=pair.recomputes_last_token,
    )


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_as_step_by_step(first: int) -> None:
    for seed in range(first, first + 50):
        case = draw(seed)
        try:
            same(run_pair(*case), simulated(case))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def test_every_request_ends_within_its_slots() -> None:
    for seed in range(100):
        case = draw(seed)
        pair, _, clients, requests = case
        found, expected = run_pair(*case), simulated(case)
        assert found.ttft_ms.size == requests.input_tokens.size
        assert found.tpot_ms.size == np.count_nonzero(requests.output_tokens > 1)
        assert found.output_tokens == requests.output_tokens.sum()
        assert expected.most_in_flight <= min(pair.slots, clients)


def test_littles_law() -> None:
    """The stays' sum is the area under the number in the system, which is `clients` until the last are sent."""
    for seed in range(100):
        pair, policy, clients, requests = draw(seed)
        count = requests.input_tokens.size
        requests = replace(requests, output_tokens=np.full(count, float(2 + seed % 20)))
        found = run_pair(pair, policy, clients, requests)
        stays = found.ttft_ms.sum() + (requests.output_tokens[0] - 1) * found.tpot_ms.sum()
        ends = np.sort(simulated((pair, policy, clients, requests)).done_ms)
        left = min(clients, count)
        area = left * ends[count - left] + sum(
            (left - 1 - k) * (ends[count - left + k + 1] - ends[count - left + k]) for k in range(left - 1)
        )
        assert stays == pytest.approx(area, rel=1e-9)


@pytest.mark.parametrize(("first_token_steps", "recomputes"), KINDS)
def test_one_client_sees_the_sum_of_step_times(first_token_steps: int, recomputes: bool) -> None:
    for seed in range(40):
        pair, policy, _, requests = draw(seed)
        rng = np.random.default_rng(seed)
        prefill = random_times(rng, 1, policy.budget)
        pair = replace(pair, prefill=prefill, first_token_steps=first_token_steps, recomputes_last_token=recomputes)
        found = run_pair(pair, policy, 1, requests)
        step_ms = pair.decode.decode_step_ms(1, 1)
        ttft, tpot, end = [], [], 0.0
        for prompt, answer in zip(requests.input_tokens.astype(int), requests.output_tokens, strict=True):
            whole, rest = divmod(int(prompt), policy.budget)
            computed = policy.ready_ms(prompt) + whole * prefill.mixed_ms([0], [policy.budget])
            computed += prefill.mixed_ms([0], [rest]) if rest else 0.0
            steps = math.ceil((answer - 1) / pair.decode.tokens_per_step)
            if first_token_steps:
                steps = steps + 1 if recomputes else max(steps, 1)
                computed += pair.transfer_ms + step_ms
                rest_ms = (steps - 1) * step_ms
            else:
                rest_ms = (pair.transfer_ms + steps * step_ms) if answer > 1 else 0.0
            ttft.append(computed)
            end += computed + rest_ms
            if answer > 1:
                tpot.append(rest_ms / (answer - 1))
        np.testing.assert_allclose(found.ttft_ms, ttft, rtol=1e-9)
        np.testing.assert_allclose(found.tpot_ms, tpot, rtol=1e-9, atol=1e-9)
        assert found.end_ms == pytest.approx(end)


def test_an_idle_prefill_worker_is_chosen_before_a_busy_one() -> None:
    """Two prompts a moment apart on two workers: each is computed alone, at once."""
    rng = np.random.default_rng(0)
    pair = Pair(random_times(rng, 1, 100), 2, random_times(rng, 4, 1), 1, 4, 0.0, 0)
    requests = Requests(np.array([80.0, 80.0]), np.array([1.0, 1.0]))
    found = run_pair(pair, Policy(100, False, 0.5, 0.0), 2, requests)
    alone = pair.prefill.mixed_ms([0], [80])
    np.testing.assert_allclose(found.ttft_ms, [0.5 + alone, 1.0 + alone])


def test_a_computed_prompt_does_not_stop_the_next_one() -> None:
    """Two lanes: while a long prompt goes on in one, a third prompt follows the short one in the other."""
    rng = np.random.default_rng(0)
    pair = Pair(random_times(rng, 2, 10, lanes=2), 1, random_times(rng, 4, 1), 1, 4, 0.0, 0)
    requests = Requests(np.array([25.0, 4.0, 10.0, 10.0]), np.ones(4))
    found = run_pair(pair, Policy(10, False, 0.0, 0.0), 4, requests)
    step = pair.prefill.mixed_ms
    first = step([0, 0], [10, 10])  # long 10 | short 4, third 6
    second = first + step([0, 0], [10, 10])  # long 10 | third 4, fourth 6
    third = second + step([0, 0], [5, 4])  # long 5 | fourth 4
    np.testing.assert_allclose(found.ttft_ms, [first, second, third, third])


def test_refusals_and_determinism() -> None:
    pair, policy, clients, requests = draw(0)
    with pytest.raises(ValueError, match="first_token_steps"):
        replace(pair, first_token_steps=2)
    with pytest.raises(ValueError, match="last prompt token"):
        replace(pair, first_token_steps=0, recomputes_last_token=True)
    first, again = run_pair(pair, policy, clients, requests), run_pair(pair, policy, clients, requests)
    np.testing.assert_array_equal(first.ttft_ms, again.ttft_ms)
    np.testing.assert_array_equal(first.tpot_ms, again.tpot_ms)
    later = run_pair(pair, replace(policy, delay_ms=3.0), clients, requests)
    np.testing.assert_allclose(later.ttft_ms, first.ttft_ms + 3.0)
    np.testing.assert_array_equal(later.tpot_ms, first.tpot_ms)
