"""What would make an infeasible mode feasible: one dimension at a time, the others held fixed.

In every dimension more is easier: milliseconds, bytes, GPUs, bits per second. So feasibility is monotone, and the
smallest sufficient value lies between the last one that was solved and had no plan and the first one that had one.
The search starts from the least latencies that any server has with nearly no load, or the least memory that any
server needs; that is only a guess, and both ends of the answer are solves of the whole problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from planner.clock import Clock, OutOfTimeError
from planner.costs.linear import FloatArray
from planner.costs.site import Site
from planner.costs.worker import Worker
from planner.options import prefill, serve
from planner.options.decode import DECODE_STEP_TOKENS
from planner.options.server import Server
from planner.options.targets import Targets
from planner.options.times import DecodeTimes
from planner.solve import Progress, solve
from planner.space import ServiceSpace, Slowdown, Space
from planner.variant import HAND_OVER, in_modes, inapplicable, replaced, respond, with_slo
from specs import catalog
from specs.plan import Relaxation
from specs.scenario import Pool, ResolvedPool, resolve_pool
from specs.service import Mode, Phase

Name = Literal["ttft", "tpot", "memory", "gpus", "network"]
NAMES: tuple[Name, ...] = ("ttft", "tpot", "memory", "gpus", "network")
UNITS: dict[Name, str] = {"ttft": "ms", "tpot": "ms", "memory": "GB per GPU", "gpus": "GPUs", "network": "Gbit/s"}
WORDS: dict[Name, str] = {"ttft": "TTFT", "tpot": "TPOT", "memory": "memory", "gpus": "GPUs", "network": "network"}

PRECISION = 1.01
"""Ratio of the sufficient value to the insufficient one below it at which the search stops."""

ABOVE_GUESS = 1.004
LARGEST_FACTOR: dict[Name, float] = {"ttft": 1e6, "tpot": 1e6, "memory": 64.0, "gpus": 64.0, "network": 1000.0}
"""Factor on today's value beyond which nothing is tried."""

MANY_GPUS = 256
"""A cluster is not enlarged beyond this, or beyond `MANY_TIMES` its size: wider layouts than fit there do not exist on
the engines, or bring no lower latency."""

MANY_TIMES = 4
FAR = 1.25
"""A least latency beyond this times the SLO cannot be an error of its being only nearly the least."""

FEASIBILITY_GAP = 10.0
"""Whether there is a plan is all that is asked."""

NO_GPUS = 1 << 40
"""Stands for servers that there are none of."""

GUESS_SLOTS = (1, 2, 4, 8, 16)


def relaxations(
    space: Space, *, clock: Clock, slowdown: Slowdown, progress: Progress | None = None
) -> tuple[list[Relaxation], list[str]]:
    """The smallest change of each dimension that makes each service's each mode feasible; and notes on what is missing.

    With several services the others keep all their modes and SLOs; memory, GPUs and network are the cluster's.

    Args:
        space: a space that has no plan.
        clock: of all solves together.
        slowdown: the factors on times that `space` was made with.
        progress: told of every question.
    """
    found: list[Relaxation] = []
    missing: list[str] = []
    dead = _dead_alone(space, clock, slowdown)
    for part in space.services:
        modes = part.service.modes
        others = [name for name in dead if name != part.service.name]
        for number, mode in enumerate(modes):
            reason = inapplicable(part, mode)
            one = in_modes(space, {part.index: (mode,)})
            share = clock.part(1.0 / (len(modes) - number)) if len(space.services) == 1 else clock
            case = _Case(one, part.index, mode, share, slowdown, progress, tuple(others))
            for name in NAMES:
                current = case.current(name)
                if current is None:
                    continue
                why = reason
                if why is None and others and name in ("ttft", "tpot"):
                    why = f"{', '.join(others)} would have no plan even alone on today's cluster"
                if why is not None:
                    found.append(case.answer(name, current, None, confirmed=False, detail=why))
                    continue
                try:
                    found.append(case.relax(name, current))
                except OutOfTimeError:
                    missing.append(f"{part.service.name} {mode.value} {WORDS[name]}")
    notes = [f"time ran out before these changes were found: {', '.join(missing)}"] if missing else []
    return found, notes


