"""How prompts stretch the steps of a server whose lanes run in lockstep.

The n lanes of a server (attention DP ranks that exchange tokens with their experts, or the attention replicas of an
AFD unit) start and end every step together, so a prompt chunk on any of them makes the step longer for all. Let t_d,
t_1 and t_n be the times of steps with no chunk, a chunk on one lane, and one on every lane (linear between t_1 and
t_n, where only the experts' load grows, with slope s). Prompts arrive at rate R on the server and take K chunks each.

**Share of steps with a chunk.** Let phi = K R tau / n be the share of steps in which one given lane computes a chunk.
Two limits frame the share P of steps with a chunk on some lane.

- Few prompts: count time in steps. Prompts that arrive during a step of length t start with the next one, a Poisson
  number with mean R t, each in service for K steps, on many lanes as with many servers. Runs of steps with chunks are
  the busy periods of that queue, with mean (e^(K b) - 1) / (1 - e^-b) steps for b = R t_b arrivals in a step with
  chunks (of length t_b); runs without have mean 1 / (1 - e^-a) for a = R t_d. Prompts that arrive during a long step
  coincide in the next one, so that P is smaller than independent lanes would have it.
- Busy lanes: prompts queue for their lane and lanes become independent, P = 1 - (1 - phi)^n.

P is taken sqrt(phi) of the way (an empirical blend, chosen against the simulation) from the first to the second
where that is larger; on one lane it is phi, exactly. Against the simulation the mean step is within 3%, and TTFT
within 5% while a lane computes prompts less than half of the time (up to 13% short beyond that):
`tests/planner/test_mixing.py`.

**Mean step.** tau = t_d + P (t_1 - t_d) + (n phi - P) s, where n phi = K R tau. A prompt's own steps have (n - 1) phi
other lanes active on average: t_s = t_1 + phi (t_n - t_1). By Little's law the server holds m = R (K t_s + D tau)
requests, D decode steps each, without those that wait.

Oracle: tests/oracles/lockstep.py simulates the lanes step by step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.linear import FloatArray

SECANT_STEPS = 3
BRACKET_STEPS = 40
STEEP_HALVINGS = 50
SHARE_TOLERANCE = 1e-11
LARGEST_SHARE = 1.0 - 1e-12
ROOT_STEPS = 24
ROOT_TOLERANCE = 1e-11
LARGEST_EXPONENT = 600.0
SWAMPED = 1e9
"""Factor on the step of a server that cannot take its rate: longer than any SLO."""


@dataclass(frozen=True)
class Mixed:
    """A server at some rate; arrays of one shape.

    Args:
        rate: requests/ms.
        share: share of steps in which a given lane computes a chunk; 1 or more where the rate is too high.
        busy_share: share of steps with a chunk on some lane.
        step_ms: mean step.
        prompt_step_ms: mean step in which a given lane computes a chunk.
    """

    rate: FloatArray
    share: FloatArray
    busy_share: FloatArray
    step_ms: FloatArray
    prompt_step_ms: FloatArray


@dataclass(frozen=True, eq=False)
class _Agreement:
    """The share phi of a lane and the share P of any lane, which determine each other; arrays of one shape.

    Args:
        lanes: n.
        work: K r, busy time of a lane per time and step.
        decode: t_d.
        first: t_1 - t_d - s.
        spread: 1 - n K r s.
        few: P in the limit of few prompts.
    """

    lanes: FloatArray
    work: FloatArray
    decode: FloatArray
    first: FloatArray
    spread: FloatArray
    few: FloatArray

    def busy(self, share: FloatArray) -> FloatArray:
        """P of a share phi."""
        independent = -np.expm1(self.lanes * np.log1p(-np.minimum(share, LARGEST_SHARE)))
        return np.asarray(self.few + np.sqrt(share) * np.maximum(independent - self.few, 0.0))

    def _next(self, busy: FloatArray) -> FloatArray:
        """Phi = K r tau for P."""
        step = np.maximum((self.decode + busy * self.first) / self.spread, self.decode)
        return np.asarray(np.minimum(self.work * step, 1.0))

    def agreed(self) -> FloatArray:
        """P where both agree: a few secant steps for all, a bracket for those that take longer."""
        old = self._next(self.few)
        share = self._next(self.busy(old))
        old_excess = old - share
        for step in range(SECANT_STEPS + 1):
            busy = self.busy(share)
            found = self._next(busy)
            excess = share - found
            open_ = np.abs(excess) > SHARE_TOLERANCE
            if step == SECANT_STEPS or not open_.any():
                break
            rise = excess - old_excess
            flat = rise == 0.0
            moved = np.where(flat, found, share - excess * (share - old) / np.where(flat, 1.0, rise))
            old, old_excess, share = share, excess, np.minimum(np.maximum(moved, 0.0), 1.0)
        left = np.flatnonzero(open_)
        if left.size:
            rest = self.taken(left)
            busy.flat[left] = rest.busy(rest._bracketed())
        return busy

    def taken(self, rows: NDArray[np.intp]) -> _Agreement:
        """The laws of some, in one row."""
        columns = (self.lanes, self.work, self.decode, self.first, self.spread, self.few)
        return _Agreement(*(column.ravel()[rows] for column in columns))

    def steep(self, slope: FloatArray, every: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Step and P where a further chunk costs more than the first, so that 1 - n K r s may be negative.

        The step itself is bracketed then: t_d + P (t_1 - t_d) + (n phi - P) s - tau is not negative at t_d, unless
        prompts hardly ever coincide, and not positive at t_n, unless lanes cannot take the rate.
        """

        def excess(step: FloatArray) -> FloatArray:
            share = np.minimum(self.work * step, 1.0)
            busy = self.busy(share)
            return self.decode + busy * (self.first + slope) + (self.lanes * share - busy) * slope - step

        low, high = self.decode.copy(), every.copy()
        for _ in range(STEEP_HALVINGS):
            middle = 0.5 * (low + high)
            above = excess(middle) > 0.0
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        load = self.work * every
        step = np.where(load < 1.0, low, every * load)
        return step, np.where(load < 1.0, self.busy(np.minimum(self.work * step, 1.0)), 1.0)

    def _bracketed(self) -> FloatArray:
        """The same by regula falsi (Illinois), between the shares that the least and the largest P ask for.

        Which of these is smaller depends on whether the second chunk of a step costs more than the first.
        """
        ends = self._next(self.few), self._next(self.busy(np.ones_like(self.few)))
        low, high = np.minimum(*ends), np.maximum(*ends)
        low_value, high_value = low - self._next(self.busy(low)), high - self._next(self.busy(high))
        side = np.zeros(low.shape, dtype=np.int64)
        middle = high
        for _ in range(BRACKET_STEPS):
            width = np.where(high_value > low_value, high_value - low_value, 1.0)
            inside = (high_value > 0.0) & (low_value < 0.0)
            middle = np.where(
                inside, (low * high_value - high * low_value) / width, np.where(low_value < 0.0, high, low)
            )
            value = middle - self._next(self.busy(middle))
            if np.all(np.abs(value) <= SHARE_TOLERANCE):
                break
            above = value > 0.0
            high_value = np.where(above, value, np.where(side == -1, 0.5 * high_value, high_value))
            low_value = np.where(above, np.where(side == 1, 0.5 * low_value, low_value), value)
            high, low = np.where(above, middle, high), np.where(above, low, middle)
            side = np.where(above, 1, -1)
        return np.asarray(middle)


