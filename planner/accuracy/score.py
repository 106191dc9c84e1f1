"""Scores predictions against measurements: per metric, overall and per slice, beside the noise of repeats."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from planner.accuracy.points import Point, Refused


class Metric(StrEnum):
    """What is scored, in the order of reports."""

    TPOT = "tpot"
    THROUGHPUT = "throughput"
    TTFT = "ttft"


NAMES = {Metric.TPOT: "TPOT", Metric.THROUGHPUT: "throughput", Metric.TTFT: "TTFT"}
"""Metrics in words."""

FIELDS = {Metric.TPOT: "tpot_ms", Metric.THROUGHPUT: "throughput_tok_s_per_gpu", Metric.TTFT: "ttft_ms"}
"""Field of `Measured` and `Estimate` by metric."""


@dataclass(frozen=True)
class Estimate:
    """What is predicted for a point; None where the cost model says nothing.

    Args:
        ttft_ms: mean time to first token, the initial burst included.
        tpot_ms: mean time per output token after the first.
        throughput_tok_s_per_gpu: as in `Measured`.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    throughput_tok_s_per_gpu: float | None = None


Estimator = Callable[[Point], Estimate]
"""Predicts a point; raises `ValueError` (a `SpecError`, say) where it cannot, with the reason."""


@dataclass(frozen=True)
class Errors:
    """Relative errors e = predicted / measured - 1 of one metric over some points, as fractions.

    Args:
        median_abs_error: median of |e|.
        bias: median of e; positive: predicted too large.
        mean_error: mean of e.
        p90: 90th percentile of |e|.
        median_log_ratio: median of |ln(predicted / measured)|, which counts half and double alike.
        n: points.
    """

    median_abs_error: float
    bias: float
    mean_error: float
    p90: float
    median_log_ratio: float
    n: int

    @staticmethod
    def of(predicted: Iterable[float], measured: Iterable[float]) -> Errors | None:
        """Errors of pairs of positive numbers; None where there are none."""
        pairs: NDArray[np.float64] = np.array([*zip(predicted, measured, strict=True)], dtype=float).reshape(-1, 2)
        if not len(pairs):
            return None
        error = pairs[:, 0] / pairs[:, 1] - 1.0
        return Errors(
            median_abs_error=float(np.median(np.abs(error))),
            bias=float(np.median(error)),
            mean_error=float(error.mean()),
            p90=float(np.percentile(np.abs(error), 90)),
            median_log_ratio=float(np.median(np.abs(np.log(pairs[:, 0] / pairs[:, 1])))),
            n=len(pairs),
        )


@dataclass(frozen=True)
class Priced:
    """A point with its prediction."""

    point: Point
    estimate: Estimate

    def pair(self, metric: Metric) -> tuple[float, float] | None:
        """Predicted and measured value of a metric; None where either is missing."""
        predicted = getattr(self.estimate, FIELDS[metric])
        measured = getattr(self.point.measured, FIELDS[metric])
        return None if predicted is None or measured is None else (predicted, measured)


@dataclass(frozen=True)
class Slice:
    """The points of one GPU, engine, model and mode.

    Args:
        gpu: catalogue id.
        engine: engine.
        model: catalogue id.
        mode: serving mode.
        points: all of them.
        priced: those with a prediction.
        errors: by metric; a metric that was not measured is not there.
    """

    gpu: str
    engine: str
    model: str
    mode: str
    points: int
    priced: int
    errors: Mapping[Metric, Errors]

    @property
    def name(self) -> str:
        """GPU, engine, model and mode in one line."""
        return f"{self.gpu} {self.engine} {self.model} {self.mode}"


@dataclass(frozen=True)
class Noise:
    """How far repeats of one configuration lie apart: (largest - smallest) / (largest + smallest).

    Args:
        groups: configurations measured more than once.
        median: median over them.
        p75: 75th percentile.
        p90: 90th percentile.
    """

    groups: int
    median: float
    p75: float
    p90: float


