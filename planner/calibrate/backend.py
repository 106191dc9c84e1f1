"""What the harness asks of a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from planner.calibrate.device import Device
from planner.calibrate.work import WorkItem

Call = Callable[[], object]


class NotMeasurableError(Exception):
    """No kernel of this backend computes the operator; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """One way to compute an operator.

    Args:
        kernel: what is run.
        calls: the same computation over different weights or caches, which are together larger than the last-level
            cache, so that calling them in turn finds none of it there (as in a serving step, where other layers come
            between).
        stand_in: whether serving engines run a much better kernel.
    """

    kernel: str
    calls: Sequence[Call]
    stand_in: bool = False


class Bench(Protocol):
    """One curve, ready to be measured: what its points share has been allocated."""

    def candidates(self, value: int) -> Sequence[Candidate]:
        """Ways to compute the point at `value` of the variable.

        Raises:
            NotMeasurableError: there is none.
        """


class Backend(Protocol):
    """A device and its kernels."""

    @property
    def name(self) -> str:
        """`cuda` or `cpu`."""

    def device(self) -> Device:
        """What the backend runs on."""

    def open(self, item: WorkItem) -> Bench:
        """Allocate what the points of a curve share; at most one bench is in use at a time.

        Raises:
            NotMeasurableError: the backend has no kernel for it, or no room.
        """

    def estimate_ms(self, calls: Sequence[Call]) -> float:
        """Warm up, then a rough time of one call, ms."""

    def sampler(self, calls: Sequence[Call], count: int) -> Callable[[], float]:
        """A function that runs `count` calls in turn and returns the mean time of one, ms."""

    def collective_samples_ms(self, item: WorkItem) -> dict[int, list[float]]:
        """Samples of a collective over several devices, by value of the variable.

        Raises:
            NotMeasurableError: there are too few devices.
        """