def _dead_alone(space: Space, clock: Clock, slowdown: Slowdown) -> list[str]:
    """Names of the services, where there are several, that have no plan even if the whole cluster is theirs."""
    if len(space.services) == 1:
        return []
    dead = []
    for part in space.services:
        alone = space.scenario.model_copy(update={"services": (part.service,)})
        cluster = Space.of(alone, space.pools, slowdown, space.calibration)
        solution = solve(cluster, gap=FEASIBILITY_GAP, time_limit_s=clock.left_s).solution
        if solution.status == "infeasible":
            dead.append(part.service.name)
    return dead


def words(relaxation: Relaxation) -> str:
    """A relaxation that suffices, in words."""
    name: Name = relaxation.dimension
    needed = math.nan if relaxation.needed is None else relaxation.needed
    return f"{WORDS[name]} {needed:.4g} {relaxation.unit} (now {relaxation.current:.4g})"


@dataclass(eq=False)
class _Case:
    """One service in one mode, and the questions asked about it.

    Args:
        space: the declared space, the service restricted to the mode.
        index: of the service.
        mode: the mode.
        clock: of all questions together.
        slowdown: factors on times.
        progress: told of every question.
        others: other services that would have no plan even alone on today's cluster.
        asked: the space whose least latencies were asked last, and these.
    """

    space: Space
    index: int
    mode: Mode
    clock: Clock
    slowdown: Slowdown
    progress: Progress | None
    others: tuple[str, ...]
    asked: tuple[Space, tuple[float | None, float | None]] | None = None

    @property
    def part(self) -> ServiceSpace:
        """The service's space."""
        return self.space.services[self.index]

    def current(self, name: Name) -> float | None:
        """Today's value of a dimension; None where the service has none."""
        match name:
            case "ttft" | "tpot":
                slo = self.part.service.slo
                phase = Phase.DECODE if name == "ttft" else Phase.PREFILL
                return None if self.part.service.phase is phase else getattr(slo, f"{name}_ms")
            case "memory":
                return max(pool.gpu.memory_bytes for pool in self._pools()) / 1e9
            case "gpus":
                return float(sum(pool.count for pool in self._pools()))
            case "network":
                return max(pool.scale_out_gbit_per_s for pool in self._pools())

    def answer(self, name: Name, current: float, needed: float | None, *, confirmed: bool, detail: str) -> Relaxation:
        """The relaxation as the plan states it."""
        return Relaxation(
            service=self.part.service.name,
            mode=self.mode,
            dimension=name,
            current=current,
            needed=needed,
            unit=UNITS[name],
            confirmed=confirmed,
            detail=detail,
        )

    def relax(self, name: Name, current: float) -> Relaxation:
        """The smallest sufficient value of a dimension.

        Raises:
            OutOfTimeError: the clock ran out first.
        """
        if self.clock.left_s <= 0.0:
            raise OutOfTimeError
        if self.progress is not None:
            self.progress(f"{self.part.service.name}, {self.mode.value}: smallest change of {WORDS[name]}", None, None)
        if name == "gpus":
            return self._relax_gpus(current)
        limit = LARGEST_FACTOR[name]
        between = smallest(lambda factor: self._feasible(self.eased(name, factor)), self._guess(name), limit)
        if between is None:
            held = least_gpus(self.part, self.mode) is not None
            why = self._why(self.space if held and name != "network" else self.eased(name, limit), name)
            detail = f"{_limit_words(name, current * limit)} would not be enough alone{why}"
            return self.answer(name, current, None, confirmed=False, detail=detail)
        low, high = between
        needed = current * high
        detail = f"at {current * low:.4g} {UNITS[name]} there is no plan: both were solved"
        if name == "network":
            detail += f"; scale-up and scale-out x {high:.3g}"
        elif name == "memory" and len({pool.gpu.memory_bytes for pool in self._pools()}) > 1:
            detail += f"; every GPU's memory x {high:.3g}"
        return self.answer(name, current, needed, confirmed=True, detail=detail)

    def _relax_gpus(self, current: float) -> Relaxation:
        """GPUs come in whole nodes, in every pool that the service may use at the same proportion."""
        most = min(max(MANY_GPUS, MANY_TIMES * current), LARGEST_FACTOR["gpus"] * current) / current
        factors = sorted({size / pool.count for _, pool, sizes in self._growth(most) for size in sizes})
        last = factors[-1] if factors else 1.0
        position, largest = None, self.eased("gpus", last)
        if not self._far(largest):
            position = smallest_index(lambda i: self._feasible(self.eased("gpus", factors[i])), len(factors))
        if position is None:
            there = sum(site.pool.count for site in largest.services[self.index].sites)
            detail = f"{there} GPUs would not be enough alone{self._why(largest, 'gpus')}"
            return self.answer("gpus", current, None, confirmed=False, detail=detail)
        steps = [self.eased("gpus", factors[at]) if at >= 0 else self.space for at in (position - 1, position)]
        below, needed = (float(sum(site.pool.count for site in s.services[self.index].sites)) for s in steps)
        detail = f"with {below:.0f} GPUs there is no plan: both were solved; in whole nodes"
        return self.answer("gpus", current, needed, confirmed=True, detail=detail)

    # -- variants ------------------------------------------------------------------------------------------------

    def eased(self, name: Name, factor: float) -> Space:
        """The space with a dimension multiplied."""
        if name in ("ttft", "tpot"):
            slo = self.part.service.slo
            now = slo.ttft_ms if name == "ttft" else slo.tpot_ms
            assert now is not None  # `current` has said so
            return respond(self.space, {self.index: with_slo(self.part.service, **{f"{name}_ms": now * factor})})
        allowed = self.part.service.limits.pools
        pools = []
        for pool, given in zip(self.space.pools, self.space.scenario.cluster.pools, strict=True):
            if allowed is not None and pool.name not in allowed:
                pools.append(pool)
            elif name == "memory":
                gpu = pool.gpu.model_copy(update={"memory_bytes": math.ceil(pool.gpu.memory_bytes * factor)})
                pools.append(pool.model_copy(update={"gpu": gpu}))
            elif name == "network":
                wider = {key: getattr(pool, key) * factor for key in ("scale_out_gbit_per_s", "scale_up_gbyte_per_s")}
                pools.append(pool.model_copy(update=wider))
            else:
                count = next(size for size in sizes(given, pool, factor) if size >= pool.count * factor - 1e-9)
                pools.append(resolve_pool(given.model_copy(update={"count": count})))
        return replaced(self.space, pools, self.slowdown)

    def _pools(self) -> list[ResolvedPool]:
        return [site.pool for site in self.part.sites]

    def _growth(self, most: float) -> list[tuple[Pool, ResolvedPool, list[int]]]:
        """The pools that the service may use, with the larger sizes that they may have."""
        own = {pool.name for pool in self._pools()}
        both = zip(self.space.scenario.cluster.pools, self.space.pools, strict=True)
        return [(given, pool, sizes(given, pool, most)) for given, pool in both if pool.name in own]

    # -- questions -----------------------------------------------------------------------------------------------

    def _feasible(self, space: Space) -> bool:
        if self.clock.left_s <= 0.0:
            raise OutOfTimeError
        solution = solve(space, gap=FEASIBILITY_GAP, time_limit_s=self.clock.left_s).solution
        if not solution.found and solution.status != "infeasible":
            raise OutOfTimeError
        return solution.found

    def _least(self, space: Space) -> tuple[float | None, float | None]:
        """Least TTFT and least TPOT of the case's service, remembered for the space that was asked last."""
        if self.asked is None or self.asked[0] is not space:
            part = space.services[self.index]
            self.asked = space, least_latencies(part, self.mode, self.clock, ttft_ms=math.inf, tpot_ms=math.inf)
        return self.asked[1]

    def _far(self, space: Space) -> bool:
        """Whether some service's servers are all far from its SLO even with nearly no load: nothing need be solved."""
        for part in space.services:
            if part.index == self.index:
                least = [self._least(space)]
            else:
                modes = [mode for mode in part.service.modes if inapplicable(part, mode) is None]
                least = [least_latencies(part, mode, self.clock, ttft_ms=math.inf, tpot_ms=math.inf) for mode in modes]
            if all(_beyond(each, part.targets) for each in least):
                return True
        return False

    def _why(self, space: Space, name: Name) -> str:
        """What else keeps the mode from serving, with nearly no load, in words."""
        part = space.services[self.index]
        targets = part.targets
        gpus = least_gpus(part, self.mode)
        if gpus is None:
            return ": no server's memory holds the weights and one request"
        short = []
        own = {pool.name for pool in self._pools()}
        there = sum(pool.count for pool in space.pools if pool.name in own)
        if gpus > there:
            short.append(f"its smallest servers take {gpus} GPUs, and there are {there}")
        ttft, tpot = self._least(space)
        for what, least, limit in (("TTFT", ttft, targets.ttft_ms), ("TPOT", tpot, targets.tpot_ms)):
            if least is not None and least > limit and what.lower() != name:
                short.append(f"the least {what} of any server is {least:.4g} ms, of {limit:.4g} ms allowed")
        if not short and part.service.demand_rps is not None and not self.space.scenario.objective.maximizing:
            short.append(f"{part.service.demand_rps:.4g} requests/s are more than it can serve")
        if not short and self.others:
            short.append(f"{', '.join(self.others)} would have no plan even alone on today's cluster")
        return f": {' and '.join(short)}" if short else ""

    def _guess(self, name: Name) -> float | None:
        """Factor near which the smallest sufficient value may lie."""
        part, targets = self.part, self.part.targets
        if name == "ttft":
            least = least_latencies(part, self.mode, self.clock, ttft_ms=math.inf, tpot_ms=targets.tpot_ms)[0]
            return None if least is None else least / targets.ttft_ms
        if name == "tpot":
            least = least_latencies(part, self.mode, self.clock, ttft_ms=targets.ttft_ms, tpot_ms=math.inf)[1]
            return None if least is None else least / targets.tpot_ms
        return least_memory_factor(part, self.mode) if name == "memory" else None


