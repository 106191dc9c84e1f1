"""Random routing of tokens to experts, slots, ranks and domains, counted copy by copy."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A sample mean and its standard error."""

    mean: float
    error: float

    def agrees(self, value: float, deviations: float = 4.5) -> bool:
        return abs(self.mean - value) <= deviations * self.error + 1e-9


def estimate(samples: np.ndarray) -> Estimate:
    values = np.asarray(samples, dtype=float)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size)))


def uniform_choices(
    rng: np.random.Generator, tokens: int, experts: int, k: int, groups: int = 1, groups_per_token: int = 1
) -> np.ndarray:
    """(tokens, k) experts: first the groups by random scores, then the experts by random scores inside them."""
    group_scores = rng.random((tokens, groups))
    allowed = np.argsort(np.argsort(group_scores, axis=1), axis=1) < groups_per_token
    scores = rng.random((tokens, experts)) + 2.0 * np.repeat(allowed, experts // groups, axis=1)
    return np.argpartition(-scores, k - 1, axis=1)[:, :k]


def skewed_choices(rng: np.random.Generator, tokens: int, experts: int, k: int, skew: float) -> np.ndarray:
    """(tokens, k) experts with inclusion probabilities min(1, c i^-skew), by systematic sampling in random order."""
    weight = np.arange(1, experts + 1) ** -skew
    low, high = 0.0, experts / weight[-1]
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1.0, middle * weight).sum() < k else (low, middle)
    inclusion = np.minimum(1.0, high * weight)
    chosen = np.empty((tokens, k), dtype=int)
    for token in range(tokens):
        order = rng.permutation(experts)
        edges = np.cumsum(inclusion[order])
        edges *= k / edges[-1]
        points = rng.random() + np.arange(k)
        chosen[token] = order[np.minimum(np.searchsorted(edges, points, side="right"), experts - 1)]
    return chosen


def choose_slots(rng: np.random.Generator, chosen: np.ndarray, slot_experts: np.ndarray) -> np.ndarray:
    """Send each (token, expert) to a random one of the slots that hold the expert."""
    experts = int(slot_experts.max()) + 1
    copies = np.bincount(slot_experts, minlength=experts)
    table = np.zeros((experts, copies.max()), dtype=int)
    filled = np.zeros(experts, dtype=int)
    for slot, expert in enumerate(slot_experts):
        table[expert, filled[expert]] = slot
        filled[expert] += 1
    pick = (rng.random(chosen.shape) * copies[chosen]).astype(int)
    return table[chosen, pick]


def reached(locations: np.ndarray, places: int) -> np.ndarray:
    """(tokens, places) whether any of a token's experts is there."""
    hit = np.zeros((locations.shape[0], places), dtype=bool)
    hit[np.arange(locations.shape[0])[:, None], locations] = True
    return hit


def copies(
    rng: np.random.Generator, collective: str, sender: str, rank_of: np.ndarray, ranks: int, ranks_per_domain: int
) -> tuple[np.ndarray, np.ndarray]:
    """Follow each token's copies one by one: (tokens,) over scale-up and over scale-out."""
    per_domain = min(ranks, ranks_per_domain)
    scale_up = np.zeros(rank_of.shape[0])
    scale_out = np.zeros(rank_of.shape[0])
    for token, targets in enumerate(rank_of.tolist()):
        own_rank = int(rng.integers(ranks)) if sender == "member" else -1
        home = own_rank // per_domain if sender == "member" else -1
        if sender == "same_domain":
            home = int(rng.integers(ranks // per_domain))
        if collective == "deepep_normal":
            entry_index = own_rank % per_domain if sender == "member" else int(rng.integers(per_domain))
            for domain in {rank // per_domain for rank in targets}:
                holder = own_rank
                if domain != home:
                    scale_out[token] += 1
                    holder = domain * per_domain + entry_index
                for rank in {rank for rank in targets if rank // per_domain == domain}:
                    scale_up[token] += rank != holder
            continue
        if collective == "one_sided":
            targets = set(targets)
        elif collective == "all_gather":
            targets = range(ranks)
        for rank in targets:
            if rank == own_rank:
                continue
            if rank // per_domain == home:
                scale_up[token] += 1
            else:
                scale_out[token] += 1
    return scale_up, scale_out
