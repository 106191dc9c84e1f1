"""Communication times on a hierarchical network: scale-up domains (NVLink, PCIe) joined by scale-out links (RDMA).

Two rules hold everywhere. No byte that crosses a domain boundary moves at scale-up speed; and latency counts once
per hop while each message costs its issue time. Bandwidths are per GPU and direction.

Inside a domain measured tables are used where there are any, corrected by the ratio of this pool's links to the links
that were measured; what crosses a boundary always follows the laws (`planner.costs.exchange_laws`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

from planner.costs.exchange_laws import HOPS, LAWS, Phase
from planner.costs.linear import PiecewiseLinear, Watch, constant, roofline, tamed
from planner.costs.routing import Collective, Copies
from planner.kernels.answer import Answer
from planner.kernels.collectives import ALL_GATHER, ALL_REDUCE, EXCHANGE, REDUCE_SCATTER, Law
from specs.scenario import ResolvedPool

SCALE_UP_EFFICIENCY = 0.75
"""All-reduce: NCCL and the engines' own kernels reach 318 of 450 GB/s between two H200 and, counting both passes, 461
with in-switch reduction between eight. Copies: NCCL's send/recv 348 of 450 GB/s on H100 (Vidur's network profile)."""

SCALE_OUT_EFFICIENCY = 0.85
"""Bulk RDMA (KV cache, activations): DeepEP's kernels 45 to 46 of 50 GB/s (V2); NCCL's send/recv of one pair of H100
35 of 50 (Vidur's network profile: 17 us and 34.6 GB/s at 66 MB), which this overstates."""

COLLECTIVE_SETUP_US = 12.0
"""Launch, registration and completion of a point-to-point copy: 2 KB take 17 us between two H100 nodes (Vidur's
network profile), of which one hop is 5."""

REDUCE_SETUP_US = 6.0
"""Launch and barrier of an all-reduce inside a domain, whose ranks meet once, where none was measured."""

MESSAGE_ISSUE_US = 0.1
"""Issue time of one message; DeepEP's low-latency dispatch grows by 21 us from EP64 to EP256."""


class Collectives(Protocol):
    """Measured collectives (`planner.kernels.collectives.CollectiveTables`)."""

    def time_ms(self, name: str, key: tuple[float, ...], law: PiecewiseLinear, reference: Law) -> Answer | None:
        """Time over the table's variable, or None where there is no such table."""


@dataclass(frozen=True)
class Fabric:
    """Links of one GPU pool as the cost model sees them.

    Args:
        domain: GPUs of one scale-up domain.
        scale_up_bytes_per_ms: reachable rate inside a domain, per GPU and direction.
        scale_out_bytes_per_ms: reachable rate between domains, per GPU and direction.
        scale_up_latency_us: one hop inside a domain.
        scale_out_latency_us: one hop between domains.
        host_bytes_per_ms: reachable rate between host memory and one GPU.
        slowdown: factor that rates and latencies above already hold, and that fixed times take as well.
        collectives: measured tables of the engine, or of the user, on the pool's GPU.
        measured_on: links that these were measured on; the pool's own where None.
        is_traced: whether `watches` learn what is asked for.
    """

    domain: int
    scale_up_bytes_per_ms: float
    scale_out_bytes_per_ms: float
    scale_up_latency_us: float
    scale_out_latency_us: float
    host_bytes_per_ms: float = field(default=math.inf)
    slowdown: float = 1.0
    collectives: Collectives | None = field(default=None, repr=False, compare=False)
    measured_on: Fabric | None = field(default=None, repr=False, compare=False)
    is_traced: bool = field(default=False, repr=False, compare=False)
    asked: dict[tuple[str, tuple[float, ...]], Answer | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Collectives that were asked for, by table and key: what was measured of them, or None where a law answered."""
    watches: dict[tuple[str, tuple[float, ...]], Watch] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """The largest value of the table's variable that a collective was asked for at."""
    _known: dict[tuple[str, tuple[float, ...]], PiecewiseLinear] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @staticmethod
    def of(pool: ResolvedPool, *, slowdown: float = 1.0, collectives: Collectives | None = None) -> Fabric:
        """The fabric of a resolved pool.

        Args:
            pool: the pool.
            slowdown: 1.3 makes every communication 30% slower.
            collectives: measured tables of the service's engine, or of the user, on the pool's GPU.
        """
        fabric = Fabric(
            domain=pool.scale_up_domain,
            scale_up_bytes_per_ms=pool.scale_up_gbyte_per_s * 1e6 * SCALE_UP_EFFICIENCY / slowdown,
            scale_out_bytes_per_ms=pool.scale_out_gbit_per_s / 8.0 * 1e6 * SCALE_OUT_EFFICIENCY / slowdown,
            scale_up_latency_us=pool.scale_up_latency_us * slowdown,
            scale_out_latency_us=pool.scale_out_latency_us * slowdown,
            host_bytes_per_ms=pool.gpu.host_gbyte_per_s * 1e6 * SCALE_OUT_EFFICIENCY / slowdown,
            slowdown=slowdown,
        )
        if collectives is None:
            return fabric
        gpu = pool.gpu
        catalogue = replace(
            fabric,
            domain=gpu.scale_up_domain,
            scale_up_bytes_per_ms=gpu.scale_up_gbyte_per_s * 1e6 * SCALE_UP_EFFICIENCY,
            scale_up_latency_us=gpu.scale_up_latency_us,
            slowdown=1.0,
        )
        return replace(fabric, collectives=collectives, measured_on=catalogue)

    def all_reduce(self, ranks: int, bytes_per_token: float) -> PiecewiseLinear:
        """All-reduce of `bytes_per_token` for each token among `ranks` of one domain; ms over tokens.

        Measured where the engine's all-reduce is; by law reduce-scatter and all-gather each move (r - 1)/r of the
        message through every rank's link.
        """
        if ranks == 1:
            return constant(0.0)
        if ranks > self.domain:
            raise ValueError(f"{ranks} ranks do not fit a scale-up domain of {self.domain} GPUs")
        links = self.measured_on or self
        time = self._time(ALL_REDUCE, (ranks,), self._reduce_law(ranks), lambda key: links._reduce_law(round(key[0])))
        return time.scaled(1.0, stretch=bytes_per_token)

    def exchange(
        self,
        copies: Copies,
        bytes_per_copy: float,
        *,
        peers: int,
        collective: Collective | None = None,
        phase: Phase = Phase.DISPATCH,
    ) -> PiecewiseLinear:
        """Time in ms, over tokens that each rank sends (or receives), of an exchange with `copies` per token.

        Scale-up and scale-out copies move at the same time over links of their own. An exchange inside one domain is
        taken from the tables where they have its kernels.

        Args:
            copies: remote copies per token, by link.
            bytes_per_copy: size of one copy.
            peers: ranks that one rank exchanges messages with.
            collective: the kernels; None for one-sided ones inside a domain, DeepEP's low-latency ones across.
            phase: direction.
        """
        if peers == 0:
            return constant(0.0)
        inside = copies.scale_out == 0
        if collective is None:
            collective = Collective.ONE_SIDED if inside else Collective.DEEPEP_LOW_LATENCY
        kind, ranks = collective, peers + 1
        law = self._exchange_law(kind, phase, copies, bytes_per_copy, peers)
        if not inside:
            self.asked[f"{EXCHANGE}{kind}.{phase}", (ranks, bytes_per_copy, copies.scale_up, copies.scale_out)] = None
            return law
        links = self.measured_on or self
        if kind is Collective.ALL_GATHER:
            # The tables count the bytes of all ranks together.
            whole = bytes_per_copy * ranks
            time = self._time(
                ALL_GATHER if phase is Phase.DISPATCH else REDUCE_SCATTER,
                (ranks,),
                law.scaled(1.0, stretch=1.0 / whole),
                lambda key: links._exchange_law(kind, phase, Copies(1.0 - 1.0 / key[0], 0.0), 1.0, round(key[0]) - 1),
            )
            return time.scaled(1.0, stretch=whole)
        return self._time(
            f"{EXCHANGE}{kind}.{phase}",
            (ranks, bytes_per_copy, copies.scale_up),
            law,
            lambda key: links._exchange_law(kind, phase, Copies(key[2], 0.0), key[1], round(key[0]) - 1),
        )

    @property
    def setup_us(self) -> float:
        """Launch, registration and completion of a point-to-point copy."""
        return COLLECTIVE_SETUP_US * self.slowdown

    @property
    def issue_us(self) -> float:
        """Issue time of one message."""
        return MESSAGE_ISSUE_US * self.slowdown

    def _time(self, name: str, key: tuple[float, ...], law: PiecewiseLinear, reference: Law) -> PiecewiseLinear:
        """Measured time over the table's variable, or the law where there is no such table; found once per key."""
        if (name, key) not in self._known:
            answer = self.collectives.time_ms(name, key, law, reference) if self.collectives else None
            self.asked[name, key] = answer
            self._known[name, key] = law if answer is None else tamed(answer.time)
        time = self._known[name, key]
        return time.watched(self.watches.setdefault((name, key), Watch())) if self.is_traced else time

    def _reduce_law(self, ranks: int) -> PiecewiseLinear:
        """An all-reduce by law, ms over bytes of the message."""
        per_byte = 2.0 * (ranks - 1) / ranks / self.scale_up_bytes_per_ms
        setup = REDUCE_SETUP_US * self.slowdown + 2.0 * self.scale_up_latency_us
        return roofline(setup * 1e-3, [(0.0, per_byte)])

    def _exchange_law(
        self, collective: Collective, phase: Phase, copies: Copies, bytes_per_copy: float, peers: int
    ) -> PiecewiseLinear:
        """An exchange by law, ms over tokens of one rank."""
        law = LAWS[collective]
        hop = self.scale_out_latency_us if copies.scale_out > 0 else self.scale_up_latency_us
        setup = (law.setup_us[phase] + law.issue_us * peers) * self.slowdown + HOPS * hop
        up = self.scale_up_bytes_per_ms * law.scale_up_share / SCALE_UP_EFFICIENCY
        out = self.scale_out_bytes_per_ms * law.scale_out_share / SCALE_OUT_EFFICIENCY
        return roofline(
            setup * 1e-3,
            [
                (law.floor_us[phase] * self.slowdown * 1e-3, 0.0),
                (0.0, copies.scale_up * bytes_per_copy / up),
                (0.0, copies.scale_out * bytes_per_copy / out),
            ],
        )