def _beyond(least: tuple[float | None, float | None], targets: Targets) -> bool:
    """Whether least latencies are far beyond an SLO, or there are none."""
    ttft, tpot = least
    return ttft is None or tpot is None or ttft > FAR * targets.ttft_ms or tpot > FAR * targets.tpot_ms


def sizes(given: Pool, pool: ResolvedPool, most: float) -> list[int]:
    """Sizes that a pool may grow to, up to `most` times its own or just over: parts of a node doubled, then nodes."""
    node = given.gpus_per_node or catalog.gpu(given.gpu).gpus_per_node
    found, count = [], pool.count
    while count < pool.count * most - 1e-9:
        count = min(2 * count, node) if count < node else count + node
        found.append(count)
    return found


def _limit_words(name: Name, value: float) -> str:
    return f"no limit on {WORDS[name]}" if name in ("ttft", "tpot") else f"{value:,.0f} {UNITS[name]}"


# -- searches ---------------------------------------------------------------------------------------------------------


def smallest(
    feasible: Callable[[float], bool], guess: float | None, limit: float, precision: float = PRECISION
) -> tuple[float, float] | None:
    """The ends (insufficient, sufficient) of an interval of ratio `precision` around the smallest sufficient factor.

    Both ends have been asked, except 1, which is known not to suffice. None where not even `limit` suffices.

    Args:
        feasible: whether a factor suffices; monotone.
        guess: where the answer may lie, or None.
        limit: largest factor tried.
        precision: ratio of the ends.
    """
    low, high = 1.0, math.inf
    if guess is not None and 1.0 < guess < limit:
        above = guess * ABOVE_GUESS
        if feasible(above):
            high = above
            below = max(above / precision, 1.0)
            if below == 1.0 or not feasible(below):
                return below, above
            high = below
        else:
            low = above
    if math.isinf(high):
        if not feasible(limit):
            return None
        high, step = limit, 1.1
        while low * step < limit:
            if feasible(low * step):
                high = low * step
                break
            low, step = low * step, step**2
    while high > low * precision * (1.0 + 1e-12):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if feasible(middle) else (middle, high)
    return low, high


