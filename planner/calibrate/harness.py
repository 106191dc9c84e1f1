"""The harness: how a time is measured, whatever the device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from planner.calibrate.backend import Backend, Candidate, NotMeasurableError
from planner.calibrate.table import Curve, Key, Row
from planner.calibrate.work import WorkItem

SAMPLES = 9
"""Samples behind one median."""

LEAST_SAMPLE_MS = 0.3
"""A sample holds as many calls as last this long, so that the clock's resolution does not matter."""

LARGEST_SAMPLE_MS = 10.0
"""It holds fewer calls than there are weight copies where they would last longer than this."""

LARGEST_COUNT = 1024
"""Calls in one sample at most."""

STEADY_SPREAD = 0.1
"""Samples that scatter more (interquartile range over median) are taken again, and the steadier set is kept."""

ATTEMPTS = 3

POINT_OVERHEAD_S = 0.05
"""Warm-up, capture and allocation per point; for the estimate of a dry run."""

KERNEL_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    MemoryError,
    NotMeasurableError,
)
"""What a kernel library raises where it cannot compute a shape, or lacks the kernel."""


@dataclass(frozen=True)
class Timing:
    """The samples of one candidate.

    Args:
        time_ms: their median.
        spread: their interquartile range over the median.
    """

    time_ms: float
    spread: float

    @staticmethod
    def of(samples_ms: Iterable[float]) -> Timing:
        """Summarise samples; all must be positive and finite."""
        samples = sorted(samples_ms)
        if not samples or not all(0.0 < sample < math.inf for sample in samples):
            raise NotMeasurableError("the clock gave no positive time")
        middle = statistics.median(samples)
        low, _, high = statistics.quantiles(samples, n=4) if len(samples) > 1 else (middle, middle, middle)
        return Timing(middle, (high - low) / middle)


@dataclass(frozen=True)
class LeftOut:
    """A point or curve that was not measured, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


def measure_candidate(backend: Backend, candidate: Candidate) -> Timing:
    """Time one candidate: warm-up, calls in turn over all weight copies, median of samples, outliers measured again.

    Raises:
        NotMeasurableError: the clock gave no time.
    """
    rough_ms = max(backend.estimate_ms(candidate.calls), 1e-4)
    count = max(len(candidate.calls), math.ceil(LEAST_SAMPLE_MS / rough_ms))
    count = max(1, min(count, math.ceil(LARGEST_SAMPLE_MS / rough_ms)))
    sample = backend.sampler(candidate.calls, count)
    quick_ms = sample() * count
    if 0.0 < quick_ms < 0.5 * LEAST_SAMPLE_MS:  # the rough time was that of launching
        sample = backend.sampler(candidate.calls, min(LARGEST_COUNT, math.ceil(count * LEAST_SAMPLE_MS / quick_ms)))
        sample()
    best: Timing | None = None
    for _ in range(ATTEMPTS):
        timing = Timing.of(sample() for _ in range(SAMPLES))
        if best is None or timing.spread < best.spread:
            best = timing
        if best.spread <= STEADY_SPREAD:
            break
    assert best is not None
    return best


def measure_point(backend: Backend, candidates: Iterable[Candidate]) -> tuple[Candidate, Timing]:
    """The fastest candidate that is no stand-in, else the fastest stand-in; one that fails to run is passed over.

    Raises:
        NotMeasurableError: none ran; the message gives their errors.
    """
    found: list[tuple[Candidate, Timing]] = []
    errors = []
    for candidate in sorted(candidates, key=lambda candidate: candidate.stand_in):
        if candidate.stand_in and any(not other.stand_in for other, _ in found):
            break  # stand-ins are only measured where nothing better runs
        try:
            found.append((candidate, measure_candidate(backend, candidate)))
        except KERNEL_ERRORS as error:
            errors.append(f"{candidate.kernel}: {_short(error)}")
    if not found:
        raise NotMeasurableError("; ".join(errors) or "no kernel")
    return min(found, key=lambda pair: pair[1].time_ms)


def measure_item(
    backend: Backend, item: WorkItem, done: set[tuple[Curve, int]], leave_out: Callable[[LeftOut], None]
) -> Iterator[Row]:
    """Measure the points of a curve that are not done yet, one after the other.

    Args:
        backend: the device.
        item: the curve.
        done: points measured earlier.
        leave_out: told of every point that cannot be measured.
    """
    values = [value for value in item.values if (item.curve, value) not in done]
    if not values:
        return
    try:
        if item.operator == "all_reduce":
            for value, samples in backend.collective_samples_ms(replace(item, values=tuple(values))).items():
                yield _row(item.operator, item.keys, value, Timing.of(samples), "NCCL all-reduce", stand_in=False)
            return
        bench = backend.open(item)
    except KERNEL_ERRORS as error:
        leave_out(LeftOut(str(item), _short(error)))
        return
    for value in values:
        try:
            candidate, timing = measure_point(backend, bench.candidates(value))
        except KERNEL_ERRORS as error:
            leave_out(LeftOut(f"{item} at {value}", _short(error)))
            continue
        yield _row(item.operator, item.keys, value, timing, candidate.kernel, stand_in=candidate.stand_in)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _row(
    operator: str, keys: tuple[tuple[str, Key], ...], value: int, timing: Timing, kernel: str, *, stand_in: bool
) -> Row:
    return Row(operator, keys, value, float(f"{timing.time_ms:.6g}"), round(timing.spread, 4), kernel, stand_in)


class Deadline:
    """A limit in minutes; None never passes."""

    def __init__(self, minutes: float | None) -> None:
        self._end_s = math.inf if minutes is None else time.monotonic() + 60.0 * minutes

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end_s
