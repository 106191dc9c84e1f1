"""Waiting for a prefill step, and how many requests a decode worker holds.

Each replica is a queue of its own. Arrivals have a coefficient of variation ``cv`` of their gaps (1: Poisson, 0: evenly
spaced or closed loop), service is deterministic.

**Prefill** is a bulk queue: whenever the server is free and someone waits it takes up to b requests for a step of S ms,
whatever their number. With utilisation rho = arrival rate x S / b and c = cv^2, an arrival that finds a step running
(probability P) waits for the rest of it, uniform on (0, S), and then X for the requests that did not fit before it:

    P = 1 - (1 - P1) / max(1, (c + 1) / 2),    P1 = b rho N / (1 + b rho N),    N = exp((b - 1) rho) / (1 - rho)
    W = P S / 2 + x
    x = S / b [min(1, c) rho^2 / (2 (1 - rho)) + e ((1 + rho) / (4 (1 - rho)) - (1 - rho) / (2 (c + 1)))]
    e = max(0, c - 1)
    P(W > t) = P (1 - t / S) + x / S (1 - exp(-t / h))             for t < S
             = x / S (1 - exp(-S / h)) exp(-(t - S) / h)           for t >= S
    h = max(c S / b (1 / (2 (1 - rho)) - 1 / 6), x / P)

N is the mean number of steps of a busy period (exact for b = 1 and for unlimited b); W is exact for M/D/1,
rho S / (2 (1 - rho)); h is the two-term expansion of the decay rate of the GI/D queue with gamma gaps; for c > 1 the
excess is midway between Kingman's approximation and Poisson batches of geometric size with the same dispersion.
P, x and x / h increase with rho, hence W and P(W > t) do, and every budget has one largest utilisation.
Against simulation (``tests/oracles/queue_simulation.py``; b = 1..16, rho = 0.1..0.95): with Poisson arrivals mean and
percentiles are within -5% and +12%; for cv = 2 the mean is within -3% and +34%, the percentiles within -11% and +54%,
the excess at low load, where even rho = 0 is given some wait (bursts). For cv < 1 arrivals are taken as Poisson until
the backlog matters: too long by up to P S / 2 where b rho < 1 and few would wait at all, too short by at most 8%.

**Decode** holds a request for its whole answer, so the number in flight N behaves as in an infinite-server queue: mean
m, variance cv^2 m. A request itself sees E[N^2] / E[N] = m + cv^2, and its time per token averages N over its stay D:
arrivals at distance u count 1 - |u| / D, so the average has variance (2/3) cv^2 m and third cumulant m / 2 (M/D/inf),
and its percentile is m + cv^2 + z cv sqrt(2 m / 3) + cv^2 max(0, z^2 - 1) / 8 (Cornish-Fisher).
"""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specs.service import Statistic

FloatArray = NDArray[np.float64]

_PROBABILITY = {Statistic.P50: 0.50, Statistic.P90: 0.90, Statistic.P95: 0.95, Statistic.P99: 0.99}
# Standard deviations kept free between the mean number in flight and the slots. For Poisson arrivals the probability
# that all slots are taken tends to 0.15% (Halfin-Whitt); by Erlang C it is 0.3% at 64 slots, 0.6% at 16 and 2% at 4.
_STAFFING_DEVIATIONS = 3.0
# Halvings of a bisection: to 1e-14 of the bracket.
_HALVINGS = 32


