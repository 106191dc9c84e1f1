"""Scores of predictions as tables."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.accuracy.score import NAMES, Errors, Metric, Report
from planner.view.figures import percent

SLICES = 20
"""Slices shown on a terminal; `--json` has all."""


def accuracy_view(report: Report) -> RenderableType:
    """Draw the scores: overall with the noise of repeats, the worst slices, and what was not predicted."""
    parts: list[RenderableType] = [_overall(report), Text(), _slices(report)]
    if len(report.slices) > SLICES:
        parts.append(Text(f"{len(report.slices) - SLICES} better slices are left out; --json has all.", style="dim"))
    if report.reasons:
        parts += [Text(), Text(f"Not predicted: {report.rows - len(report.priced)} of {report.rows} rows")]
        parts += [Text(f"  {count} x {reason}") for reason, count in report.reasons[:10]]
    return Group(*parts)


def signed(share: float) -> str:
    """Write a share with its sign, to a tenth of a percent."""
    return ("+" if share > 0 else "") + percent(round(share, 3))


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _overall(report: Report) -> Table:
    title = f"{len(report.priced)} of {report.rows} rows predicted ({percent(round(report.coverage, 4))})"
    table = _table(title, "", "median error", "bias", "p90", "points", "noise of repeats")
    for metric in Metric:
        errors, noise = report.overall.get(metric), report.noise.get(metric)
        spread = "-" if noise is None else f"{percent(round(noise.median, 3))} ({noise.groups} groups)"
        table.add_row(NAMES[metric], *_cells(errors), spread)
    return table


def _cells(errors: Errors | None) -> tuple[str, str, str, str]:
    if errors is None:
        return "-", "-", "-", "0"
    shares = percent(round(errors.median_abs_error, 3)), signed(errors.bias), percent(round(errors.p90, 3))
    return *shares, str(errors.n)


def _slices(report: Report) -> Table:
    table = _table("Slices, worst TPOT first (median error and bias)", "slice", "points", *NAMES.values())
    for part in report.slices[:SLICES]:
        cells = [
            f"{percent(round(errors.median_abs_error, 3))} {signed(errors.bias)}" if errors else "-"
            for errors in (part.errors.get(metric) for metric in Metric)
        ]
        name = f"{part.gpu.split('-')[0]} {part.engine} {part.model.rsplit('/', 1)[-1]} {part.mode}"
        table.add_row(name, str(part.points), *cells)
    return table
