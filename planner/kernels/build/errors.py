"""Errors that a table states of itself: of its curves, and of its curves as they are read, against the source rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.kernels.build.source import SourceError
from planner.kernels.curves import CurveSet, Origin
from planner.kernels.distil import FLAG_ERROR

FloatArray = NDArray[np.float64]

TARGET_ERROR = 0.03
"""Relative error of the stored curves that 95% of a table's rows stay within."""


def provenance(source: str, framework: str, version: str, note: str = "") -> Origin:
    """An origin whose errors are still to be stated."""
    return Origin(source, framework, version, 0, np.inf, np.inf, 0, np.inf, 0, note)


def stated(table: CurveSet, rows: Sequence[tuple[FloatArray, FloatArray]]) -> CurveSet:
    """The table with the errors of its curves, read one by one (`CurveSet.rising`).

    Args:
        table: its origin says where it is from.
        rows: x and measured ms of every curve, in the order of the table's curves.
    """
    curves = range(len(rows))
    return with_errors(
        table,
        np.concatenate([table.at(curve, x) / time for curve, (x, time) in zip(curves, rows, strict=True)]) - 1.0,
        np.concatenate(
            [np.interp(x, *table.rising(curve)) / time for curve, (x, time) in zip(curves, rows, strict=True)]
        )
        - 1.0,
    )


def with_errors(table: CurveSet, error: FloatArray, rising_error: FloatArray) -> CurveSet:
    """The table with relative errors stated.

    Args:
        table: its origin says where it is from.
        error: of the stored curves, per row.
        rising_error: of the curves as they are read, per row; NaN where they leave a row out.

    Raises:
        SourceError: fewer rows are within `TARGET_ERROR`, as where repeats of a point disagree.
    """
    error, rising_error = np.abs(error), np.abs(rising_error)
    left_out = np.isnan(rising_error)
    origin = replace(
        table.origin,
        rows=int(error.size),
        error_p95=round(float(np.quantile(error, 0.95)), 4),
        error_max=round(float(error.max()), 4),
        flagged=int((error > FLAG_ERROR).sum()),
        rising_p95=round(float(np.quantile(rising_error[~left_out], 0.95)), 4),
        rising_flagged=int((left_out | (rising_error > FLAG_ERROR)).sum()),
    )
    if origin.error_p95 > TARGET_ERROR:
        raise SourceError(
            f"{origin.source}: table {table.name} misses its rows by {origin.error_p95:.1%} (95% of them within that); "
            f"accepted: {TARGET_ERROR:.0%}"
        )
    return replace(table, origin=origin)
