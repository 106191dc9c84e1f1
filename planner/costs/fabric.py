"""Communication times on a hierarchical network: scale-up domains (NVLink, PCIe) joined by scale-out links (RDMA).

Two rules hold everywhere. No byte that crosses a domain boundary moves at scale-up speed; and latency counts once
per hop while each message costs its issue time. Bandwidths are per GPU and direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from planner.costs.linear import PiecewiseLinear, constant, roofline
from planner.costs.routing import Copies
from specs.scenario import ResolvedPool

SCALE_UP_EFFICIENCY = 0.75
"""TensorRT-LLM's one-sided all-to-all on GB200 moves 590 to 750 of 900 GB/s; NVLink on H800 153 of 200 GB/s."""

SCALE_OUT_EFFICIENCY = 0.85
"""DeepEP moves 39 to 46 of 50 GB/s in low-latency mode, 43 to 58 counting local copies in normal mode."""

COLLECTIVE_SETUP_US = 12.0
"""Launch, barrier and flag polling of one device-initiated collective: floor of the GB200 dispatch is 18 us."""

REDUCE_SETUP_US = 6.0
"""The same of a one-shot all-reduce inside a domain, whose ranks meet once: 8 to 12 us in all for small messages."""

MESSAGE_ISSUE_US = 0.1
"""Issue time of one message; DeepEP's low-latency dispatch grows by 21 us from EP64 to EP256."""


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
    """

    domain: int
    scale_up_bytes_per_ms: float
    scale_out_bytes_per_ms: float
    scale_up_latency_us: float
    scale_out_latency_us: float
    host_bytes_per_ms: float = field(default=math.inf)

    @staticmethod
    def of(pool: ResolvedPool, *, slowdown: float = 1.0) -> Fabric:
        """The fabric of a resolved pool; `slowdown` 1.3 makes every link 30% slower."""
        return Fabric(
            domain=pool.scale_up_domain,
            scale_up_bytes_per_ms=pool.scale_up_gbyte_per_s * 1e6 * SCALE_UP_EFFICIENCY / slowdown,
            scale_out_bytes_per_ms=pool.scale_out_gbit_per_s / 8.0 * 1e6 * SCALE_OUT_EFFICIENCY / slowdown,
            scale_up_latency_us=pool.scale_up_latency_us * slowdown,
            scale_out_latency_us=pool.scale_out_latency_us * slowdown,
            host_bytes_per_ms=pool.gpu.host_gbyte_per_s * 1e6 * SCALE_OUT_EFFICIENCY / slowdown,
        )

    def all_reduce(self, ranks: int, bytes_per_token: float) -> PiecewiseLinear:
        """All-reduce of `bytes_per_token` for each token among `ranks` of one domain; ms over tokens.

        Reduce-scatter and all-gather each move (r - 1)/r of the message through every rank's link.
        """
        if ranks == 1:
            return constant(0.0)
        self._inside(ranks)
        per_token = 2.0 * (ranks - 1) / ranks * bytes_per_token / self.scale_up_bytes_per_ms
        return roofline((REDUCE_SETUP_US + 2.0 * self.scale_up_latency_us) * 1e-3, [(0.0, per_token)])

    def exchange(self, copies: Copies, bytes_per_copy: float, *, peers: int) -> PiecewiseLinear:
        """Time in ms, over tokens that each rank sends (or receives), of an exchange with `copies` per token.

        Scale-up and scale-out copies move at the same time over links of their own.

        Args:
            copies: remote copies per token, by link.
            bytes_per_copy: size of one copy.
            peers: ranks that one rank exchanges messages with.
        """
        if peers == 0:
            return constant(0.0)
        hop = self.scale_out_latency_us if copies.scale_out > 0 else self.scale_up_latency_us
        floor = (COLLECTIVE_SETUP_US + hop + MESSAGE_ISSUE_US * peers) * 1e-3
        return roofline(
            floor,
            [
                (0.0, copies.scale_up * bytes_per_copy / self.scale_up_bytes_per_ms),
                (0.0, copies.scale_out * bytes_per_copy / self.scale_out_bytes_per_ms),
            ],
        )

    def send_ms(self, size_bytes: float, links: int, other: Fabric) -> float:
        """Time in ms of a point-to-point copy of `size_bytes` striped over `links` pairs of NICs."""
        rate = min(self.scale_out_bytes_per_ms, other.scale_out_bytes_per_ms) * links
        latency = max(self.scale_out_latency_us, other.scale_out_latency_us)
        return size_bytes / rate + (COLLECTIVE_SETUP_US + latency) * 1e-3

    def _inside(self, ranks: int) -> None:
        if ranks > self.domain:
            raise ValueError(f"{ranks} ranks do not fit a scale-up domain of {self.domain} GPUs")
