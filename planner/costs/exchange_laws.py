"""How long an exchange between expert-parallel ranks takes on each kind of fabric: latency, issue and bandwidth.

One law for every `Collective`::

    time = setup + HOPS * hop + issue * peers
         + max(floor, bytes up / (share up * link), bytes out / (share out * NIC))

`setup` is a launch's work on its own; the floor is what a kernel takes that moves next to nothing while it polls flags.
The constants are fitted (least squares of the logarithm, robust) to the facts below and rounded;
`tests/costs/test_kernels.py` holds the published ones to a tolerance each.

- ONE_SIDED: TensorRT-LLM's one-sided NVLink kernels on GB200, EP8 to EP64, 1 to 2,048 tokens per rank (98 points,
  technical blog 18): 95% within 11%.
- DEEPEP_LOW_LATENCY: DeepEP V1 on H800 with 400 Gb/s NICs, EP8 to EP256, 128 tokens per rank (its documentation), and
  EP8 to EP64, 1 to 2,048 tokens on H100 (aiconfigurator-core 0.12): 95% within 12%. DeepEP's time at EP8 counts its
  RDMA path; the combine of EP8 on H800 is the one fact that the law overstates by more than a fifth.
- DEEPEP_NORMAL: bottleneck bandwidths of DeepEP V1 (H800, EP8 to EP64, 4,096 tokens) and V2 (EP8 to EP32, 8,192
  tokens), less their local copies: all 16 within 14%; fixed times from EP8 and EP32 on H100 (aiconfigurator-core). Set
  aside of the latter: EP64, whose NICs reach 44% (V1: 51 GB/s counting local copies), and EP16, on whose 20 cores the
  dispatch is a fifth and the combine a half slower than the law (V1's combine: 6%).
- ALL_GATHER: NCCL's all-gather and reduce-scatter on eight H200 reach 337 of 450 GB/s; its send/recv between two nodes
  of H100 35 of 50 GB/s (Vidur's network profile).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from planner.costs.routing import Collective

HOPS = 3.0
"""Hops whose latency shows in an exchange: the data, the flag behind it, and the wait for the slowest sender."""


class Phase(StrEnum):
    """Direction of an exchange."""

    DISPATCH = "dispatch"
    """Tokens to the ranks of their experts."""
    COMBINE = "combine"
    """Their results back, added up by the receiver."""


@dataclass(frozen=True)
class ExchangeLaw:
    """Constants of one kind of exchange.

    Args:
        setup_us: launch and bookkeeping, by phase.
        floor_us: least time of the transfer itself, by phase.
        issue_us: per peer.
        scale_up_share: reachable share of a scale-up link's rate.
        scale_out_share: reachable share of a NIC's rate.
    """

    setup_us: dict[Phase, float]
    floor_us: dict[Phase, float]
    issue_us: float
    scale_up_share: float
    scale_out_share: float


_NO_FLOOR = {Phase.DISPATCH: 0.0, Phase.COMBINE: 0.0}

LAWS: dict[Collective, ExchangeLaw] = {
    Collective.ONE_SIDED: ExchangeLaw(
        {Phase.DISPATCH: 6.7, Phase.COMBINE: 9.8}, {Phase.DISPATCH: 4.9, Phase.COMBINE: 14.8}, 0.085, 0.725, 0.93
    ),
    Collective.DEEPEP_LOW_LATENCY: ExchangeLaw({Phase.DISPATCH: 6.6, Phase.COMBINE: 6.2}, _NO_FLOOR, 0.094, 0.51, 0.93),
    Collective.DEEPEP_NORMAL: ExchangeLaw({Phase.DISPATCH: 6.0, Phase.COMBINE: 29.0}, _NO_FLOOR, 2.0, 0.67, 0.92),
    Collective.ALL_GATHER: ExchangeLaw({Phase.DISPATCH: 4.0, Phase.COMBINE: 4.0}, _NO_FLOOR, 0.1, 0.75, 0.70),
}
"""Every `Collective` has a law (a test checks it)."""
