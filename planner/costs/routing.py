"""Where the tokens of a mixture-of-experts layer go: expectations in closed form.

Routing model. A token chooses k of E experts. *Uniform*: ``groups_per_token`` of the ``groups`` equal blocks of experts
uniformly, then k experts uniformly without replacement among those blocks (``groups = 1``: among all). *Skewed*: expert
i (1 = most popular) is among the k with probability q_i = min(1, c i^-skew), c such that the q_i sum to k; tokens are
independent.

Placement model. There are ``slots >= experts`` expert slots, ``slots / ranks`` of them on each rank, in order, and
``ranks_per_domain`` successive ranks make a scale-up domain (a node, or a rack). A token that wants an expert with
several copies goes to one of them at random. For uniform routing slot t holds expert t mod E. For skewed routing the
spare slots copy, one at a time, the expert with the most tokens per copy, and slots are dealt to ranks round-robin in
order of popularity.

Oracle: ``tests/oracles/routing_monte_carlo.py`` routes random tokens.
"""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


class Collective(StrEnum):
    """How tokens travel to the ranks of their experts."""

    ONE_SIDED = "one_sided"
    """One copy to each distinct rank, written directly (one-sided NVLink kernels)."""
    DEEPEP_NORMAL = "deepep_normal"
    """One copy to each distinct domain over scale-out, then one to each distinct rank in it over scale-up."""
    DEEPEP_LOW_LATENCY = "deepep_low_latency"
    """One copy for each of the k experts, even where two share a rank."""
    ALL_GATHER = "all_gather"
    """A copy to every rank."""


class Sender(StrEnum):
    """Where the rank that holds the token sits relative to the ranks that hold the experts."""

    MEMBER = "member"
    """It is one of them (expert parallelism over the same GPUs)."""
    SAME_DOMAIN = "same_domain"
    """It is not, but shares a scale-up domain with some of them, each domain being equally likely."""
    OTHER_DOMAIN = "other_domain"
    """It is in a scale-up domain that holds none of them."""


@dataclass(frozen=True)
class Copies:
    """Count the copies of one token that cross each kind of link, on average; the local share is not among them."""

    scale_up: float
    scale_out: float


def activated_experts(tokens: ArrayLike, experts: int, k: int) -> FloatArray:
    """Count the distinct experts, on average, that at least one of B tokens chooses: E (1 - (1 - k/E)^B).

    Exact under uniform routing, group-limited or not, since each expert is chosen with probability k/E.

    Args:
        tokens: (...) number of tokens B, not negative.
        experts: number of routed experts E.
        k: experts per token.

    Returns:
        (...) expected number of activated experts.

    Raises:
        ValueError: k outside 1..E.
    """
    _check_choice(experts, k)
    activated: FloatArray = experts * (1.0 - (1.0 - k / experts) ** np.asarray(tokens, dtype=np.float64))
    return activated