def smallest_index(feasible: Callable[[int], bool], count: int) -> int | None:
    """The first index from 0 that suffices, the one below it asked as well; None where the last does not suffice.

    Indexes are asked at doubling distances before halving, because the large ones cost most.
    """
    low, high, step = -1, -1, 1
    while low < count - 1:
        asked = min(low + step, count - 1)
        if feasible(asked):
            high = asked
            break
        low, step = asked, 2 * step
    if high < 0:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if feasible(middle) else (middle, high)
    return high


# -- guesses ----------------------------------------------------------------------------------------------------------


def least_tpot_ms(part: ServiceSpace, mode: Mode, clock: Clock) -> float | None:
    """Least TPOT that any server has with nearly no load and TTFT within its SLO; None where no server does.

    Raises:
        OutOfTimeError: the clock ran out first.
    """
    return least_latencies(part, mode, clock, ttft_ms=part.targets.ttft_ms, tpot_ms=math.inf)[1]


def least_latencies(
    part: ServiceSpace, mode: Mode, clock: Clock, *, ttft_ms: float, tpot_ms: float
) -> tuple[float | None, float | None]:
    """Least TTFT of a request whose TPOT is within `tpot_ms`, and least TPOT of one whose TTFT is within `ttft_ms`.

    With nearly no load: nobody waits for a prompt, and few slots are taken. None where there is no such server.

    Raises:
        OutOfTimeError: the clock ran out first.
    """
    ttft, tpot = math.inf, math.inf
    for first, each in _paths(part, mode, clock):
        good = each <= tpot_ms
        if good.any():
            ttft = min(ttft, float(first[good].min()))
        good = first <= ttft_ms
        if good.any():
            tpot = min(tpot, float(each[good].min()))
    return (ttft if math.isfinite(ttft) else None), (tpot if math.isfinite(tpot) else None)


