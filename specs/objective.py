"""What is optimised."""

from typing import Literal

from pydantic import model_validator

from specs.base import Spec
from specs.errors import SpecError

Minimizable = Literal["cost", "gpus", "power"]


class Objective(Spec):
    """Exactly one of `maximize: throughput` and `minimize: cost | gpus | power`."""

    maximize: Literal["throughput"] | None = None
    minimize: Minimizable | None = None

    @model_validator(mode="after")
    def _check(self) -> "Objective":
        if (self.maximize is None) == (self.minimize is None):
            raise SpecError("must be exactly one of {maximize: throughput} and {minimize: cost | gpus | power}")
        return self

    @property
    def maximizing(self) -> bool:
        """Whether more is better."""
        return self.maximize is not None

    @property
    def quantity(self) -> Literal["throughput", "cost", "gpus", "power"]:
        """The quantity that is optimised."""
        if self.maximize is not None:
            return self.maximize
        assert self.minimize is not None  # the validator allows nothing else
        return self.minimize