def distinct_ranks(
    experts: int, k: int, ranks: int, *, groups: int = 1, groups_per_token: int = 1, slots: int | None = None
) -> float:
    """Count the distinct ranks, on average, that hold the k experts of a token, under uniform routing.

    Without groups and spare slots: N (1 - C(E - E/N, k) / C(E, k)).

    Args:
        experts: number of routed experts E.
        k: experts per token.
        ranks: number of ranks N that share the slots equally.
        groups: equal blocks of experts that routing is limited to (``n_group``).
        groups_per_token: blocks that a token may use (``topk_group``).
        slots: expert slots over all ranks; ``experts`` by default.

    Returns:
        The expected number of distinct ranks.

    Raises:
        ValueError: counts that do not divide, or k larger than the experts a token may use.
    """
    slots = experts if slots is None else slots
    _check_choice(experts, k)
    if slots < experts or slots % ranks:
        raise ValueError(f"{slots} slots for {experts} experts cannot be shared equally by {ranks} ranks")
    if experts % groups or not 1 <= groups_per_token <= groups or k > groups_per_token * (experts // groups):
        raise ValueError(
            f"{k} of {experts} experts cannot be chosen in {groups_per_token} of {groups} equal groups of experts"
        )
    return _distinct_blocks(experts, k, ranks, groups, groups_per_token, slots)


def distinct_domains(
    experts: int,
    k: int,
    ranks: int,
    ranks_per_domain: int,
    *,
    groups: int = 1,
    groups_per_token: int = 1,
    slots: int | None = None,
) -> float:
    """Count the distinct scale-up domains (nodes), on average, that hold the experts of a token, if uniform.

    Args:
        experts: number of routed experts E.
        k: experts per token.
        ranks: number of ranks; at most ``ranks_per_domain`` or a multiple of it.
        ranks_per_domain: ranks in one domain.
        groups: equal blocks of experts that routing is limited to.
        groups_per_token: blocks that a token may use.
        slots: expert slots over all ranks; ``experts`` by default.

    Returns:
        The expected number of distinct domains.

    Raises:
        ValueError: counts that do not divide.
    """
    domains = ranks // _ranks_in_domain(ranks, ranks_per_domain)
    return distinct_ranks(experts, k, domains, groups=groups, groups_per_token=groups_per_token, slots=slots)


def remote_copies(
    collective: Collective,
    experts: int,
    k: int,
    ranks: int,
    ranks_per_domain: int,
    *,
    sender: Sender = Sender.MEMBER,
    groups: int = 1,
    groups_per_token: int = 1,
    slots: int | None = None,
) -> Copies:
    """Count the copies of one token that leave its rank in a dispatch; a combine returns as many.

    With D distinct ranks and X distinct domains per token, N ranks, n of them in a domain, and senders spread evenly,
    linearity of expectation puts D/N of the copies on the sender's own rank and n D/N in its domain. DeepEP normal
    enters a remote domain at the rank with the sender's local index (a share 1/n of that domain's copies stays there)
    and forwards to the others over scale-up.

    Args:
        collective: how the tokens travel.
        experts: number of routed experts E.
        k: experts per token.
        ranks: number of ranks that hold experts; at most ``ranks_per_domain`` or a multiple of it.
        ranks_per_domain: ranks in one scale-up domain.
        sender: where the sender sits.
        groups: equal blocks of experts that routing is limited to.
        groups_per_token: blocks that a token may use.
        slots: expert slots over all ranks; ``experts`` by default.

    Returns:
        Copies per token over scale-up and over scale-out links.

    Raises:
        ValueError: counts that do not divide.
    """
    in_domain = _ranks_in_domain(ranks, ranks_per_domain)
    reached = distinct_ranks(experts, k, ranks, groups=groups, groups_per_token=groups_per_token, slots=slots)
    domains = ranks // in_domain
    near = 0.0 if sender is Sender.OTHER_DOMAIN else in_domain / ranks
    local = 1.0 / ranks if sender is Sender.MEMBER else 0.0

    if collective is Collective.DEEPEP_NORMAL:
        entered = distinct_ranks(experts, k, domains, groups=groups, groups_per_token=groups_per_token, slots=slots)
        forwarded = reached * (1.0 - near) * (1.0 - 1.0 / in_domain)
        return Copies(scale_up=reached * (near - local) + forwarded, scale_out=entered * (1.0 - near))
    if collective is Collective.ONE_SIDED:
        copies = reached
    elif collective is Collective.DEEPEP_LOW_LATENCY:
        copies = float(k)
    else:
        copies = float(ranks)
    return Copies(scale_up=copies * (near - local), scale_out=copies * (1.0 - near))


def slot_probabilities(experts: int, k: int, skew: float, slots: int | None = None) -> FloatArray:
    """Probability that a token goes to each expert slot, most popular slot first.

    Args:
        experts: number of routed experts E.
        k: experts per token.
        skew: exponent of the power law, 0 for uniform.
        slots: expert slots over all ranks; ``experts`` by default.

    Returns:
        (slots,) probabilities that sum to k.

    Raises:
        ValueError: k outside 1..E, fewer slots than experts or a negative skew.
    """
    slots = experts if slots is None else slots
    _check_choice(experts, k)
    if slots < experts or skew < 0:
        raise ValueError(f"slots ({slots}) must be at least experts ({experts}) and skew ({skew}) not negative")
    return _slot_probabilities(experts, k, float(skew), slots)


def load_imbalance(experts: int, k: int, ranks: int, skew: float, slots: int | None = None) -> float:
    """Divide the expected tokens of the most loaded rank by the mean of all ranks (the limit of a large batch).

    Args:
        experts: number of routed experts E.
        k: experts per token.
        ranks: number of ranks that share the slots equally.
        skew: exponent of the power law, 0 for uniform.
        slots: expert slots over all ranks; ``experts`` by default.

    Returns:
        The ratio, at least 1; 1 if uniform and without spare slots.

    Raises:
        ValueError: counts that do not divide, k outside 1..E or a negative skew.
    """
    return float(_hottest_rank(experts, k, ranks, skew, slots).sum()) * ranks / k


def hottest_rank_tokens(
    tokens: ArrayLike, experts: int, k: int, ranks: int, skew: float = 0.0, slots: int | None = None
) -> FloatArray:
    """Count the token copies, on average, that arrive at the rank with the most popular experts.

    Args:
        tokens: (...) number of tokens B over all ranks.
        experts: number of routed experts E.
        k: experts per token.
        ranks: number of ranks that share the slots equally.
        skew: exponent of the power law, 0 for uniform.
        slots: expert slots over all ranks; ``experts`` by default.

    Returns:
        (...) token copies; B k / N if uniform.

    Raises:
        ValueError: counts that do not divide, k outside 1..E or a negative skew.
    """
    copies: FloatArray = np.asarray(tokens, dtype=np.float64) * _hottest_rank(experts, k, ranks, skew, slots).sum()
    return copies


def hottest_rank_activated(
    tokens: ArrayLike, experts: int, k: int, ranks: int, skew: float = 0.0, slots: int | None = None
) -> FloatArray:
    """Count the activated expert slots, on average, on the most loaded rank: sum over its slots of 1 - (1 - q)^B.

    Args:
        tokens: (...) number of tokens B over all ranks.
        experts: number of routed experts E.
        k: experts per token.
        ranks: number of ranks that share the slots equally.
        skew: exponent of the power law, 0 for uniform.
        slots: expert slots over all ranks; ``experts`` by default.

    Returns:
        (...) activated slots; E/N (1 - (1 - k/E)^B) if uniform and without spare slots.

    Raises:
        ValueError: counts that do not divide, k outside 1..E or a negative skew.
    """
    count = np.asarray(tokens, dtype=np.float64)
    activated = np.zeros(count.shape)
    probabilities, multiplicity = np.unique(_hottest_rank(experts, k, ranks, skew, slots), return_counts=True)
    for probability, slots_alike in zip(probabilities, multiplicity, strict=True):
        activated += slots_alike * (1.0 - (1.0 - probability) ** count)
    return activated


def _check_choice(experts: int, k: int) -> None:
    if not 1 <= k <= experts:
        raise ValueError(f"a token cannot choose {k} of {experts} experts")


def _ranks_in_domain(ranks: int, ranks_per_domain: int) -> int:
    """Ranks of the group in each domain that it occupies."""
    if ranks > ranks_per_domain and ranks % ranks_per_domain:
        raise ValueError(f"{ranks} ranks do not fill domains of {ranks_per_domain}")
    return min(ranks, ranks_per_domain)


def _hottest_rank(experts: int, k: int, ranks: int, skew: float, slots: int | None) -> FloatArray:
    """Probabilities of the slots of rank 0, which the round-robin deal makes the most loaded."""
    probabilities = slot_probabilities(experts, k, skew, slots)
    if probabilities.size % ranks:
        raise ValueError(f"{probabilities.size} expert slots cannot be shared equally by {ranks} ranks")
    return probabilities[::ranks]


@lru_cache(maxsize=1024)
def _slot_probabilities(experts: int, k: int, skew: float, slots: int) -> FloatArray:
    weight = np.arange(1, experts + 1, dtype=np.float64) ** -skew
    # Experts whose share would exceed one copy per token are capped; the rest keep their proportions.
    capped = 0
    chosen = weight * k / weight.sum()
    while capped < k and chosen[capped] > 1.0:
        chosen[capped] = 1.0
        capped += 1
        chosen[capped:] = weight[capped:] * (k - capped) / weight[capped:].sum()
    copies = np.ones(experts)
    for _ in range(slots - experts):
        copies[np.argmax(chosen / copies)] += 1
    probabilities = np.sort(np.repeat(chosen / copies, copies.astype(np.int64)))[::-1].copy()
    probabilities.setflags(write=False)
    return probabilities


@lru_cache(maxsize=4096)
def _distinct_blocks(experts: int, k: int, blocks: int, groups: int, groups_per_token: int, slots: int) -> float:
    """Count the blocks, on average, of successive slots that a token reaches.

    A token misses a block with probability [z^g y^k] prod over groups (1 + z prod over experts (1 + w y)), divided by
    C(groups, g) C(g E / groups, k), where w is the chance that a token which chose the expert goes to a copy outside
    the block: 1 - (copies inside) / (copies).
    """
    per_block = slots // blocks
    per_group = experts // groups
    untouched = _binomial_polynomial(per_group, k)
    choices = comb(groups, groups_per_token) * comb(groups_per_token * per_group, k)
    missed_of: dict[tuple[tuple[float, ...], ...], float] = {}
    reached = 0.0
    for block in range(blocks):
        inside = Counter(slot % experts for slot in range(block * per_block, (block + 1) * per_block))
        weights: dict[int, list[float]] = {}
        for expert, count in inside.items():
            copies = slots // experts + (expert < slots % experts)
            weights.setdefault(expert // per_group, []).append(1.0 - count / copies)
        signature = tuple(sorted(tuple(sorted(group)) for group in weights.values()))
        if signature not in missed_of:
            polynomials = [_group_polynomial(per_group, group, k) for group in signature]
            polynomials += [untouched] * (groups - len(signature))
            missed_of[signature] = _coefficient(polynomials, groups_per_token, k) / choices
        reached += 1.0 - missed_of[signature]
    return reached


def _binomial_polynomial(power: int, degree: int) -> FloatArray:
    """Coefficients of (1 + y)^power up to y^degree."""
    return np.array([float(comb(power, i)) for i in range(degree + 1)])


def _group_polynomial(per_group: int, weights: tuple[float, ...], degree: int) -> FloatArray:
    """Coefficients of (1 + y)^(per_group - len(weights)) prod (1 + w y), up to y^degree."""
    polynomial = _binomial_polynomial(per_group - len(weights), degree)
    for weight in weights:
        if weight > 0.0:
            polynomial[1:] += weight * polynomial[:-1]
    return polynomial


def _coefficient(polynomials: list[FloatArray], groups_per_token: int, degree: int) -> float:
    """Coefficient of z^groups_per_token y^degree in prod (1 + z polynomial(y))."""
    # chosen[t]: polynomial in y over all ways to have chosen t of the groups seen so far.
    chosen = np.zeros((groups_per_token + 1, degree + 1))
    chosen[0, 0] = 1.0
    for polynomial in polynomials:
        for count in range(groups_per_token, 0, -1):
            chosen[count] += np.convolve(chosen[count - 1], polynomial)[: degree + 1]
    return float(chosen[groups_per_token, degree])
