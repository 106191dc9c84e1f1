"""Routing expectations against random routing and known figures."""

from math import comb

import numpy as np
import pytest

from planner.costs.routing import (
    Collective,
    Sender,
    activated_experts,
    distinct_domains,
    distinct_ranks,
    hottest_rank_activated,
    hottest_rank_tokens,
    load_imbalance,
    remote_copies,
    slot_probabilities,
)
from tests.oracles import routing_monte_carlo as monte_carlo

# experts, k, ranks, groups, groups per token, slots: unaligned groups and redundant slots among them
ROUTINGS = [
    (256, 8, 16, 1, 1, 256),
    (256, 8, 64, 8, 4, 256),
    (256, 8, 4, 8, 4, 256),
    (256, 8, 144, 8, 4, 288),
    (64, 6, 8, 1, 1, 96),
    (48, 4, 12, 8, 2, 48),
    (48, 4, 16, 3, 2, 64),
    (16, 1, 8, 1, 1, 16),
]


def uniform_slots(rng: np.random.Generator, tokens: int, routing: tuple[int, ...]) -> np.ndarray:
    experts, k, _, groups, groups_per_token, slots = routing
    chosen = monte_carlo.uniform_choices(rng, tokens, experts, k, groups, groups_per_token)
    return monte_carlo.choose_slots(rng, chosen, np.arange(slots) % experts)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_distinct_ranks_and_domains_equal_random_routing(routing: tuple[int, ...]) -> None:
    experts, k, ranks, groups, groups_per_token, slots = routing
    slot = uniform_slots(np.random.default_rng(1), 20000, routing)
    kwargs = {"groups": groups, "groups_per_token": groups_per_token, "slots": slots}
    rank_count = monte_carlo.reached(slot // (slots // ranks), ranks).sum(axis=1)
    assert monte_carlo.estimate(rank_count).agrees(distinct_ranks(experts, k, ranks, **kwargs))
    for per_domain in (2, 4, ranks):
        domains = ranks // per_domain
        domain_count = monte_carlo.reached(slot // (slots // domains), domains).sum(axis=1)
        assert monte_carlo.estimate(domain_count).agrees(distinct_domains(experts, k, ranks, per_domain, **kwargs))


@pytest.mark.parametrize(("ranks", "published"), [(8, 5.3), (16, 6.5), (32, 7.3), (64, 7.7)])
def test_distinct_ranks_of_256_experts_top_8(ranks: int, published: float) -> None:
    value = distinct_ranks(256, 8, ranks)
    assert value == pytest.approx(published, abs=0.05)
    assert value == pytest.approx(ranks * (1 - comb(256 - 256 // ranks, 8) / comb(256, 8)), rel=1e-12)


def test_group_limited_routing_bounds_the_nodes() -> None:
    """DeepSeek-V3: 8 groups on 8 nodes, 4 per token; its authors report at most 4 nodes per token."""
    limited = distinct_domains(256, 8, 64, 8, groups=8, groups_per_token=4)
    assert limited < 4 < distinct_domains(256, 8, 64, 8)


@pytest.mark.parametrize("routing", [ROUTINGS[1], ROUTINGS[3], ROUTINGS[6]])
@pytest.mark.parametrize("collective", list(Collective))
@pytest.mark.parametrize("sender", list(Sender))
def test_remote_copies_equal_copies_followed_one_by_one(
    routing: tuple[int, ...], collective: Collective, sender: Sender
) -> None:
    experts, k, ranks, groups, groups_per_token, slots = routing
    rng = np.random.default_rng(2)
    rank_of = uniform_slots(rng, 2500, routing) // (slots // ranks)
    for per_domain in (4, 512):
        value = remote_copies(
            collective,
            experts,
            k,
            ranks,
            per_domain,
            sender=sender,
            groups=groups,
            groups_per_token=groups_per_token,
            slots=slots,
        )
        up, out = monte_carlo.copies(rng, collective.value, sender.value, rank_of, ranks, per_domain)
        assert monte_carlo.estimate(up).agrees(value.scale_up)
        assert monte_carlo.estimate(out).agrees(value.scale_out)


def test_one_domain_has_no_scale_out_and_one_rank_no_traffic() -> None:
    for collective in Collective:
        assert remote_copies(collective, 256, 8, 8, 72).scale_out == 0.0
        single = remote_copies(collective, 256, 8, 1, 8)
        assert (single.scale_up, single.scale_out) == (0.0, 0.0)
        assert remote_copies(collective, 256, 8, 8, 72, sender=Sender.OTHER_DOMAIN).scale_out > 0.0


@pytest.mark.parametrize(("experts", "k", "groups", "groups_per_token"), [(256, 8, 1, 1), (64, 6, 8, 3), (8, 8, 1, 1)])
def test_activated_experts_equal_random_routing(experts: int, k: int, groups: int, groups_per_token: int) -> None:
    rng = np.random.default_rng(3)
    batches = [1, 4, 32, 100]
    for tokens, value in zip(batches, activated_experts(batches, experts, k), strict=True):
        counts = [
            np.unique(monte_carlo.uniform_choices(rng, tokens, experts, k, groups, groups_per_token)).size
            for _ in range(300)
        ]
        assert monte_carlo.estimate(np.array(counts)).agrees(value)
    assert activated_experts(0, experts, k) == 0.0


@pytest.mark.parametrize(("experts", "k", "ranks", "skew", "slots"), [(64, 4, 8, 0.8, 64), (32, 8, 4, 1.5, 40)])
def test_hottest_rank_equals_random_routing(experts: int, k: int, ranks: int, skew: float, slots: int) -> None:
    """Spare slots copy the busiest experts and slots are dealt out by popularity, both restated here."""
    rng = np.random.default_rng(4)
    tokens, rounds = 24, 400
    chosen = monte_carlo.skewed_choices(rng, tokens * rounds, experts, k, skew)
    assert all(len(set(row)) == k for row in chosen.tolist())

    popularity = np.minimum(1.0, slot_probabilities(experts, k, skew))
    copies = [1] * experts
    for _ in range(slots - experts):
        copies[max(range(experts), key=lambda i: popularity[i] / copies[i])] += 1
    holders = [expert for expert in range(experts) for _ in range(copies[expert])]
    holders.sort(key=lambda expert: -popularity[expert] / copies[expert])
    rank = monte_carlo.choose_slots(rng, chosen, np.array(holders))
    on_hottest = rank % ranks == 0
    arrivals = on_hottest.reshape(rounds, -1).sum(axis=1)
    active = np.array(
        [np.unique(r[h]).size for r, h in zip(rank.reshape(rounds, -1), on_hottest.reshape(rounds, -1), strict=True)]
    )

    assert monte_carlo.estimate(arrivals).agrees(float(hottest_rank_tokens(tokens, experts, k, ranks, skew, slots)))
    assert monte_carlo.estimate(active).agrees(float(hottest_rank_activated(tokens, experts, k, ranks, skew, slots)))
    mean = tokens * k / ranks
    imbalance = load_imbalance(experts, k, ranks, skew, slots)
    assert monte_carlo.estimate(arrivals / mean).agrees(imbalance)
    assert imbalance >= 1.0


def test_slot_probabilities_are_a_capped_power_law() -> None:
    probabilities = slot_probabilities(128, 8, 1.2)
    assert probabilities.sum() == pytest.approx(8.0)
    assert probabilities.max() <= 1.0
    free = probabilities[probabilities < 1.0]
    first = probabilities.size - free.size + 1
    np.testing.assert_allclose(free / free[0], (np.arange(first, 129) / first) ** -1.2)


def test_skew_raises_the_imbalance_and_spare_slots_lower_it() -> None:
    values = [load_imbalance(256, 8, 32, skew) for skew in (0.0, 0.3, 0.6, 1.0)]
    assert values[0] == pytest.approx(1.0)
    assert values == sorted(values)
    assert load_imbalance(256, 8, 32, 1.0, slots=288) < values[-1]


def test_uniform_hottest_rank_is_the_mean_rank() -> None:
    tokens = np.array([1.0, 7.0, 500.0])
    np.testing.assert_allclose(hottest_rank_tokens(tokens, 256, 8, 32), tokens * 8 / 32)
    np.testing.assert_allclose(hottest_rank_activated(tokens, 256, 8, 32), activated_experts(tokens, 256, 8) / 32)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="choose 9 of 8"):
        activated_experts(1, 8, 9)
    with pytest.raises(ValueError, match="shared equally"):
        distinct_ranks(256, 8, 7)
    with pytest.raises(ValueError, match="groups"):
        distinct_ranks(256, 8, 8, groups=8, groups_per_token=9)
    with pytest.raises(ValueError, match="domains"):
        remote_copies(Collective.ONE_SIDED, 256, 8, 16, 6)
    with pytest.raises(ValueError, match="shared equally"):
        load_imbalance(256, 8, 7, 1.0)
    with pytest.raises(ValueError, match="skew"):
        load_imbalance(256, 8, 8, -1.0)