@dataclass(frozen=True)
class Report:
    """Scores of a set of points.

    Args:
        rows: rows that were asked for, those that are no points included.
        priced: points with a prediction, in the order of the file.
        overall: errors by metric.
        slices: worst TPOT first, then worst TTFT.
        reasons: why rows have no prediction, the most frequent first, with how many.
        noise: by metric, over repeats among the points.
    """

    rows: int
    priced: tuple[Priced, ...]
    overall: Mapping[Metric, Errors]
    slices: tuple[Slice, ...]
    reasons: tuple[tuple[str, int], ...]
    noise: Mapping[Metric, Noise]

    @property
    def coverage(self) -> float:
        """Share of the rows with a prediction."""
        return len(self.priced) / self.rows if self.rows else 0.0

    def to_dict(self) -> dict[str, object]:
        """The report as JSON has it: fractions, and null where nothing was scored."""
        return {
            "overall": _written(self.overall),
            "coverage": self.coverage,
            "slices": [
                {
                    "gpu": part.gpu,
                    "engine": part.engine,
                    "model": part.model,
                    "mode": part.mode,
                    "points": part.points,
                    "coverage": part.priced / part.points,
                    **_written(part.errors),
                }
                for part in self.slices
            ],
        }


def _written(errors: Mapping[Metric, Errors]) -> dict[str, dict[str, float | int | None]]:
    names = ("median_abs_error", "bias", "p90")
    return {
        metric.value: {
            **{name: getattr(errors[metric], name) if metric in errors else None for name in names},
            "n": errors[metric].n if metric in errors else 0,
        }
        for metric in Metric
    }


def score(points: Sequence[Point], estimator: Estimator, refused: Sequence[Refused] = ()) -> Report:
    """Predict every point and score the predictions.

    Args:
        points: the points.
        estimator: predicts one of them.
        refused: rows that are no points; they count against the coverage.
    """
    priced: list[Priced] = []
    reasons = Counter(row.reason for row in refused)
    for point in points:
        try:
            estimate = estimator(point)
        except ValueError as error:
            reasons[str(error)] += 1
            continue
        if any(Priced(point, estimate).pair(metric) for metric in Metric):
            priced.append(Priced(point, estimate))
        else:
            reasons["nothing that was measured is predicted"] += 1
    return report(points, priced, len(points) + len(refused), reasons)


def report(points: Sequence[Point], priced: Sequence[Priced], rows: int, reasons: Mapping[str, int]) -> Report:
    """The report of points, of which some have predictions."""
    members: dict[tuple[str, str, str, str], list[Priced]] = defaultdict(list)
    for entry in priced:
        members[entry.point.slice].append(entry)
    counts = Counter(point.slice for point in points)
    slices = [
        Slice(*key, points=count, priced=len(members[key]), errors=errors_of(members[key]))
        for key, count in counts.items()
    ]
    slices.sort(key=lambda part: (*(-_median(part, metric) for metric in (Metric.TPOT, Metric.TTFT)), part.name))
    return Report(
        rows=rows,
        priced=tuple(priced),
        overall=errors_of(priced),
        slices=tuple(slices),
        reasons=tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        noise=noise_of(points),
    )


def _median(part: Slice, metric: Metric) -> float:
    return part.errors[metric].median_abs_error if metric in part.errors else -1.0


def errors_of(priced: Iterable[Priced]) -> dict[Metric, Errors]:
    """Errors by metric over some points; a metric without pairs is left out."""
    entries = list(priced)
    found: dict[Metric, Errors] = {}
    for metric in Metric:
        pairs = [pair for pair in (entry.pair(metric) for entry in entries) if pair is not None]
        errors = Errors.of((predicted for predicted, _ in pairs), (measured for _, measured in pairs))
        if errors is not None:
            found[metric] = errors
    return found


def noise_of(points: Iterable[Point]) -> dict[Metric, Noise]:
    """Spread of repeated measurements by metric; a metric without repeats is left out.

    Rows that agree in TTFT and TPOT to 0.01 ms are copies of one measurement, not repeats.
    """
    repeats: dict[tuple[object, ...], list[Point]] = defaultdict(list)
    seen: set[tuple[object, ...]] = set()
    for point in points:
        times = (round(point.measured.ttft_ms or 0.0, 2), round(point.measured.tpot_ms or 0.0, 2))
        if (point.configuration, times) not in seen:
            seen.add((point.configuration, times))
            repeats[point.configuration].append(point)
    found: dict[Metric, Noise] = {}
    for metric in Metric:
        spreads = []
        for group in repeats.values():
            values = [value for point in group if (value := getattr(point.measured, FIELDS[metric])) is not None]
            if len(values) > 1:
                spreads.append((max(values) - min(values)) / (max(values) + min(values)))
        if spreads:
            median, p75, p90 = (float(value) for value in np.percentile(spreads, (50, 75, 90)))
            found[metric] = Noise(len(spreads), median, p75, p90)
    return found