def _paths(part: ServiceSpace, mode: Mode, clock: Clock) -> Iterator[tuple[FloatArray, FloatArray]]:
    """(TTFT, TPOT) of servers, or of pairs of prefill and decode servers, with nearly no load."""
    if part.service.phase is Phase.PREFILL:
        times = np.array([time for _, _, time in _prompts(part, mode, clock)])
        yield times, np.zeros_like(times)
        return
    if part.service.phase is Phase.FULL and mode not in HAND_OVER:
        yield from _serving(part, mode, clock)
        return
    decoding = list(_decoding(part, mode, clock))
    if part.service.phase is Phase.DECODE:
        for _, _, tpot in decoding:
            yield np.zeros_like(tpot), tpot
        return
    transfer, prompts = part.transfer(), _prompts(part, mode, clock)
    for rate in sorted({min(link, own) for link, _, _ in prompts for own, _, _ in decoding}):
        handed = [
            time + float(transfer.exposed_ms(np.ones(1), rate, np.array([chunks]), np.array([time]))[0])
            for link, chunks, time in prompts
            if link >= rate
        ]
        for own, first, tpot in decoding:
            if own >= rate:
                yield min(handed) + first, tpot


def _prompts(part: ServiceSpace, mode: Mode, clock: Clock) -> list[tuple[float, int, float]]:
    """(bytes/ms of its links, chunks, ms) of one prompt on every prefill worker whose memory holds it."""
    found = []
    for worker in part.prefill_workers(mode):
        clock.check()
        site = worker.site
        link = worker.layout.tp * worker.layout.pp * site.fabric.scale_out_bytes_per_ms
        for chunks in prefill.chunk_counts(site.lengths.input).tolist():
            if worker.largest_slots(site.lengths.input / chunks, decode=False):
                found.append((link, chunks, float(worker.prefill_ms(1.0, chunks))))
    return found


