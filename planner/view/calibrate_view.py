"""What `cleave calibrate` prints."""

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.calibrate.run import Outcome, partial_path
from planner.calibrate.table import FAMILIES
from planner.calibrate.work import WorkList

GRID = ("context", "new_tokens", "active_experts")
"""Keys of which every shape is measured at several values."""


def work_view(work: WorkList, assumed: str | None) -> RenderableType:
    """What would be measured, and how long it would take.

    Args:
        work: the work list.
        assumed: GPU type that the times are expected on, where none is known.
    """
    table = Table(box=None, pad_edge=False)
    for name in ("operator", "over", "curves", "points", "minutes"):
        table.add_column(name, justify="left" if name in ("operator", "over") else "right")
    for operator, family in FAMILIES.items():
        items = [item for item in work.items if item.operator == operator]
        if items:
            points = sum(len(item.values) for item in items)
            minutes = sum(item.expected_s for item in items) / 60.0
            table.add_row(operator, family.variable, str(len(items)), str(points), f"{minutes:.1f}")
    lines: list[RenderableType] = [table, Text()]
    lines += [Text(f"  {line}") for line in _shapes(work)]
    lines += _left_out(work.left_out)
    where = f"on {assumed}, assumed because no GPU is named or found" if assumed else f"on {work.gpu}"
    lines += [Text(), Text(f"{work.model}: {work.points} points, about {work.expected_s / 60.0:.1f} minutes {where}")]
    return Group(*lines)


def outcome_view(outcome: Outcome, out: Path, work: WorkList) -> RenderableType:
    """What was measured, and where it is."""
    lines = _left_out([*work.left_out, *map(str, outcome.left_out)])
    counts = f"{outcome.measured} points measured, {outcome.kept} kept from before, on {outcome.header.device}"
    if outcome.complete:
        lines.append(Text(f"{counts}: {out}"))
    else:
        lines.append(Text(f"{counts}; the time was up: the same command goes on from {partial_path(out)}"))
    return Group(*lines)


def _shapes(work: WorkList) -> list[str]:
    """The curves, those in one line that differ in the keys of `GRID` only."""
    spans: dict[str, dict[str, list[int]]] = {}
    for item in work.items:
        keys = dict(item.keys)
        shape = " ".join([item.operator, *(f"{name}={value}" for name, value in keys.items() if name not in GRID)])
        found = spans.setdefault(shape, {})
        for name in GRID:
            if name in keys:
                found.setdefault(name, []).append(int(keys[name]))
        found.setdefault(FAMILIES[item.operator].variable, []).extend(item.values)
    return [
        " ".join([shape, *(f"{name}={min(values)}..{max(values)}" for name, values in grid.items())])
        for shape, grid in spans.items()
    ]


def _left_out(reasons: list[str] | tuple[str, ...]) -> list[RenderableType]:
    return [Text(f"not measured: {reason}") for reason in reasons]
