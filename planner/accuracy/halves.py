"""Splits points so that what is fitted on some is scored on others.

A half is chosen by the hash of model, GPU, engine, layout and precision: all lengths, concurrencies and repeats of one
configuration lie on one side, so that no sweep has a foot in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from planner.accuracy.points import Point


class Half(StrEnum):
    """The two halves."""

    FITTED = "fitted"
    """Parameters may be fitted on it."""
    SCORED = "scored"
    """Only scored."""


def half_of(point: Point) -> Half:
    """The half of a point: the parity of the first byte of a SHA-256, the same on every machine."""
    key = "|".join((point.model, point.gpu, point.engine.value, point.layout, point.precision.value))
    return Half.FITTED if hashlib.sha256(key.encode()).digest()[0] % 2 == 0 else Half.SCORED


def in_half(points: Iterable[Point], half: Half) -> tuple[Point, ...]:
    """The points of one half, in their order."""
    return tuple(point for point in points if half_of(point) is half)


@dataclass(frozen=True)
class Fold:
    """One fold of a leave-one-out.

    Args:
        left_out: what is left out: a model's or a GPU's id.
        fitted: all other points.
        scored: its points.
    """

    left_out: str
    fitted: tuple[Point, ...]
    scored: tuple[Point, ...]


def leave_one_model_out(points: Iterable[Point]) -> Iterator[Fold]:
    """One fold for each model, by id."""
    return _leave_one_out(tuple(points), lambda point: point.model)


def leave_one_gpu_out(points: Iterable[Point]) -> Iterator[Fold]:
    """One fold for each GPU, by id."""
    return _leave_one_out(tuple(points), lambda point: point.gpu)


def _leave_one_out(points: tuple[Point, ...], name: Callable[[Point], str]) -> Iterator[Fold]:
    for left_out in sorted({name(point) for point in points}):
        yield Fold(
            left_out,
            tuple(point for point in points if name(point) != left_out),
            tuple(point for point in points if name(point) == left_out),
        )
