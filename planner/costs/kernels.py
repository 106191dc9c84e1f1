"""The seam between the cost model and kernel times.

The cost model asks a `KernelLibrary` for the time of an operator and never how it was found. A library that knows
only some operators (a measured table, a user's calibration) answers None for the others; `Kernels` asks libraries in
the order of trust and the analytic one, which knows all, last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from planner.costs.linear import PiecewiseLinear, Watch
from planner.costs.operators import Operator


class KernelLibrary(Protocol):
    """Times of operators on one GPU type."""

    @property
    def source(self) -> str:
        """Where the times come from, for the plan's provenance."""

    def time_ms(self, operator: Operator) -> PiecewiseLinear | None:
        """Time in ms as a function of the operator's variable, or None where this library has no answer."""


class Kernels:
    """Kernel times of one GPU type: the first library of the chain that knows an operator gives its time.

    Args:
        libraries: in the order of trust; the last must know every operator.
    """

    def __init__(self, libraries: Sequence[KernelLibrary]) -> None:
        self.libraries = tuple(libraries)
        self._known: dict[Operator, tuple[KernelLibrary, PiecewiseLinear]] = {}
        self.used: dict[Operator, KernelLibrary] = {}
        """The operators asked for here, with the library that answered."""
        self.watches: dict[Operator, Watch] = {}
        """The largest tokens, sequences or prompts that an operator's time was asked for at, where `traced`."""
        self._traced = False

    def traced(self) -> Kernels:
        """The same times, found once for both, with nothing asked for yet and all that is asked for watched."""
        other = Kernels(self.libraries)
        other._known = self._known
        other._traced = True
        return other

    def time_ms(self, operator: Operator) -> PiecewiseLinear:
        """Time in ms as a function of the operator's variable."""
        known = self._known.get(operator)
        if known is None:
            known = self._known[operator] = self._find(operator)
        self.used[operator] = known[0]
        if not self._traced:
            return known[1]
        return known[1].watched(self.watches.setdefault(operator, Watch()))

    def _find(self, operator: Operator) -> tuple[KernelLibrary, PiecewiseLinear]:
        for library in self.libraries:
            time = library.time_ms(operator)
            if time is not None:
                return library, time
        raise LookupError(f"no kernel library knows {operator}")

    @property
    def largest_error(self) -> float:
        """Largest relative error of a linearisation among the kernels asked for so far."""
        return max((self._known[operator][1].error for operator in self.used), default=0.0)