def _slots(server: Server, cap: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> FloatArray:
    """A few small numbers of slots per server that memory holds, (n, g)."""
    tried = np.stack([np.full_like(cap, slots) for slots in GUESS_SLOTS] + [server.parts], axis=1)
    return np.asarray(np.minimum(tried, np.maximum(cap, 1)[:, None]), dtype=float)


def _decoding(part: ServiceSpace, mode: Mode, clock: Clock) -> Iterator[tuple[float, FloatArray, FloatArray]]:
    """(bytes/ms of its links, first step, TPOT) of servers that only decode."""
    for _, server in part.servers(mode):
        clock.check()
        cap = server.slots_cap(np.full(server.copies.size, DECODE_STEP_TOKENS))
        rows = np.flatnonzero(cap)
        if rows.size:
            kept = server.take(rows)
            times, slots = DecodeTimes(kept, part.targets), _slots(kept, cap[rows])
            link = server.links * server.site.fabric.scale_out_bytes_per_ms
            yield link, times.first_ms(slots).ravel(), times.tpot_ms(slots).ravel()


def _serving(part: ServiceSpace, mode: Mode, clock: Clock) -> Iterator[tuple[FloatArray, FloatArray]]:
    """(TTFT, TPOT) of servers that serve whole requests, for every number of chunks."""
    for _, server in part.servers(mode):
        clock.check()
        lengths = server.site.lengths
        for chunks in serve.chunk_counts(lengths.input).tolist():
            cap = server.slots_cap(np.full(server.copies.size, lengths.input / chunks))
            rows = np.flatnonzero(cap)
            if not rows.size:
                continue
            kept = server.take(rows)
            rates = serve.Rates(kept, part.targets, np.full(rows.size, chunks), part.prefix_load_ms(server))
            slots = _slots(kept, cap[rows])
            mix = rates.seen_mix(slots)
            idle = mix.at(np.zeros_like(slots))
            yield rates.ttft_ms(idle, mix, slots).ravel(), rates.tpot_ms(idle, mix).ravel()


def least_gpus(part: ServiceSpace, mode: Mode) -> int | None:
    """Fewest GPUs on which memory holds weights and one request: of one server, or of one on either side."""
    computing = [w.layout.gpus for w in part.prefill_workers(mode) if w.largest_slots(0.0, decode=False)]
    decoding = [
        int(server.gpus[server.slots_cap(np.zeros(server.copies.size)) > 0].min(initial=NO_GPUS))
        for _, server in part.servers(mode)
    ]
    if part.service.phase is Phase.PREFILL:
        least = min(computing, default=NO_GPUS)
    elif part.service.phase is Phase.FULL and mode in HAND_OVER:
        least = min(computing, default=NO_GPUS) + min(decoding, default=NO_GPUS)
    else:
        least = min(decoding, default=NO_GPUS)
    return None if least >= NO_GPUS else least


def least_memory_factor(part: ServiceSpace, mode: Mode) -> float | None:
    """Least factor on GPU memory with which some server, or some on either side, holds its weights and one request."""
    if part.service.phase is Phase.PREFILL:
        sides = [_prefill_needs(part, mode)]
    elif part.service.phase is Phase.FULL and mode in HAND_OVER:
        sides = [_prefill_needs(part, mode), _decode_needs(part, mode)]
    else:
        sides = [_decode_needs(part, mode)]
    least = [min(needs, default=math.inf) for needs in sides]
    return max(least) if math.isfinite(max(least)) else None


def _memory_factor(site: Site, needed_bytes: float) -> float:
    """Factor on a GPU's memory that leaves `needed_bytes` after the engine's share."""
    return (needed_bytes + site.engine.reserve_bytes) / site.engine.memory_fraction / site.pool.gpu.memory_bytes


def _prefill_needs(part: ServiceSpace, mode: Mode) -> list[float]:
    return [
        _memory_factor(worker.site, _worker_bytes(worker, worker.site.lengths.input / chunks, decode=False))
        for worker in part.prefill_workers(mode)
        for chunks in prefill.chunk_counts(worker.site.lengths.input).tolist()
    ]


def _decode_needs(part: ServiceSpace, mode: Mode) -> list[float]:
    found = []
    for family, server in part.servers(mode):
        tokens = DECODE_STEP_TOKENS
        if part.service.phase is Phase.FULL and mode not in HAND_OVER:
            lengths = server.site.lengths
            tokens = lengths.input / float(serve.chunk_counts(lengths.input)[-1])
        if isinstance(family, Worker):
            found.append(_memory_factor(family.site, _worker_bytes(family, tokens, decode=True)))
            continue
        attention = family.attention_weight_bytes + family.attention.activation_bytes(tokens)
        ffn = _memory_factor(family.ffn_site, family.ffn_weight_bytes)
        found.append(max(_memory_factor(family.attention_site, attention + family.reservation().bytes(1)), ffn))
    return found


def _worker_bytes(worker: Worker, tokens: float, *, decode: bool) -> float:
    return worker.weight_bytes + worker.activation_bytes(tokens) + worker.reservation(decode=decode).bytes(1)