def prefill_wait_ms(
    utilisation: ArrayLike,
    batch: ArrayLike,
    step_ms: ArrayLike,
    cv: ArrayLike = 1.0,
    statistic: Statistic = Statistic.MEAN,
) -> FloatArray:
    """Return the time a request waits before its prefill step starts.

    Args:
        utilisation: (...) arrival rate x step / batch, in [0, 1).
        batch: (...) most requests that one step takes, at least 1.
        step_ms: (...) time of a step, positive.
        cv: (...) coefficient of variation of the gaps between arrivals.
        statistic: mean or percentile. From p90 up it is not below the mean, which it could be where few wait at all.

    Returns:
        (...) waiting time in ms.

    Raises:
        ValueError: an unknown statistic.
    """
    rho, b, step, c = _broadcast(utilisation, batch, step_ms, np.square(cv))
    busy, backlog, decay = _wait_parts(rho, b, c)
    mean = busy / 2.0 + backlog
    if statistic is Statistic.MEAN:
        return step * mean
    tail = 1.0 - _probability(statistic)
    at_one_step = backlog * -np.expm1(-1.0 / decay)
    beyond = 1.0 + decay * np.log(np.maximum(at_one_step, tail) / tail)
    within = _bisect(lambda t: _exceeds(t, busy, backlog, decay) >= tail, np.ones_like(rho))
    wait = np.where(at_one_step > tail, beyond, within)
    return step * (wait if statistic is Statistic.P50 else np.maximum(wait, mean))


def largest_utilisation(
    budget_ms: ArrayLike,
    batch: ArrayLike,
    step_ms: ArrayLike,
    cv: ArrayLike = 1.0,
    statistic: Statistic = Statistic.MEAN,
) -> FloatArray:
    """Invert ``prefill_wait_ms``: the largest utilisation whose wait stays within the budget.

    Args:
        budget_ms: (...) time a request may wait.
        batch: (...) most requests that one step takes, at least 1.
        step_ms: (...) time of a step, positive.
        cv: (...) coefficient of variation of the gaps between arrivals.
        statistic: mean or percentile.

    Returns:
        (...) utilisation in [0, 1), 0 where the budget is not positive; non-decreasing in the budget.

    Raises:
        ValueError: an unknown statistic.
    """
    budget, b, step, c = _broadcast(budget_ms, batch, step_ms, np.square(cv))
    allowed = budget / step

    def mean_within(rho: FloatArray) -> NDArray[np.bool_]:
        busy, backlog, _ = _wait_parts(rho, b, c)
        return busy / 2.0 + backlog <= allowed

    def percentile_within(rho: FloatArray) -> NDArray[np.bool_]:
        busy, backlog, decay = _wait_parts(rho, b, c)
        within = _exceeds(allowed, busy, backlog, decay) <= tail
        return within if statistic is Statistic.P50 else within & (busy / 2.0 + backlog <= allowed)

    tail = 0.0 if statistic is Statistic.MEAN else 1.0 - _probability(statistic)
    largest = _bisect(mean_within if statistic is Statistic.MEAN else percentile_within, np.ones_like(allowed))
    return np.where(allowed > 0.0, largest, 0.0)


def in_flight(slots: ArrayLike, cv: ArrayLike = 1.0) -> FloatArray:
    """Return the mean number in flight m that slots carry nearly without waiting: slots = m + 3 cv sqrt(m).

    Args:
        slots: (...) requests that fit at once.
        cv: (...) coefficient of variation of the gaps between arrivals; 0 (closed loop) fills every slot.

    Returns:
        (...) mean number in flight.
    """
    return _square_root_rule(np.asarray(slots, dtype=np.float64), _STAFFING_DEVIATIONS * np.asarray(cv))


def occupancy_seen(
    mean_in_flight: ArrayLike, cv: ArrayLike = 1.0, statistic: Statistic = Statistic.MEAN, slots: ArrayLike = np.inf
) -> FloatArray:
    """Return the number of requests in flight, itself included, that a request sees on average over its stay.

    Args:
        mean_in_flight: (...) mean number in flight m.
        cv: (...) coefficient of variation of the gaps between arrivals.
        statistic: mean or percentile over requests.
        slots: (...) requests that fit at once, never exceeded.

    Returns:
        (...) requests.

    Raises:
        ValueError: an unknown statistic.
    """
    mean, deviation = np.asarray(mean_in_flight, dtype=np.float64), np.asarray(cv, dtype=np.float64)
    own, spread = _occupancy_terms(deviation, statistic)
    return np.minimum(mean + own + spread * np.sqrt(mean), slots)


