"""KV-cache memory of requests on one GPU, from their time-averaged residency."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.costs.site import Site


@dataclass(frozen=True)
class Reservation:
    """Memory on one GPU for n requests of one DP rank: shared + n * each + min(n / 2, sqrt(3 n / 4)) * growth.

    `each` is the time average of one request; its decode part grows steadily by `growth`. While n requests are at
    random points of that path their sum has standard deviation growth * sqrt(n / 12); three of those are reserved on
    top of the mean, and never more than all n at their end.

    Args:
        shared_bytes: the prefix copies that do not depend on n.
        each_bytes: time-averaged bytes of one request.
        growth_bytes: bytes by which one request grows while it is decoded.
    """

    shared_bytes: float
    each_bytes: float
    growth_bytes: float

    def bytes(self, requests: float) -> float:
        """Bytes reserved for `requests` requests."""
        spread = min(requests / 2.0, math.sqrt(0.75 * requests))
        return self.shared_bytes + requests * self.each_bytes + spread * self.growth_bytes

    def largest(self, free_bytes: float) -> int:
        """Most requests whose reservation fits `free_bytes`; 0 where not even one does."""
        if self.bytes(1) > free_bytes:
            return 0
        if self.each_bytes <= 0.0:
            return 1 << 20
        low, high = 1, 2 + int((free_bytes - self.shared_bytes) / self.each_bytes)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.bytes(middle) <= free_bytes else (low, middle)
        return low


def reserve(site: Site, tp: int, pp: int, *, decode: bool) -> Reservation:
    """Reservation on one of `tp x pp` GPUs of a DP rank.

    A prefix that is shared by all lies once on every DP rank; one shared by N requests counts 1/N to each; one that
    nobody shares counts to each request in full.

    Args:
        site: the service on the pool.
        tp: ranks that share one request's cache.
        pp: pipeline stages.
        decode: whether requests stay until their last token.
    """
    side, lengths = site.attention(tp), site.lengths
    prefix = side.kv_bytes(lengths.prefix, pp)
    sharers = site.prefix_sharers()
    prompt = side.kv_bytes(lengths.prefix + lengths.input, pp) - prefix
    growth = side.kv_bytes(lengths.full_context, pp) - prefix - prompt if decode else 0.0
    average = side.kv_bytes(lengths.mean_context, pp) - prefix if decode else prompt
    if math.isinf(sharers):
        return Reservation(prefix, average, growth)
    return Reservation(0.0, prefix / sharers + average, growth)
