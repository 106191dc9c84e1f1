"""Execute a work list: `python -m planner.calibrate.run WORK OUT [--backend cuda|cpu] [--minutes N]`.

Needs the standard library, NumPy and PyTorch only. Measured rows are appended to `OUT.partial` as they come; a run that
was interrupted goes on after them. When all is measured the table appears at OUT by a rename. Where OUT already holds
a table of the same machine, its rows are kept, and only what it lacks is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from planner.calibrate.backend import Backend
from planner.calibrate.cpu_backend import CpuBackend
from planner.calibrate.cuda_backend import CudaBackend
from planner.calibrate.device import CPU, identify
from planner.calibrate.harness import Deadline, LeftOut, measure_item
from planner.calibrate.table import Curve, Header, Row, Table, falling, header_line, read, read_partial, write
from planner.calibrate.work import WorkItem, WorkList, read_work
from specs.errors import SpecError


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Args:
        header: what it measured on.
        measured: points measured in this run.
        kept: points that had been measured before.
        left_out: what could not be measured.
        complete: whether the table was written; otherwise the time was up.
    """

    header: Header
    measured: int
    kept: int
    left_out: tuple[LeftOut, ...]
    complete: bool


def backend_of(name: str) -> Backend:
    """The backend of this name.

    Raises:
        SpecError: PyTorch or a GPU is missing.
    """
    return CpuBackend() if name == CPU else CudaBackend()


def header_of(work: WorkList, backend: Backend) -> Header:
    """What the table will say of the machine.

    Raises:
        SpecError: the device is not the one that the work list expects, or none of the catalogue.
    """
    device = backend.device()
    found = CPU if backend.name == CPU else identify(device.name, device.memory_bytes)
    if backend.name != CPU and work.gpu is not None and work.gpu != found:
        raise SpecError(f"this machine has {device.name!r}, which is {found}, not {work.gpu}", field="--gpu")
    today = date.today().isoformat()
    return Header(found, device.name or "unknown", backend.name, device.driver, device.library, today, (work.model,))


def partial_path(out: Path) -> Path:
    """Where the rows of an unfinished run are."""
    return out.with_name(out.name + ".partial")


def execute(
    work: WorkList,
    out: Path,
    backend: Backend,
    *,
    minutes: float | None = None,
    progress: Callable[[WorkItem, int], None] | None = None,
) -> Outcome:
    """Measure a work list into a table.

    Args:
        work: what to measure.
        out: the table.
        backend: the device.
        minutes: stop after this long and leave the partial file for the next run.
        progress: told of every curve before it is measured, with the points done so far.

    Raises:
        SpecError: the device is not the expected one, an earlier file is broken or of another machine, or a file
            cannot be written.
    """
    header = header_of(work, backend)
    partial = partial_path(out)
    found = [(file, reader(file)) for file, reader in ((out, read), (partial, read_partial)) if file.exists()]
    for file, table in found:
        if not table.header.same_machine(header):
            raise SpecError(
                f"was measured on {table.header}; this is {header}; name another file or delete it", file=str(file)
            )
    rows = {row.point: row for _, table in found for row in table.rows}
    models = dict.fromkeys([model for _, table in found for model in table.header.models] + [work.model])
    header = replace(header, models=tuple(models))
    kept = sum((item.curve, value) in rows for item in work.items for value in item.values)
    left_out: list[LeftOut] = []
    deadline = Deadline(minutes)
    measured, complete = 0, True
    try:
        # Written anew and renamed, so that a line broken off by a kill is gone and no row is lost.
        fresh = partial.with_name(partial.name + ".tmp")
        lines = [header_line(header), *(row.to_line() + "\n" for row in rows.values())]
        fresh.write_text("".join(lines), encoding="utf-8")
        fresh.replace(partial)
        with partial.open("a", encoding="utf-8") as stream:

            def measure(item: WorkItem) -> bool:
                nonlocal measured
                for row in measure_item(backend, item, set(rows), left_out.append):
                    rows[row.point] = row
                    stream.write(row.to_line() + "\n")
                    stream.flush()
                    measured += 1
                    if deadline.passed:
                        return False
                return True

            for item in work.items:
                if progress is not None:
                    progress(item, kept + measured)
                if deadline.passed or not measure(item):
                    complete = False
                    break
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror}", file=str(partial)) from error
    if complete:
        steady, refused = _without_falls(work, rows, backend)
        write(out, Table(header, tuple(steady)))
        partial.unlink(missing_ok=True)
        left_out += refused
    return Outcome(header, measured, kept, tuple(left_out), complete)


def _without_falls(
    work: WorkList, rows: dict[tuple[Curve, int], Row], backend: Backend
) -> tuple[list[Row], list[LeftOut]]:
    """Rows of a table that `read` accepts: points far above a later one are measured again, and left out if they stay.

    Such points are accidents of the clock, or of a kernel library that picks a very bad kernel at one size.
    """
    items = {item.curve: item for item in work.items}
    for curve, value in falling(rows.values()):
        if curve in items:
            again = replace(items[curve], values=(value,))
            for row in measure_item(backend, again, set(), lambda _: None):
                rows[row.point] = min(row, rows[row.point], key=lambda row: row.time_ms)
    refused = falling(rows.values())
    notes = [
        LeftOut(f"{rows[point].operator} {dict(rows[point].keys)} at {point[1]}", "more than twice a larger point")
        for point in sorted(refused, key=str)
    ]
    return [row for point, row in rows.items() if point not in refused], notes


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module; returns an exit code as `cleave` does."""
    parser = argparse.ArgumentParser(prog="python -m planner.calibrate.run", description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="work list that `cleave calibrate --dry-run --json` printed")
    parser.add_argument("out", type=Path, help="table to write")
    parser.add_argument("--backend", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, help="stop after this long; run again to go on")
    given = parser.parse_args(arguments)
    try:
        outcome = execute(
            read_work(given.work),
            given.out,
            backend_of(given.backend),
            minutes=given.minutes,
            progress=lambda item, done: print(f"{done:5d} {item}", file=sys.stderr, flush=True),
        )
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    for what in outcome.left_out:
        print(f"left out: {what}")
    print(f"{outcome.header}: {outcome.measured} points measured, {outcome.kept} kept")
    return 0 if outcome.complete else 5


if __name__ == "__main__":
    sys.exit(main())
