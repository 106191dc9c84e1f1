"""Where something stands, and what stands there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A line of a file; line None: the whole file."""

    file: str
    line: int | None = None


@dataclass(frozen=True)
class Fact(Generic[T]):
    """A value and where it was read."""

    value: T
    place: Place
