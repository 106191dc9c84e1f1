"""Wall clock that everything asked for in one question shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter


class OutOfTimeError(Exception):
    """The clock ran out before a question was answered."""


@dataclass(frozen=True)
class Clock:
    """A clock that runs out.

    Args:
        end_s: `perf_counter` at which it has run out.
    """

    end_s: float

    @staticmethod
    def start(time_limit_s: float) -> Clock:
        """A clock that runs out after `time_limit_s`."""
        return Clock(perf_counter() + time_limit_s)

    @property
    def left_s(self) -> float:
        """Seconds left, not below 0."""
        return max(self.end_s - perf_counter(), 0.0)

    def part(self, share: float) -> Clock:
        """A clock over a share of what is left."""
        return Clock.start(self.left_s * share)

    def check(self) -> None:
        """Go on only while there is time.

        Raises:
            OutOfTimeError: there is none left.
        """
        if self.left_s <= 0.0:
            raise OutOfTimeError


UNLIMITED = Clock(math.inf)
