"""The requests of a service: their lengths, their arrivals and what they share."""

import math
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from specs.base import Spec
from specs.errors import SpecError
from specs.quantities import AS_REAL, MAX_TOKENS, Count, NonNegative, Tokens, TokensOrZero, at_most

MAX_LENGTHS = 10_000
"""Values of one distribution of lengths."""


class MeanLength(Spec):
    """A length known by its mean and its coefficient of variation."""

    mean: Annotated[float, Field(strict=True, gt=0, le=MAX_TOKENS), AS_REAL]
    cv: Annotated[float, Field(strict=True, ge=0, le=100), AS_REAL]


class DiscreteLength(Spec):
    """A length that takes `values` with probabilities proportional to `weights`."""

    values: Annotated[tuple[TokensOrZero, ...], Field(min_length=1, max_length=MAX_LENGTHS), at_most(MAX_LENGTHS)]
    weights: Annotated[tuple[NonNegative, ...], Field(min_length=1, max_length=MAX_LENGTHS), at_most(MAX_LENGTHS)]

    @model_validator(mode="after")
    def _check(self) -> "DiscreteLength":
        if len(self.weights) != len(self.values):
            raise SpecError(
                f"must have one weight per value: {len(self.values)} values, {len(self.weights)} weights",
                field="weights",
            )
        if not 0 < sum(self.weights) < math.inf:
            raise SpecError("must have a positive, finite sum", field="weights")
        if self.mean <= 0:
            raise SpecError("must have a positive mean", field="values")
        return self

    @property
    def mean(self) -> float:
        """Mean length [tokens]."""
        total = sum(self.weights)
        return sum(value * (weight / total) for value, weight in zip(self.values, self.weights, strict=True))

    @property
    def cv(self) -> float:
        """Coefficient of variation."""
        total, mean = sum(self.weights), self.mean
        variance = sum((v - mean) ** 2 * (w / total) for v, w in zip(self.values, self.weights, strict=True))
        return math.sqrt(variance) / mean


def _length_kind(value: object) -> str:
    if isinstance(value, DiscreteLength) or (isinstance(value, dict) and {"values", "weights"} & value.keys()):
        return "discrete length"
    return "length by mean" if isinstance(value, MeanLength | dict) else "number of tokens"


Length = Annotated[
    Annotated[Tokens, Tag("number of tokens")]
    | Annotated[MeanLength, Tag("length by mean")]
    | Annotated[DiscreteLength, Tag("discrete length")],
    Discriminator(_length_kind),
]
LengthOrZero = Annotated[
    Annotated[TokensOrZero, Tag("number of tokens")]
    | Annotated[MeanLength, Tag("length by mean")]
    | Annotated[DiscreteLength, Tag("discrete length")],
    Discriminator(_length_kind),
]


def mean_tokens(length: int | MeanLength | DiscreteLength) -> float:
    """Mean of a length [tokens]."""
    return float(length) if isinstance(length, int) else length.mean


def cv_tokens(length: int | MeanLength | DiscreteLength) -> float:
    """Coefficient of variation of a length; 0 for a fixed one."""
    return 0.0 if isinstance(length, int) else length.cv


class ArrivalProcess(StrEnum):
    """How requests arrive."""

    POISSON = "poisson"
    GAMMA = "gamma"
    CLOSED_LOOP = "closed_loop"


class Arrival(Spec):
    """The arrival process: `gamma` needs `cv`, `closed_loop` needs `concurrency`, and neither goes elsewhere."""

    process: ArrivalProcess = ArrivalProcess.POISSON
    cv: Annotated[float, Field(strict=True, gt=0, le=100), AS_REAL] | None = None
    """Coefficient of variation of the time between arrivals (gamma)."""
    concurrency: Count | None = None
    """Requests that the clients keep in flight (closed loop)."""

    @model_validator(mode="after")
    def _check(self) -> "Arrival":
        for field, process in (("cv", ArrivalProcess.GAMMA), ("concurrency", ArrivalProcess.CLOSED_LOOP)):
            given = getattr(self, field) is not None
            if self.process is process and not given:
                raise SpecError(f"is required by process {process.value}: a positive number", field=field)
            if self.process is not process and given:
                raise SpecError(
                    f"belongs to process {process.value}, but the process is {self.process.value}", field=field
                )
        return self

    @property
    def interarrival_cv(self) -> float:
        """Coefficient of variation of the time between arrivals of an open process (1 for Poisson)."""
        return 1.0 if self.cv is None else self.cv


class PrefixTier(StrEnum):
    """Where the cached prefix lies."""

    HBM = "hbm"
    HOST = "host"


class Workload(Spec):
    """The requests of one service."""

    input_tokens: Length
    """New tokens of a request, on top of its prefix."""
    output_tokens: Length
    prefix_tokens: LengthOrZero = 0
    """Tokens read from the cache."""
    arrival: Arrival = Arrival()
    prefix_sharing: Literal["none", "all"] | Count = "none"
    """How many requests share one copy of the prefix."""
    prefix_at: Annotated[tuple[Literal["prefill", "decode"], ...], Field(max_length=2), at_most(2)] = (
        "prefill",
        "decode",
    )
    """Sides where the prefix is resident; to the other it is transferred."""
    prefix_tier: PrefixTier = PrefixTier.HBM

    @model_validator(mode="after")
    def _check(self) -> "Workload":
        if len(set(self.prefix_at)) != len(self.prefix_at):
            raise SpecError("must name each of prefill and decode at most once", field="prefix_at")
        if self.mean_output_tokens < 1:
            raise SpecError("must have a mean of at least 1 token", field="output_tokens")
        return self

    @property
    def mean_input_tokens(self) -> float:
        """Mean new tokens of a request."""
        return mean_tokens(self.input_tokens)

    @property
    def mean_output_tokens(self) -> float:
        """Mean output tokens of a request."""
        return mean_tokens(self.output_tokens)

    @property
    def mean_prefix_tokens(self) -> float:
        """Mean tokens of a request that are read from the cache."""
        return mean_tokens(self.prefix_tokens)


def resolve_workload(workload: Workload | str) -> Workload:
    """Return the workload itself, or the one of that name in the catalogue.

    Raises:
        SpecError: there is no such name; the message gives the nearest ones.

    """
    if isinstance(workload, Workload):
        return workload
    # Imported here so that models of scenarios do not load the catalogue.
    from specs import catalog

    return Workload.model_validate(catalog.workload(workload))