def largest_in_flight(
    occupancy_limit: ArrayLike, slots: ArrayLike, cv: ArrayLike = 1.0, statistic: Statistic = Statistic.MEAN
) -> FloatArray:
    """Invert ``occupancy_seen``: the largest mean number in flight that keeps the occupancy within a limit.

    Args:
        occupancy_limit: (...) requests in flight at which the time per token is just met.
        slots: (...) requests that fit at once; where they are within the limit only ``in_flight`` bounds the mean.
        cv: (...) coefficient of variation of the gaps between arrivals.
        statistic: mean or percentile over requests.

    Returns:
        (...) mean number in flight, 0 where the limit cannot be kept.

    Raises:
        ValueError: an unknown statistic.
    """
    limit, capacity, deviation, _ = _broadcast(occupancy_limit, slots, cv, 0.0)
    own, spread = _occupancy_terms(deviation, statistic)
    staffed = in_flight(capacity, deviation)
    return np.where(capacity <= limit, staffed, np.minimum(staffed, _square_root_rule(limit - own, spread)))


def _broadcast(a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike) -> tuple[FloatArray, ...]:
    return tuple(np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in (a, b, c, d))))


def _probability(statistic: Statistic) -> float:
    if statistic not in _PROBABILITY:
        raise ValueError(f"statistic {statistic!r} has no percentile; accepted: {', '.join(_PROBABILITY)}")
    return _PROBABILITY[statistic]


def _wait_parts(rho: FloatArray, b: FloatArray, c: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return P, x and h of the module docstring for a step of 1."""
    idle = 1.0 - rho
    excess = np.maximum(c - 1.0, 0.0)
    # (1 - P1) with numerator and denominator multiplied by exp(-(b - 1) rho), which cannot overflow.
    empty = idle * np.exp(-(b - 1.0) * rho)
    busy = 1.0 - empty / (empty + b * rho) / (1.0 + excess / 2.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        backlog = np.minimum(c, 1.0) * rho**2 / (2.0 * idle)
        backlog = (backlog + excess * ((1.0 + rho) / (4.0 * idle) - idle / (2.0 * (c + 1.0)))) / b
        decay = np.maximum(c / b * (0.5 / idle - 1.0 / 6.0), backlog / busy)
    # Without variability nothing is left over and the decay length is immaterial; it only must not be zero.
    return busy, backlog, np.where(decay > 0.0, decay, 1.0)


def _exceeds(t: FloatArray, busy: FloatArray, backlog: FloatArray, decay: FloatArray) -> FloatArray:
    """P(W > t) for a step of 1."""
    within = busy * np.maximum(1.0 - t, 0.0)
    left_over: FloatArray = -np.expm1(-np.minimum(t, 1.0) / decay) * np.exp(-np.maximum(t - 1.0, 0.0) / decay)
    return within + backlog * left_over


def _bisect(holds: Callable[[FloatArray], NDArray[np.bool_]], upper: FloatArray) -> FloatArray:
    """Return a point just below the threshold up to which a condition holds, in [0, upper); 0 if it never holds."""
    low, high = np.zeros_like(upper), np.where(holds(np.zeros_like(upper)), upper, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        below = holds(middle)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low


def _occupancy_terms(deviation: FloatArray, statistic: Statistic) -> tuple[FloatArray, FloatArray]:
    """Return the parts of the occupancy seen that are constant in m and that grow with sqrt(m)."""
    z = 0.0 if statistic is Statistic.MEAN else NormalDist().inv_cdf(_probability(statistic))
    return deviation**2 * (1.0 + max(z**2 - 1.0, 0.0) / 8.0), z * deviation * np.sqrt(2.0 / 3.0)


def _square_root_rule(total: FloatArray, spread: ArrayLike) -> FloatArray:
    """Return m with total = m + spread sqrt(m), 0 where total is not positive."""
    half = np.asarray(spread, dtype=np.float64) / 2.0
    positive = np.maximum(total, 0.0)
    root: FloatArray = positive / (half + np.sqrt(half**2 + positive) + (positive == 0.0))
    # Not root^2: without spread this returns the total itself.
    return np.maximum(positive - 2.0 * half * root, 0.0)
