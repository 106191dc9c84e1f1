"""The optimum of a small scenario over raw options, written independently of the planner's options and of its program.

Of the planner only the cost model is used (step times, memory, queueing functions) and the list of layouts. Everything
else is written again from the definitions: a server with B slots per replica carries m requests on average, where
slots = m + 3 cv sqrt(m); all its times are those that a request sees at that occupancy; and

- a decode server serves m / stay;
- a server of whole requests, with K chunks per prompt, serves the largest rate at which the slots carry what is in
  flight (Little) and TTFT and TPOT hold, found by bisection on the rate; its mean step at a rate is the fixed point of
  the definitions in `planner.options.mixing`, bracketed and halved;
- a prefill worker serves the largest rate whose wait fits what TTFT leaves after prefill, transfer and decode part.

Every integer B up to the memory, every chunk count, every prompt batch is tried. Replicas are placed by enumerating
every multiset of items that packs into the domains, and a dynamic program over them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from planner.costs.queueing import in_flight, largest_utilisation, occupancy_seen, prefill_wait_ms
from planner.costs.site import Site
from planner.costs.worker import Worker
from planner.options.layouts import afd_units, layouts
from specs.scenario import ResolvedPool, Scenario, resolve_pool
from specs.service import Mode, Service, Statistic
from tests.formulations.brute_force import fits
from tests.planner.naive_launchable import attention_items, mode_launches, unit_launches, worker_launches

WAIT_PROBABILITY = 0.00148  # Halfin-Whitt at three standard deviations: 1 / (1 + 3 Phi(3) / phi(3))
DECODE_TOKENS = 512.0  # tokens on a rank for which a decode step reserves activations
BISECTIONS = 40
STEP_HALVINGS = 60
STEP_ERROR = 1e-13  # of a step
CLOSE = 1e-12
INVERSE = 1e-9  # of a utilisation, to which `largest_utilisation` is believed

Item = tuple[int, int]  # pool, GPUs
Footprint = tuple[tuple[Item, int], ...]


def footprint(items: Iterable[Item]) -> Footprint:
    return tuple(sorted(Counter(items).items()))


# -- one service on one pool, as its requests see it -----------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """A server of any kind.

    `decode` and `mixed` take (mean in flight, slots[, chunks, one_lane]) of one attention replica.
    """

    items: Footprint
    site: Site
    copies: int
    lanes: int
    link: float  # bytes/ms at which one request's cache arrives
    nics: float  # bytes/ms at which all caches arrive
    gpus_of_request: int
    decode: Callable[..., np.ndarray]
    mixed: Callable[..., np.ndarray]
    cap: Callable[[float], int]


def machines(sites: Sequence[Site], mode: Mode) -> Iterator[Machine]:
    """Whatever decodes in a mode."""
    handed = "decode" if mode in (Mode.PREFILL_DECODE, Mode.PREFILL_DECODE_AFD) else None
    if mode in (Mode.AGGREGATED, Mode.PREFILL_DECODE):
        for pool, site in enumerate(sites):
            for layout in layouts(site, Counter()):
                if not worker_launches(site.service, site.pool, layout, experts(site), handed=handed):
                    continue
                worker = Worker(site, layout)
                rate = site.fabric.scale_out_bytes_per_ms
                yield Machine(
                    footprint([(pool, layout.gpus)]),
                    site,
                    1,
                    layout.dp,
                    layout.tp * layout.pp * rate,
                    layout.gpus * rate,
                    layout.tp * layout.pp,
                    worker.decode_step_ms,
                    worker.mixed_step_ms,
                    partial(worker.largest_slots, decode=True),
                )
        return
    for a, near in enumerate(sites):
        for f, far in enumerate(sites):
            for family in afd_units(near, far, Counter()):
                unit, rate = family.unit, near.fabric.scale_out_bytes_per_ms
                for copies, batches in zip(family.copies.tolist(), family.microbatches.tolist(), strict=True):
                    layout = unit.layout(copies, batches)
                    if not unit_launches(near.service, near.pool, far.pool, layout, experts(near)):
                        continue
                    number, block = attention_items(near.service, near.pool, layout)
                    items = [(a, block)] * number + [(f, unit.ep * unit.moe_tp)]
                    if unit.scale_up:
                        items = [(a, copies * unit.tp + unit.ep * unit.moe_tp)]

                    def decode(mean, slots, unit=unit, copies=copies, batches=batches):
                        return unit.decode_step_ms(mean, copies, batches, slots)

                    def mixed(mean, slots, chunks, one_lane=False, unit=unit, copies=copies, batches=batches):
                        return unit.mixed_step_ms(mean, copies, batches, slots, chunks, one_lane=one_lane)

                    def cap(tokens, unit=unit, copies=copies, batches=batches):
                        slots = unit.largest_slots(tokens)
                        return slots if slots >= batches and bool(unit.ffn_fits(copies * tokens)) else 0

                    yield Machine(
                        footprint(items),
                        near,
                        copies,
                        copies,
                        unit.tp * rate,
                        unit.tp * copies * rate,
                        unit.tp,
                        decode,
                        mixed,
                        cap,
                    )


def experts(site: Site) -> int:
    return site.moe.experts if site.moe else 0


@dataclass(frozen=True)
class Ask:
    """A service's SLO and arrivals."""

    service: Service
    site: Site

    @property
    def statistic(self) -> Statistic:
        return self.service.slo.statistic

    @cached_property
    def cv(self) -> float:
        return self.site.workload.arrival.interarrival_cv

    @cached_property
    def queue_cv(self) -> float:
        return math.sqrt(self.cv**2 + self.site.lengths.input_cv2)

    @cached_property
    def z(self) -> float:
        if self.statistic is Statistic.MEAN:
            return 0.0
        return NormalDist().inv_cdf(int(self.statistic.value[1:]) / 100)

    @cached_property
    def residual(self) -> float:
        """Rest of the running step, uniform on (0, 1) steps, at the statistic."""
        return 0.5 if self.statistic is Statistic.MEAN else int(self.statistic.value[1:]) / 100

    @property
    def tokens(self) -> float:
        """Tokens that decode steps produce."""
        return self.site.lengths.output - 1.0

    def occupancy(self, machine: Machine, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Requests in flight on one replica: on average, and seen at the statistic."""
        n = machine.copies
        mean = in_flight(slots * n, self.cv) / n
        seen = occupancy_seen(mean * n, self.cv, self.statistic, slots * n) / n
        return mean, np.minimum(np.maximum(seen, mean), slots)

    def slot_wait_ms(self, machine: Machine, slots: np.ndarray, mean: np.ndarray, stay_ms: np.ndarray) -> np.ndarray:
        if self.statistic is not Statistic.MEAN:
            return np.zeros_like(stay_ms)
        return WAIT_PROBABILITY * stay_ms / ((slots - mean) * machine.copies)

    def transfer_bytes(self) -> tuple[float, float]:
        """KV bytes of one request from prefill to decode, and prefix bytes that must first come to prefill."""
        side, lengths = self.site.attention(1), self.site.lengths
        whole, prefix = side.kv_bytes(lengths.prefix + lengths.input), side.kv_bytes(lengths.prefix)
        if lengths.prefix == 0:
            return whole, 0.0
        at = self.site.workload.prefix_at
        return whole - (prefix if "decode" in at else 0.0), 0.0 if "prefill" in at else prefix


def chunkings(tokens: float, largest: int, smallest: int) -> list[int]:
    """Chunk counts of a prompt in a mixed step: 1, 2, 4, 8 ... whose chunks are of an allowed size."""
    fewest = math.ceil(tokens / largest)
    most = max(fewest, math.floor(tokens / smallest))
    round_numbers = {2**i for i in range(40)}
    return sorted({fewest} | {count for count in round_numbers if fewest <= count <= most})


# -- raw options -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """Steps with no chunk, one chunk, and a chunk on every lane of n servers, ms; arrays (N,)."""

    none: np.ndarray
    one: np.ndarray
    every: np.ndarray
    chunks: np.ndarray
    lanes: int

    def take(self, rows: np.ndarray) -> Steps:
        return Steps(self.none[rows], self.one[rows], self.every[rows], self.chunks[rows], self.lanes)

    def few_prompts(self, rate: np.ndarray) -> np.ndarray:
        """Share of steps with a chunk on some lane where prompts are few."""
        alone = np.minimum(self.chunks * rate / self.lanes * self.one, 1.0)
        arriving = rate * (self.one + alone * (self.every - self.one))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            run = (np.exp(self.chunks * arriving) - 1.0) / (1.0 - np.exp(-arriving))
            gap = 1.0 / (1.0 - np.exp(-rate * self.none))
            return np.where(rate > 0.0, 1.0 / (1.0 + gap / run), 0.0)

    def some_busy(self, few: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """Share of steps with a chunk on some lane, where a given lane has one in the share phi."""
        if self.lanes == 1:
            return phi
        independent = 1.0 - (1.0 - phi) ** self.lanes
        return few + np.sqrt(phi) * np.maximum(independent - few, 0.0)

    def mean(self, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean step, and whether the lanes can take the rate (requests/ms)."""
        work = self.chunks * rate
        if self.lanes == 1:
            ok = work * self.one < 1.0
            return self.none / np.where(ok, 1.0 - work * (self.one - self.none), 1.0), ok
        slope, few = (self.every - self.one) / (self.lanes - 1), self.few_prompts(rate)

        def excess(tau: np.ndarray) -> np.ndarray:
            busy = self.some_busy(few, np.minimum(work * tau / self.lanes, 1.0))
            return self.none + busy * (self.one - self.none) + (work * tau - busy) * slope - tau

        # With a chunk on every lane all the time the step is that with every lane: more cannot be taken.
        ok = work * self.every < self.lanes
        low, high = self.none, self.every
        above, below = excess(low), excess(high)
        for step in range(STEP_HALVINGS):
            # The chord through both ends, and every third time the middle, so that both ends close in.
            run = above - below
            chord = (low * -below + high * above) / np.where(run > 0.0, run, 1.0)
            inside = (run > 0.0) & (step % 3 < 2) & (chord > low) & (chord < high)
            tau = np.where(inside, chord, 0.5 * (low + high))
            value = excess(tau)
            low, above = np.where(value >= 0.0, tau, low), np.where(value >= 0.0, value, above)
            high, below = np.where(value <= 0.0, tau, high), np.where(value <= 0.0, value, below)
            if np.all((np.abs(value) <= STEP_ERROR * tau) | ~ok):
                break
        return tau, ok


@dataclass
class ServeRates:
    """Every (slots, chunks) of one machine that serves whole requests; arrays (N,)."""

    ask: Ask
    machine: Machine
    slots: np.ndarray
    chunks: np.ndarray
    mean: np.ndarray = field(init=False)
    at_mean: Steps = field(init=False)
    at_seen: Steps = field(init=False)

    def __post_init__(self) -> None:
        slots = self.slots.astype(float)
        self.mean, seen = self.ask.occupancy(self.machine, slots)
        self.at_mean = self._steps(self.mean, slots)
        self.at_seen = self._steps(seen, slots)

    def _steps(self, mean: np.ndarray, slots: np.ndarray) -> Steps:
        none, every = self.machine.decode(mean, slots), self.machine.mixed(mean, slots, self.chunks)
        one = every if self.machine.lanes == 1 else self.machine.mixed(mean, slots, self.chunks, one_lane=True)
        one = np.maximum(none, one)
        return Steps(none, one, np.maximum(one, every), self.chunks, self.machine.lanes)

    @property
    def decode_steps(self) -> float:
        return self.ask.tokens / self.ask.site.tokens_per_step

    def holds(self, rows: np.ndarray, rate: np.ndarray | float) -> np.ndarray:
        """Whether slots, TPOT and TTFT allow a rate of requests/ms."""
        rate = np.broadcast_to(rate, rows.shape)
        carried = self._carried(rows, rate)
        carried[carried] = self._meets(rows[carried], rate[carried])
        return carried

    def _carried(self, rows: np.ndarray, rate: np.ndarray) -> np.ndarray:
        """Whether the slots carry what is in flight."""
        steps = self.at_mean.take(rows)
        tau, ok = steps.mean(rate)
        phi = steps.chunks * rate * tau / steps.lanes
        stay = steps.chunks * (steps.one + phi * (steps.every - steps.one)) + self.decode_steps * tau
        return ok & (rate * stay <= self.mean[rows] * self.machine.copies)

    def _meets(self, rows: np.ndarray, rate: np.ndarray) -> np.ndarray:
        """Whether TPOT and TTFT hold."""
        ask, machine, slo = self.ask, self.machine, self.ask.service.slo
        steps = self.at_seen.take(rows)
        tau, ok = steps.mean(rate)
        phi = np.where(ok, steps.chunks * rate * tau / steps.lanes, 0.0)
        busy = steps.some_busy(steps.few_prompts(rate), phi)
        own = steps.one + phi * (steps.every - steps.one)
        decode_ms = self.decode_steps * tau
        # Prompts that coincide make fewer steps longer than K each.
        apart = np.where(phi > 0.0, np.minimum(busy / np.where(phi > 0.0, steps.lanes * phi, 1.0), 1.0), 0.0)
        longer = steps.chunks * (steps.one - steps.none) * apart
        varied = ask.z * max(ask.cv, 1.0) * longer * np.sqrt(rate * decode_ms)
        if ask.tokens > 0:
            ok &= (decode_ms + varied) / ask.tokens <= slo.tpot_ms
        prefill = steps.chunks * own
        utilisation = rate * prefill / machine.lanes
        ok &= utilisation < 1.0
        # A lane between prompts takes part in steps of which this share has a chunk on another lane.
        others = np.clip((busy - phi) / (1.0 - phi), 0.0, 1.0)
        if ask.statistic is Statistic.MEAN:
            first = others * own + (1.0 - others) * steps.none
            rest = (others * own**2 + (1.0 - others) * steps.none**2) / (2.0 * first)
        else:
            rest = ask.residual * (np.where(rate > 0.0, own, steps.none) if machine.lanes > 1 else steps.none)
        wait = ask.slot_wait_ms(machine, self.slots[rows], self.mean[rows], decode_ms)
        room = slo.ttft_ms - prefill - rest - wait - prefix_load_ms(machine)
        ok &= room >= 0.0
        # From p90 up a percentile is not below the mean, which is quicker to compute.
        for statistic in [Statistic.MEAN] * (ask.statistic is not Statistic.P50) + [ask.statistic]:
            some = np.flatnonzero(ok)
            ok[some] = prefill_wait_ms(utilisation[some], 1, prefill[some], ask.queue_cv, statistic) <= room[some]
        return ok

    def upper(self, rows: np.ndarray) -> np.ndarray:
        steps = self.at_mean
        fastest = steps.chunks * steps.one + self.decode_steps * steps.none
        return (self.mean * self.machine.copies / fastest)[rows]


def prefix_load_ms(machine: Machine) -> float:
    """Time to bring one prefix to whoever serves whole requests."""
    site = machine.site
    size = site.attention(1).kv_bytes(site.lengths.prefix) / machine.gpus_of_request
    if site.lengths.prefix == 0:
        return 0.0
    if not site.workload.prefix_at:
        return size / site.fabric.scale_out_bytes_per_ms
    return size / site.fabric.host_bytes_per_ms if site.workload.prefix_tier == "host" else 0.0


def best_serve_rate(rates: ServeRates, best: float) -> float:
    """Largest rate of any row, or `best` if none is larger: each row is bisected unless it cannot even reach `best`."""
    rows = np.random.default_rng(0).permutation(rates.slots.size)
    rows = rows[rates.upper(rows) > best]
    rows = rows[rates.holds(rows, best * (1 + CLOSE))]
    while rows.size:
        some, rows = rows[:8], rows[8:]
        low, high = np.full(some.size, best), rates.upper(some)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            good = rates.holds(some, middle)
            low, high = np.where(good, middle, low), np.where(good, high, middle)
        best = max(best, float(low.max()))
        rows = rows[rates.upper(rows) > best]
        rows = rows[rates.holds(rows, best * (1 + CLOSE))]
    return best


def serve(ask: Ask, sites: Sequence[Site], mode: Mode) -> dict[Footprint, float]:
    """Best rate of every footprint that serves whole requests, requests/s."""
    best: dict[Footprint, float] = {}
    for machine in machines(sites, mode):
        slots, chunks = [], []
        for count in chunkings(ask.site.lengths.input, 16_384, 128):
            top = machine.cap(ask.site.lengths.input / count)
            slots.append(np.arange(1, top + 1))
            chunks.append(np.full(top, count))
        rows = np.concatenate(slots)
        if rows.size:
            rates = ServeRates(ask, machine, rows, np.concatenate(chunks))
            best[machine.items] = 1e3 * best_serve_rate(rates, best.get(machine.items, 0.0) * 1e-3)
    return {items: rate for items, rate in best.items() if rate > 0}


@dataclass(frozen=True)
class DecodeRows:
    """Raw decode options; arrays (N,)."""

    footprints: list[Footprint]
    owner: np.ndarray
    rate: np.ndarray
    first_ms: np.ndarray
    link: np.ndarray


def decode(ask: Ask, sites: Sequence[Site], mode: Mode) -> DecodeRows:
    """Every decode server with every number of slots that meets TPOT."""
    slo, moved = ask.service.slo, ask.transfer_bytes()[0]
    numbers: dict[Footprint, int] = {}
    parts: list[tuple[np.ndarray, ...]] = [(np.zeros(0, dtype=int), np.zeros(0), np.zeros(0), np.zeros(0))]
    for machine in machines(sites, mode):
        slots = np.arange(1.0, machine.cap(DECODE_TOKENS) + 1)
        if not slots.size:
            continue
        mean, seen = ask.occupancy(machine, slots)
        step = machine.decode(seen, slots)
        stay = ask.tokens * machine.decode(mean, slots) / ask.site.tokens_per_step
        rate = 1e3 * mean * machine.copies / np.maximum(stay, 1e-9)
        if moved > 0:
            rate = np.minimum(rate, 1e3 * machine.nics / moved)
        wait = ask.slot_wait_ms(machine, slots, mean, stay)
        awaited = ask.site.engine.first_token_steps
        first = wait + (awaited + ask.residual if awaited else 0.0) * step
        good = (step / ask.site.tokens_per_step <= slo.tpot_ms) & (first <= slo.ttft_ms)
        number = numbers.setdefault(machine.items, len(numbers))
        count = int(good.sum())
        parts.append((np.full(count, number), rate[good], first[good], np.full(count, machine.link)))
    owner, rate, first, link = (np.concatenate(column) for column in zip(*parts, strict=True))
    return DecodeRows(list(numbers), owner, rate, first, link)


@dataclass(frozen=True)
class PrefillRows:
    """Prompt batches and chunk counts of every worker; arrays (N,)."""

    ask: Ask
    footprints: list[Footprint]
    owner: np.ndarray
    prompts: np.ndarray
    on_rank: np.ndarray
    chunks: np.ndarray
    time_ms: np.ndarray
    link: np.ndarray
    nics: np.ndarray
    hop_ms: float

    def rates(self, link: float, taken_ms: np.ndarray) -> np.ndarray:
        """Best rate of every footprint, (levels, footprints), where decode and transfer at `link` take `taken_ms`."""
        ask, moved = self.ask, self.ask.transfer_bytes()
        exposed = np.zeros(self.time_ms.size)
        if moved[0] > 0:
            whole = self.on_rank * moved[0] / link
            exposed = whole
            if ask.site.engine.transfer_overlap == "chunk":
                hidden = self.time_ms * (self.chunks - 1) / self.chunks
                exposed = np.maximum(whole / self.chunks, whole - hidden)
            exposed = exposed + self.on_rank * moved[1] / link + self.hop_ms
        room = ask.service.slo.ttft_ms - taken_ms[:, None] - (self.time_ms + exposed)[None, :]
        level, row = np.nonzero((room > 0.0) & (self.link >= link)[None, :])
        room, batch, time = room[level, row], self.prompts[row], self.time_ms[row]
        busy = largest_utilisation(room, batch, time, ask.queue_cv, ask.statistic)
        check_inverse(ask, busy, room, batch, time)
        rate = 1e3 * busy * batch / time
        if moved[0] > 0:
            rate = np.minimum(rate, 1e3 * self.nics[row] / moved[0])
        result = np.zeros((taken_ms.size, len(self.footprints)))
        np.maximum.at(result, (level, self.owner[row]), rate)
        return result


def check_inverse(ask: Ask, busy: np.ndarray, room: np.ndarray, batch: np.ndarray, time: np.ndarray) -> None:
    """The largest utilisation is that: its wait fits, and that of any larger one does not."""
    sample = slice(None, None, max(1, busy.size // 500))
    busy, room, batch, time = busy[sample], room[sample], batch[sample], time[sample]
    wait = prefill_wait_ms(busy, batch, time, ask.queue_cv, ask.statistic)
    assert np.all((wait <= room * (1 + 1e-9)) | (busy == 0.0))
    more = np.minimum(busy + INVERSE, 1.0 - 1e-12)
    wait = prefill_wait_ms(more, batch, time, ask.queue_cv, ask.statistic)
    assert np.all((wait >= room * (1 - 1e-9)) | (busy > 1.0 - 10 * INVERSE))


def prefill(ask: Ask, sites: Sequence[Site]) -> PrefillRows:
    """Every prefill worker with every prompt batch and chunk count of the declared space."""
    tokens = ask.site.lengths.input
    fewest = math.ceil(tokens / 32_768)
    counts = [fewest * f for f in (1, 2, 3, 4, 6, 8, 12, 16) if f == 1 or tokens / (fewest * f) >= 256]
    most = max(1, min(16, int(32_768 / max(tokens, 1.0))))
    numbers: dict[Footprint, int] = {}
    rows: list[tuple[float, ...]] = []
    for pool, site in enumerate(sites):
        for layout in layouts(site, Counter()):
            if not worker_launches(site.service, site.pool, layout, experts(site), handed="prefill"):
                continue
            worker = Worker(site, layout)
            items = footprint([(pool, layout.gpus)])
            rate = site.fabric.scale_out_bytes_per_ms
            batches = [2**i for i in range(20) if 2**i < layout.dp] + [layout.dp * n for n in range(1, most + 1)]
            tried = [(batch, math.ceil(batch / layout.dp), count) for batch in batches for count in counts]
            held = {
                step: worker.largest_slots(step, decode=False)
                for step in {on_rank * tokens / count for _, on_rank, count in tried}
            }
            tried = [each for each in tried if held[each[1] * tokens / each[2]] >= each[1] * layout.dp]
            if not tried:
                continue
            batch, on_rank, count = np.array(tried).T
            times = worker.prefill_ms(batch, count)
            number = numbers.setdefault(items, len(numbers))
            rows += [
                (number, *each, float(time), layout.tp * layout.pp * rate, layout.gpus * rate)
                for each, time in zip(tried, times, strict=True)
            ]
    owner, batch, on_rank, count, time, link, nics = np.array(rows, dtype=float).reshape(-1, 7).T
    hop = max(site.fabric.setup_us + site.fabric.scale_out_latency_us for site in sites) * 1e-3
    return PrefillRows(ask, list(numbers), owner.astype(int), batch, on_rank, count, time, link, nics, hop)


# -- placing ---------------------------------------------------------------------------------------------------------


class Placements:
    """Every multiset of items that packs into the pools, as count vectors over item kinds."""

    def __init__(self, pools: Sequence[ResolvedPool], kinds: Sequence[Item]) -> None:
        self.kinds = sorted(kinds)
        self.number = {kind: i for i, kind in enumerate(self.kinds)}
        states = [()]
        for p, pool in enumerate(pools):
            sizes = [size for where, size in self.kinds if where == p]
            own = list(_packings(sizes, pool.count, pool.scale_up_domain))
            states = [(*state, *more) for state in states for more in own]
        gpus = np.array([size for _, size in self.kinds])
        counts = np.array(states, dtype=np.int64).reshape(len(states), len(self.kinds))
        self.counts = counts[np.argsort(counts @ gpus, kind="stable")]
        self._radix = np.concatenate([[1], np.cumprod(self.counts.max(axis=0) + 1)[:-1]]).astype(np.int64)
        self._index = {int(code): i for i, code in enumerate(self.counts @ self._radix)}
        self._steps: dict[tuple[Footprint, ...], list[tuple[np.ndarray, np.ndarray]]] = {}

    def vector(self, items: Footprint) -> np.ndarray:
        result = np.zeros(len(self.kinds), dtype=np.int64)
        for kind, count in items:
            result[self.number[kind]] += count
        return result

    def best(self, footprints: Sequence[Footprint], rates: np.ndarray) -> np.ndarray:
        """Largest rate that the items of every state hold, (levels, states), given rates (levels, footprints)."""
        key = tuple(footprints)
        if key not in self._steps:
            self._steps[key] = self._plan(key)
        padded = np.concatenate([rates, np.zeros((rates.shape[0], len(self.kinds)))], axis=1)
        table = np.zeros((rates.shape[0], len(self.counts)))
        for state, (before, column) in enumerate(self._steps[key]):
            if before.size:
                table[:, state] = (table[:, before] + padded[:, column]).max(axis=1)
        return table

    def _plan(self, footprints: Sequence[Footprint]) -> list[tuple[np.ndarray, np.ndarray]]:
        # Behind the footprints come single items that are left unused.
        taken = np.array([*(self.vector(each) for each in footprints), *np.eye(len(self.kinds), dtype=np.int64)])
        codes = taken @ self._radix
        result = []
        for counts in self.counts:
            column = np.flatnonzero((taken <= counts).all(axis=1))
            before = [self._index[int(code)] for code in int(counts @ self._radix) - codes[column]]
            result.append((np.array(before, dtype=int), column))
        return result

    @cached_property
    def maximal(self) -> np.ndarray:
        """States to which no item can be added."""
        codes = self.counts @ self._radix
        reach = np.zeros(len(self.counts), dtype=bool)
        for unit, step in enumerate(self._radix):
            room = self.counts[:, unit] > 0
            below = [self._index[int(code)] for code in (codes - step)[room]]
            reach[below] = True
        return np.flatnonzero(~reach)

    def splits(self, state: int) -> tuple[np.ndarray, np.ndarray]:
        """Every way to split the items of a state into two states."""
        mine = np.flatnonzero((self.counts <= self.counts[state]).all(axis=1))
        rest = (self.counts[state] - self.counts[mine]) @ self._radix
        return mine, np.array([self._index[int(code)] for code in rest])


def _packings(sizes: list[int], gpus: int, domain: int) -> Iterator[tuple[int, ...]]:
    def extend(counts: tuple[int, ...], left: int) -> Iterator[tuple[int, ...]]:
        if len(counts) == len(sizes):
            yield counts
            return
        size = sizes[len(counts)]
        for count in range(left // size + 1):
            more = (*counts, count)
            placed = [s for s, n in zip(sizes, more, strict=False) for _ in range(n)]
            if not fits(tuple(sorted(placed, reverse=True)), gpus, domain):
                break
            yield from extend(more, left - count * size)

    yield from extend((), gpus)


# -- the optimum -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raw:
    """Raw options of one service: by mode, the rates of footprints, or the rows of both sides."""

    ask: Ask
    alone: list[dict[Footprint, float]]
    handed: list[tuple[PrefillRows, DecodeRows]]

    @property
    def footprints(self) -> set[Footprint]:
        found = {items for mode in self.alone for items in mode}
        for each, other in self.handed:
            found |= set(each.footprints) | set(other.footprints)
        return found


def raw(service: Service, pools: Sequence[ResolvedPool]) -> Raw:
    """Evaluate everything that a service may run on."""
    sites = [Site.of(service, pool) for pool in pools]
    ask = Ask(service, sites[0])
    alone, handed = [], []
    for mode in service.modes:
        if not mode_launches(service, mode):
            continue
        if mode in (Mode.AGGREGATED, Mode.AFD):
            alone.append(serve(ask, sites, mode))
        else:
            handed.append((prefill(ask, sites), decode(ask, sites, mode)))
    return Raw(ask, alone, handed)


def thresholds(rows: DecodeRows, link: float) -> tuple[np.ndarray, np.ndarray]:
    """Decode parts at which some footprint gets a larger rate, ascending, and the rates there (parts, footprints)."""
    open_ = rows.link >= link
    owner, rate, first = rows.owner[open_], rows.rate[open_], rows.first_ms[open_]
    parts: list[float] = []
    curves = []
    for number in range(len(rows.footprints)):
        mine = owner == number
        order = np.lexsort((-rate[mine], first[mine]))
        h, r = first[mine][order], np.maximum.accumulate(rate[mine][order])
        grows = np.diff(r, prepend=0.0) > 0
        curves.append((h[grows], r[grows]))
        parts += h[grows].tolist()
    ends = np.unique(parts)
    table = np.zeros((ends.size, len(rows.footprints)))
    for number, (h, r) in enumerate(curves):
        place = np.searchsorted(h, ends, side="right")
        table[:, number] = np.concatenate([[0.0], r])[place]
    return ends, table


class Values:
    """Rate that a service reaches in every target state, by branch and bound over the thresholds of its P/D modes."""

    def __init__(self, space: Placements, targets: np.ndarray, *, only_best: bool) -> None:
        self.space, self.targets, self.only_best = space, targets, only_best
        self.splits = [space.splits(int(state)) for state in targets]

    def of(self, given: Raw) -> np.ndarray:
        best = np.zeros(len(self.targets))
        for mode in given.alone:
            if mode:
                table = self.space.best(list(mode), np.array([list(mode.values())]))
                best = np.maximum(best, table[0, self.targets])
        for before, after in given.handed:
            for link in np.unique(np.minimum.outer(np.unique(before.link), np.unique(after.link))):
                best = self._over_levels(before, after, link, best)
        return best

    def _over_levels(self, before: PrefillRows, after: DecodeRows, link: float, best: np.ndarray) -> np.ndarray:
        ends, rates = thresholds(after, link)
        stretches = [(0, ends.size - 1)] if ends.size else []
        while stretches:
            # Optimistic: prefill has the budget of the stretch's first threshold, decode the options of its last.
            first, last = np.array(stretches).T
            ceiling = self._joint(before, after, link, ends[first], rates[last])
            exact = self._joint(before, after, link, ends[last], rates[last])
            best = np.maximum(best, exact.max(axis=0))
            beats = ceiling > best * (1 + CLOSE)
            if self.only_best:
                beats = ceiling > best.max() * (1 + CLOSE)
            alive = [
                each for each, open_ in zip(stretches, beats.any(axis=1), strict=True) if open_ and each[0] < each[1]
            ]
            stretches = []
            for low, high in alive:
                cuts = sorted({*np.linspace(low, high + 1, 7).astype(int).tolist()})
                stretches += [(a, b - 1) for a, b in pairwise(cuts)]
        return best

    def _joint(
        self, before: PrefillRows, after: DecodeRows, link: float, taken_ms: np.ndarray, rates: np.ndarray
    ) -> np.ndarray:
        first = self.space.best(before.footprints, before.rates(link, taken_ms))
        second = self.space.best(after.footprints, rates)
        columns = [np.minimum(first[:, a], second[:, b]).max(axis=1) for a, b in self.splits]
        return np.stack(columns, axis=1)


def optimum(scenario: Scenario) -> float | None:
    """The optimal objective of a scenario with one or two services, or None where no plan exists."""
    pools = [resolve_pool(pool) for pool in scenario.cluster.pools]
    given = [raw(service, pools) for service in scenario.services]
    if not all(each.footprints for each in given):
        return None
    space = Placements(pools, {item for each in given for items in each.footprints for item, _ in items})
    maximizing = scenario.objective.maximizing
    alone = len(given) == 1 and maximizing
    targets = space.maximal if alone else np.arange(len(space.counts))
    values = Values(space, targets, only_best=alone)
    rates = [values.of(each) for each in given]
    if maximizing:
        worth = []
        for each, rate in zip(given, rates, strict=True):
            service, served = each.ask.service, rate
            if service.demand_rps is not None:
                served = np.minimum(rate, service.demand_rps)
            worth.append(np.where(rate > 0, served * service.weight * each.ask.site.lengths.output, -np.inf))
        if len(worth) == 2:
            worth[0] = np.array([(worth[0][a] + worth[1][b]).max() for a, b in values.splits])
        best = float(worth[0].max(initial=-np.inf))
        return best if best > 0 else None
    price = {
        "cost": [pool.cost_per_gpu_hour for pool in pools],
        "gpus": [1.0] * len(pools),
        "power": [pool.power_w_per_gpu * 1e-3 for pool in pools],
    }[scenario.objective.quantity]
    cost = space.counts @ np.array([price[pool] * size for pool, size in space.kinds])
    enough = [rate >= each.ask.service.demand_rps * (1 - 1e-9) for each, rate in zip(given, rates, strict=True)]
    if len(enough) == 2:
        enough[0] = np.array([(enough[0][a] & enough[1][b]).any() for a, b in values.splits])
    return float(cost[enough[0]].min()) if enough[0].any() else None
