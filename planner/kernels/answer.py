"""What a measured table answers for an operator."""

from __future__ import annotations

from dataclasses import dataclass

from planner.costs.linear import PiecewiseLinear
from planner.kernels.curves import Origin


@dataclass(frozen=True)
class Answer:
    """The time of one operator from measured curves.

    Args:
        time: ms over the operator's variable.
        outside: 1.0 where the operator lies within the measured keys, else the factor by which it lies outside on the
            worst axis (the efficiency at the edge is carried over).
        origin: the table.
        last: value of the variable up to which the curves around the operator's keys were measured.
    """

    time: PiecewiseLinear
    outside: float
    origin: Origin
    last: float
