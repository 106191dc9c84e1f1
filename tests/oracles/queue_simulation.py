"""Simulations of the bulk-service prefill queue and of requests in flight, and Erlang's waiting probability."""

import numpy as np


def gaps(rng: np.random.Generator, mean: float, cv: float, count: int) -> np.ndarray:
    """Gaps between arrivals: evenly spaced (cv 0) or gamma."""
    if cv == 0.0:
        return np.full(count, mean)
    return rng.gamma(cv**-2, mean * cv**2, count)


def bulk_waits(rng: np.random.Generator, batch: int, utilisation: float, cv: float, count: int) -> np.ndarray:
    """Return the waits, in steps, at a server that starts up to ``batch`` waiting requests whenever it is free."""
    arrivals = np.cumsum(gaps(rng, 1.0 / (batch * utilisation), cv, count)).tolist()
    waits = []
    free = 0.0
    first = 0
    while first < count:
        start = max(free, arrivals[first])
        last = first
        while last < count and last - first < batch and arrivals[last] <= start:
            waits.append(start - arrivals[last])
            last += 1
        first = last
        free = start + 1.0
    return np.array(waits[count // 20 :])


def occupancies(rng: np.random.Generator, mean_in_flight: float, cv: float, count: int) -> np.ndarray:
    """Time-averaged number in flight over each request's own stay of 1, with as many servers as needed."""
    arrivals = np.cumsum(gaps(rng, 1.0 / mean_in_flight, cv, count))
    times = np.concatenate([arrivals, arrivals + 1.0])
    changes = np.repeat([1.0, -1.0], count)
    order = np.argsort(times, kind="stable")
    times, number = times[order], np.cumsum(changes[order])
    area = np.concatenate([[0.0], np.cumsum(number[:-1] * np.diff(times))])
    seen = np.interp(arrivals + 1.0, times, area) - np.interp(arrivals, times, area)
    warm = (arrivals > 2.0) & (arrivals < arrivals[-1] - 1.0)
    return seen[warm]


def erlang_wait_probability(servers: int, load: float) -> float:
    """Erlang C by the Erlang B recursion."""
    blocking = 1.0
    for n in range(1, servers + 1):
        blocking = load * blocking / (n + load * blocking)
    return blocking / (1.0 - load / servers * (1.0 - blocking))


def batch_error(samples: np.ndarray, percentile: float | None, batches: int = 20) -> tuple[float, float]:
    """Mean or percentile of a correlated series and its standard error from batch means."""
    values = [
        float(part.mean() if percentile is None else np.quantile(part, percentile))
        for part in np.array_split(samples, batches)
    ]
    whole = float(samples.mean() if percentile is None else np.quantile(samples, percentile))
    return whole, float(np.std(values, ddof=1) / np.sqrt(batches))