@dataclass(frozen=True, eq=False)
class Mix:
    """Step times of servers at given numbers of requests in flight; arrays that broadcast to (n, g), ms.

    Args:
        decode: step without a prompt chunk.
        one: step with a chunk on one lane.
        every: step with a chunk on every lane.
        lanes: lanes in lockstep.
        chunks: chunks per prompt.
    """

    decode: FloatArray
    one: FloatArray
    every: FloatArray
    lanes: FloatArray
    chunks: NDArray[np.int64]

    def columns(self, part: slice) -> Mix:
        """Some columns."""
        decode, one, every = (values[:, part] for values in (self.decode, self.one, self.every))
        return Mix(decode, one, every, self.lanes, self.chunks)

    def at(self, rate: FloatArray) -> Mixed:
        """The server at a rate in requests/ms."""
        if (self.lanes == 1).all():
            return self._one_lane(rate)
        lane_work = rate * self.chunks / self.lanes
        slope = (self.every - self.one) / np.maximum(self.lanes - 1.0, 1.0)
        in_busy = self.one + np.minimum(lane_work * self.one, 1.0) * (self.every - self.one)
        arrivals = np.minimum(rate * in_busy, LARGEST_EXPONENT / self.chunks)
        idle_per_busy = -np.expm1(-arrivals) / np.maximum(
            np.expm1(arrivals * self.chunks) * -np.expm1(-rate * self.decode), 1e-300
        )
        few = np.where(rate > 0.0, 1.0 / (1.0 + idle_per_busy), 0.0)
        # Chunks on more than one lane add n phi - P = K R tau - P lanes at the slope.
        spread = np.maximum(1.0 - self.lanes * lane_work * slope, 1.0 / SWAMPED)
        laws = _Agreement(
            *np.broadcast_arrays(self.lanes, lane_work, self.decode, self.one - self.decode - slope, spread, few)
        )
        busy = laws.agreed()
        step = np.maximum((self.decode + busy * laws.first) / spread, self.decode)
        steep = (laws.first < 0.0) & (laws.lanes > 1)
        if steep.any():
            slopes, full = np.broadcast_to(slope, steep.shape)[steep], np.broadcast_to(self.every, steep.shape)[steep]
            step, busy = step.copy(), busy.copy()
            step[steep], busy[steep] = laws.taken(np.flatnonzero(steep)).steep(slopes, full)
        several = self.lanes > 1
        if not several.all():
            alone = self._one_lane(rate)
            step, busy = np.where(several, step, alone.step_ms), np.where(several, busy, alone.busy_share)
        share = lane_work * step
        prompt = self.one + np.minimum(share, 1.0) * (self.every - self.one)
        return Mixed(rate, share, busy, step, prompt)

    def _one_lane(self, rate: FloatArray) -> Mixed:
        """One lane: P = phi = K R tau, which is explicit."""
        work = rate * self.chunks
        step = self.decode / np.maximum(1.0 - work * (self.one - self.decode), 1.0 / SWAMPED)
        share = work * step
        return Mixed(rate, share, np.minimum(share, 1.0), step, self.one * np.ones_like(step))

    def in_flight(self, rate: FloatArray, decode_steps: float) -> FloatArray:
        """Mean requests in flight on the server, without those that wait."""
        mixed = self.at(rate)
        return np.asarray(rate * (self.chunks * mixed.prompt_step_ms + decode_steps * mixed.step_ms))

    def rate_bounds(self, flight: FloatArray, decode_steps: float) -> tuple[FloatArray, FloatArray]:
        """Bounds on `rate` without a search: no stay is shorter than with t_1 and t_d, nor longer than at that rate."""
        high = np.asarray(flight / (self.chunks * self.one + decode_steps * self.decode))
        mixed = self.at(high)
        return np.asarray(flight / (self.chunks * mixed.prompt_step_ms + decode_steps * mixed.step_ms)), high

    def rate(self, flight: FloatArray, decode_steps: float) -> FloatArray:
        """The rate at which `flight` requests are in flight on the server, or the largest below it, requests/ms.

        Little's law read as rate = flight / stay(rate) has a right side that falls from flight / (K t_1 + D t_d), so
        that the difference of both sides is bracketed from the start and nearly straight: regula falsi (Illinois).
        """

        def stay(rate: FloatArray) -> FloatArray:
            mixed = self.at(rate)
            return np.asarray(self.chunks * mixed.prompt_step_ms + decode_steps * mixed.step_ms)

        high = np.asarray(flight / (self.chunks * self.one + decode_steps * self.decode))
        low = np.zeros_like(high)
        low_value, high_value = -high, high - flight / stay(high)
        side = np.zeros(high.shape, dtype=np.int64)
        best = high
        for _ in range(ROOT_STEPS):
            width = np.maximum(high_value - low_value, 1e-300)
            best = np.where(high_value <= 0.0, high, (low * high_value - high * low_value) / width)
            value = best - flight / stay(best)
            if np.all(np.abs(value) <= ROOT_TOLERANCE * best):
                break
            above = value > 0.0
            high_value = np.where(above, value, np.where(side == -1, 0.5 * high_value, high_value))
            low_value = np.where(above, np.where(side == 1, 0.5 * low_value, low_value), value)
            high, low = np.where(above, best, high), np.where(above, low, best)
            side = np.where(above, 1, -1)
        return np.asarray(best)
