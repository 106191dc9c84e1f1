"""Measured kernel times as curves: one piecewise-linear time over a variable for every measured point of a grid.

A `CurveSet` is one table of the catalogue (say, FP8 GEMMs of one engine on one GPU): its axes span a grid of keys (n
and k of a GEMM), and each key that was measured has a curve over the table's variable (rows m). Curves are linear
between knots and hold within the table's stated error of the rows that they were distilled from. Where those rows fall
curves do; `rising` reads them as times that never do.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planner.kernels.distil import bends, non_decreasing

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FORMAT = "cleave.kernels/1"


@dataclass(frozen=True)
class Origin:
    """Where a table comes from and how well its curves hold.

    Args:
        source: what was measured and published by whom, with the file it comes from.
        framework: engine whose kernels were measured.
        version: of that engine (or of the library, for collectives).
        rows: source rows behind the table.
        error_p95: relative error of the curves that 95% of the source rows stay within.
        error_max: largest relative error of a source row.
        flagged: source rows whose error exceeds 15%.
        rising_p95: as `error_p95`, of the curves as they are read: never falling while the problem grows.
        rising_flagged: source rows whose error exceeds 15% then, or that are left out.
        note: anything a reader should know; empty where nothing.
    """

    source: str
    framework: str
    version: str
    rows: int
    error_p95: float
    error_max: float
    flagged: int
    rising_p95: float
    rising_flagged: int
    note: str = ""


@dataclass(frozen=True, eq=False)
class CurveSet:
    """One table: curves over `variable` at the measured points of a grid.

    Args:
        name: family and kind, dots between, for example `gemm.fp8_block`.
        axes: names of the key columns, for example ("n", "k").
        variable: name of the curves' variable, for example "m".
        keys: measured grid points, shape (c, d), rows distinct and in lexicographic order.
        starts: first knot of every curve and one past the last, shape (c + 1,).
        x: values of the variable at the knots, ascending within a curve, shape (k,), positive.
        time_ms: times at the knots, shape (k,), positive.
        origin: provenance and error.
    """

    name: str
    axes: tuple[str, ...]
    variable: str
    keys: FloatArray
    starts: IntArray
    x: FloatArray
    time_ms: FloatArray
    origin: Origin

    @staticmethod
    def of(
        name: str,
        axes: Sequence[str],
        variable: str,
        curves: Iterable[tuple[Sequence[float], ArrayLike, ArrayLike]],
        origin: Origin,
    ) -> CurveSet:
        """A table from (key, x, time_ms) triples in any order."""
        ordered = sorted(((tuple(map(float, key)), x, t) for key, x, t in curves), key=lambda curve: curve[0])
        xs = [np.asarray(x, dtype=float) for _, x, _ in ordered]
        times = [np.asarray(time, dtype=float) for _, _, time in ordered]
        return CurveSet(
            name,
            tuple(axes),
            variable,
            np.array([key for key, _, _ in ordered], dtype=float).reshape(len(ordered), len(axes)),
            np.concatenate(([0], np.cumsum([x.size for x in xs]))).astype(np.int64),
            np.concatenate(xs) if xs else np.zeros(0),
            np.concatenate(times) if times else np.zeros(0),
            origin,
        )

    def knots(self, curve: int) -> tuple[FloatArray, FloatArray]:
        """Knots of one curve: x and time_ms."""
        part = slice(int(self.starts[curve]), int(self.starts[curve + 1]))
        return self.x[part], self.time_ms[part]

    def at(self, curve: int, x: ArrayLike) -> FloatArray:
        """Time in ms of one curve, held constant outside its knots."""
        return np.asarray(np.interp(np.asarray(x, dtype=float), *self.knots(curve)))

    def rising(self, curve: int) -> tuple[FloatArray, FloatArray]:
        """Knots of the non-decreasing curve nearest to a curve: x and time_ms.

        A curve that falls somewhere is fitted (`non_decreasing`) on every value of the variable that the table has
        between its ends, so that its rows weigh alike although its own knots are few where it is straight.
        """
        if curve not in self._risen:
            x, time = self.knots(curve)
            if (np.diff(time) < 0.0).any():
                grid = self._values[np.searchsorted(self._values, x[0]) : np.searchsorted(self._values, x[-1]) + 1]
                x, time = bends(grid, non_decreasing(np.interp(grid, x, time)))
            self._risen[curve] = x, time
        return self._risen[curve]

    @cached_property
    def _risen(self) -> dict[int, tuple[FloatArray, FloatArray]]:
        return {}

    @cached_property
    def _values(self) -> FloatArray:
        """Every value of the variable that a knot has, ascending."""
        narrow = _smallest(self.x)  # integers of 16 bits are sorted four times as fast
        return np.unique(narrow if narrow.dtype.kind == "u" else self.x).astype(np.float64)

    @cached_property
    def coverage(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of every axis and of the variable."""
        spans = {axis: (float(self.keys[:, i].min()), float(self.keys[:, i].max())) for i, axis in enumerate(self.axes)}
        return {**spans, self.variable: (float(self.x.min()), float(self.x.max()))}


