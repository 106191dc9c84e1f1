"""Numbers and names as the contracts accept them: whole where they count, never a boolean or a text, bounded."""

from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticKnownError

MAX_TOKENS = 10_000_000
MAX_COUNT = 1_000_000
MAX_MS = 86_400_000.0


def _as_whole(value: object) -> object:
    """Turn 8.0 into 8, as JSON Schema's `integer` does; every other value is left for the strict check."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_real(value: object) -> object:
    """Turn an integer into a float; one too large for a float becomes infinite, which the check refuses."""
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    return value


def at_most(most: int) -> BeforeValidator:
    """Refuse a list that is too long before its items are read: `max_length` alone reads, and reports on, them all."""

    def check(value: object) -> object:
        if isinstance(value, list | tuple) and len(value) > most:
            lengths = {"field_type": "Tuple", "max_length": most, "actual_length": len(value)}
            raise PydanticKnownError("too_long", lengths)
        return value

    return BeforeValidator(check)


AS_WHOLE = BeforeValidator(_as_whole)
AS_REAL = BeforeValidator(_as_real)

Real = Annotated[float, Field(strict=True), AS_REAL]

Count = Annotated[int, Field(strict=True, gt=0, le=MAX_COUNT), AS_WHOLE]
CountOrZero = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT), AS_WHOLE]
Tokens = Annotated[int, Field(strict=True, gt=0, le=MAX_TOKENS), AS_WHOLE]
TokensOrZero = Annotated[int, Field(strict=True, ge=0, le=MAX_TOKENS), AS_WHOLE]

NonNegative = Annotated[float, Field(strict=True, ge=0), AS_REAL]
Milliseconds = Annotated[float, Field(strict=True, gt=0, le=MAX_MS), AS_REAL]
MillisecondsOrZero = Annotated[float, Field(strict=True, ge=0, le=MAX_MS), AS_REAL]
Microseconds = Annotated[float, Field(strict=True, ge=0, le=1e6), AS_REAL]
Bandwidth = Annotated[float, Field(strict=True, gt=0, le=1e6), AS_REAL]
Rate = Annotated[float, Field(strict=True, gt=0, le=1e9), AS_REAL]

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length=63)]
"""A name that is also a file name and a Kubernetes label."""
