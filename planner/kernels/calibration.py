"""The user's tables (`cleave calibrate`) on the GPU pools of a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from planner.calibrate.table import Table, read
from planner.kernels.user_table import UserKernels
from specs.errors import SpecError
from specs.hardware import GpuSpec
from specs.scenario import ResolvedPool

PathOrPaths = str | PathLike[str] | Sequence[str | PathLike[str]]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Tables, each of which applies on the GPU type that it was measured on.

    Args:
        tables: file and content, in the order of trust.
    """

    tables: tuple[tuple[Path, Table], ...] = ()
    _kernels: dict[tuple[str, float], tuple[UserKernels, ...]] = field(default_factory=dict, repr=False)

    @staticmethod
    def read(paths: PathOrPaths) -> Calibration:
        """Read complete tables.

        Raises:
            SpecError: one is not complete or not a table (`planner.calibrate.table.read`), or is given twice.
        """
        given = [paths] if isinstance(paths, str | PathLike) else paths
        files = [Path(path) for path in given]
        for number, path in enumerate(files):
            if path in files[:number]:
                raise SpecError("is given twice", field="calibration", file=str(path))
        return Calibration(tuple((path, read(path)) for path in files))

    def on(self, gpu: GpuSpec, *, slowdown: float = 1.0) -> tuple[UserKernels, ...]:
        """The tables of a GPU type, with a factor on every time.

        They are made once for each type: what-if studies change its memory, which no time depends on.

        Raises:
            SpecError: as `UserKernels.of`.
        """
        key = gpu.id, slowdown
        if key not in self._kernels:
            found = (UserKernels.of(path, table, gpu, slowdown=slowdown) for path, table in self.tables)
            self._kernels[key] = tuple(kernels for kernels in found if kernels is not None)
        return self._kernels[key]

    def notes(self, pools: Sequence[ResolvedPool]) -> tuple[str, ...]:
        """For each table, the pools that it does not apply to.

        Raises:
            SpecError: a table applies to none of them.
        """
        notes = []
        for path, table in self.tables:
            others = [pool for pool in pools if pool.gpu.id != table.header.gpu]
            if len(others) == len(pools):
                accepted = ", ".join(dict.fromkeys(pool.gpu.id for pool in pools))
                raise SpecError(
                    f"was measured on {table.header.gpu}, which is no GPU type of the pools; accepted: tables of "
                    f"{accepted}",
                    field="calibration",
                    file=str(path),
                )
            if others:
                where = ", ".join(f"{pool.name} ({pool.gpu.id})" for pool in others)
                notes.append(
                    f"calibration {path.name} was measured on {table.header.gpu}; it does not apply to {where}"
                )
        return tuple(notes)


NOT_CALIBRATED = Calibration()