STEP = 2.0**-11
"""Times are stored as multiples of this in their base-2 logarithm: within 0.02%."""


def save(path: Path, tables: Sequence[CurveSet]) -> None:
    """Write tables into one compressed file; the same tables give the same bytes.

    Times are stored in 16 bits (`STEP`), keys and knots in the smallest type that holds them (`_smallest`). Keys lie
    column by column, which compresses to a quarter: in order of the keys the first columns hardly change.
    """
    arrays: dict[str, Any] = {}
    head = []
    for index, table in enumerate(sorted(tables, key=lambda table: table.name)):
        logs = np.round(np.log2(table.time_ms) / STEP).astype(np.int64)
        if logs.size and (logs.min() < -(1 << 15) or logs.max() >= 1 << 15):
            raise ValueError(f"table {table.name} has a time outside 2^-16 to 2^16 ms")
        head.append(
            {
                "name": table.name,
                "axes": list(table.axes),
                "variable": table.variable,
                "origin": asdict(table.origin),
            }
        )
        arrays[f"{index}.keys"] = np.asfortranarray(_smallest(table.keys))
        arrays[f"{index}.sizes"] = np.diff(table.starts).astype(np.uint16)
        arrays[f"{index}.x"] = _smallest(table.x)
        arrays[f"{index}.logs"] = logs.astype(np.int16)
    text = json.dumps({"format": FORMAT, "tables": head}, sort_keys=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, head=np.frombuffer(text.encode(), dtype=np.uint8), **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def _smallest(values: FloatArray) -> NDArray[Any]:
    """As unsigned integers of 16 or 32 bits where that is exact, else as 32-bit floats."""
    for kind in (np.uint16, np.uint32):
        if ((values >= 0.0) & (values <= np.iinfo(kind).max) & (values == np.floor(values))).all():
            return values.astype(kind)
    return values.astype(np.float32)


class Stored(Mapping[str, CurveSet]):
    """The tables of a file that `save` wrote, by name; each is unpacked when it is first asked for.

    Args:
        path: the file, which is read once.

    Raises:
        ValueError: the file is not of this format, or not whole; damage within a table shows when that is unpacked.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._tables: dict[str, CurveSet] = {}
        with _whole(self._name):
            self._file = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
            head = json.loads(bytes(self._array("head")).decode())
        if head.get("format") != FORMAT:
            raise ValueError(f"{self._name} has format {head.get('format')!r}; accepted: {FORMAT}")
        self._heads = {part["name"]: (index, part) for index, part in enumerate(head["tables"])}

    def __getitem__(self, name: str) -> CurveSet:
        """The table of a name."""
        if name not in self._tables:
            index, head = self._heads[name]
            with _whole(self._name):
                self._tables[name] = self._table(index, head)
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._heads)

    def __len__(self) -> int:
        """Number of tables."""
        return len(self._heads)

    def _array(self, name: str) -> NDArray[Any]:
        with self._file.open(f"{name}.npy") as stored:
            return np.asarray(np.lib.format.read_array(stored, allow_pickle=False))

    def _table(self, index: int, head: Mapping[str, Any]) -> CurveSet:
        sizes = self._array(f"{index}.sizes").astype(np.int64)
        return CurveSet(
            head["name"],
            tuple(head["axes"]),
            head["variable"],
            self._array(f"{index}.keys").astype(np.float64),
            np.concatenate(([0], np.cumsum(sizes))),
            self._array(f"{index}.x").astype(np.float64),
            np.exp2(self._array(f"{index}.logs").astype(np.float64) * STEP),
            Origin(**head["origin"]),
        )


@contextmanager
def _whole(name: str) -> Iterator[None]:
    """Report what goes wrong while reading a file as the file's fault."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(f"{name} is not a whole file of format {FORMAT}: {error}") from error
