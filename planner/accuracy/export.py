"""What `planner.accuracy.known` reads, from a report."""

from __future__ import annotations

from collections import defaultdict

from planner.accuracy.halves import Half, half_of
from planner.accuracy.score import Metric, Priced, Report, errors_of

LEAST_POINTS = 20
"""Scored points from which a GPU and engine have an error of their own."""


def by_gpu_and_engine(report: Report) -> dict[str, dict[str, dict[str, float]]]:
    """Median absolute errors on the scored half, by catalogue id of the GPU and by engine."""
    members: dict[tuple[str, str], list[Priced]] = defaultdict(list)
    for entry in report.priced:
        if half_of(entry.point) is Half.SCORED:
            members[entry.point.gpu, entry.point.engine.value].append(entry)
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (gpu, engine), entries in sorted(members.items()):
        errors = errors_of(entries)
        if len(entries) >= LEAST_POINTS and all(metric in errors for metric in Metric):
            medians = {metric.value: round(errors[metric].median_abs_error, 4) for metric in Metric}
            found[gpu][engine] = {**medians, "n": len(entries)}
    return dict(found)
