"""KV-cache memory of requests on one GPU, from their time-averaged residency."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.costs.site import Site


@dataclass(frozen=True)
class Reservation:
    """Memory on one GPU for n requests of one DP rank: copies * shared + n * each + min(n / 2, sqrt(3 n / 4)) * growth.

    `each` is the time average of one request; its decode part grows steadily by `growth`. While n requests are at
    random points of that path their sum has standard deviation growth * sqrt(n / 12); three of those are reserved on
    top of the mean, and never more than all n at their end. Where lengths vary, `growth` is sqrt(12) standard
    deviations of one request.

    Args:
        shared_bytes: one copy of the prefix; there are ceil(n / sharers) of them.
        each_bytes: time-averaged bytes that belong to one request alone.
        growth_bytes: bytes by which one request grows while it is decoded.
        sharers: requests that share one copy of the prefix.
    """

    shared_bytes: float
    each_bytes: float
    growth_bytes: float
    sharers: float = math.inf

    def bytes(self, requests: float) -> float:
        """Bytes reserved for `requests` requests."""
        spread = min(requests / 2.0, math.sqrt(0.75 * requests))
        copies = 1 if math.isinf(self.sharers) else math.ceil(requests / self.sharers)
        return copies * self.shared_bytes + requests * self.each_bytes + spread * self.growth_bytes

    def largest(self, free_bytes: float) -> int:
        """Most requests whose reservation fits `free_bytes`; 0 where not even one does."""
        if self.bytes(1) > free_bytes:
            return 0
        if self.each_bytes <= 0.0:
            return 1 << 20
        # Solved for sqrt(n) as if sharing were even; the last steps are taken one by one.
        each = self.each_bytes + (0.0 if math.isinf(self.sharers) else self.shared_bytes / self.sharers)
        free = free_bytes - (self.shared_bytes if math.isinf(self.sharers) else 0.0)
        half = 0.5 * math.sqrt(0.75) * self.growth_bytes
        found = max(1, int(((math.sqrt(half**2 + each * max(free, 0.0)) - half) / each) ** 2))
        while self.bytes(found) > free_bytes:
            found -= 1
        while self.bytes(found + 1) <= free_bytes:
            found += 1
        return found


def reserve(site: Site, tp: int, pp: int, *, decode: bool) -> Reservation:
    """Reservation on one of `tp x pp` GPUs of a DP rank.

    A prefix that is shared by all lies once on every DP rank, one shared by N requests once for every N begun. A
    request that shares its prefix still has recurrent states and sliding windows of its own.

    The age of a request found in flight has mean D (1 + c) / 2 and, for gamma-distributed output lengths of mean D and
    squared coefficient of variation c, variance D^2 (1 + c) (1 + 5 c) / 12 (renewal theory: E[D^2] / 2 E[D] and
    E[D^3] / 3 E[D]).

    Args:
        site: the service on the pool.
        tp: ranks that share one request's cache.
        pp: pipeline stages.
        decode: whether requests stay until their last token.
    """
    side, lengths = site.attention(tp), site.lengths
    sharers = site.prefix_sharers() if site.has_prefix else 1.0
    shared = lengths.prefix if sharers > 1.0 else 0.0  # tokens that are not a request's own
    prompt = side.kv_bytes(lengths.prefix + lengths.input - shared, pp)
    average = side.kv_bytes(lengths.mean_context - shared, pp) if decode else prompt
    growth = side.kv_bytes(lengths.full_context - shared, pp) - prompt if decode else 0.0
    varied = growth**2 * (1.0 + lengths.output_cv2) * (1.0 + 5.0 * lengths.output_cv2)
    own_prompt = prompt * lengths.input / (lengths.prefix + lengths.input - shared)
    varied += 12.0 * lengths.input_cv2 * own_prompt**2
    return Reservation(side.kv_bytes(shared, pp), average, math.sqrt(varied), sharers)
