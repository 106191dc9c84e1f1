"""`cleave validate`."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planner.cli.codes import ExitCode
from planner.cli.options import json_option
from planner.cli.output import check_target, show, write_file, write_json
from specs.errors import SpecError

if TYPE_CHECKING:
    from planner.accuracy.score import Report

SHARED = Path("shared/data/measured_serving.csv.gz")
"""Points beside the checkout, for its developers."""
CHECKOUT = Path(__file__).resolve().parents[2]
ALL = "all"


@click.command(name="validate", short_help="Score the predictions against measured points.")
@click.option("--points", type=click.Path(path_type=Path), help="CSV file of measured points, or one with .gz.")
@click.option(
    "--half",
    type=click.Choice(["fitted", "scored", ALL]),
    default=ALL,
    show_default=True,
    help="Score only the half that parameters were fitted on, or only the other.",
)
@json_option
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw predicted against measured to this file: .svg or .png."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write accuracy.json and points.csv into this folder.")
def command(points: Path | None, half: str, as_json: bool, plot: Path | None, out: Path | None) -> int:
    """Predict every measured point and print how far the predictions are off.

    Errors are predicted / measured - 1: medians over all points, and over each slice (GPU, engine, model, mode).

    Exit codes: 0 done, 4 not one point could be predicted.
    """
    from planner.plot.accuracy import accuracy_figure, check_format

    if plot is not None:
        check_target(plot, "--plot")
        check_format(plot)
    if out is not None and out.exists() and not out.is_dir():
        raise SpecError("is a file; accepted: a folder", field="--out", file=str(out))
    from planner.accuracy.halves import Half, in_half
    from planner.accuracy.points import read
    from planner.accuracy.score import score

    path = points if points is not None else _shared()
    corpus = read(path)
    # Imported here, so that bad input is answered before the cost model is loaded.
    from planner.accuracy.estimate import CostModel

    if half == ALL:
        report = score(corpus.points, CostModel(), corpus.refused)
    else:
        report = score(in_half(corpus.points, Half(half)), CostModel())
    document = json.dumps(report.to_dict(), indent=2)
    if out is not None:
        _write(out, document, report)
    if plot is not None:
        what = f"{path.name}, {half} points" if half == ALL else f"{path.name}, {half} half"
        write_file(plot, accuracy_figure(report, what, plot.suffix), "--plot")
    if as_json:
        write_json(document)
    else:
        from planner.view.accuracy_view import accuracy_view

        show(accuracy_view(report))
    return ExitCode.DONE if report.priced else ExitCode.CHECK_FAILED


def _shared() -> Path:
    """The shared file beside the working directory or the checkout.

    Raises:
        SpecError: it is at neither place.

    """
    for folder in (Path(), CHECKOUT):
        for path in (folder / ".." / SHARED, folder / SHARED):
            if path.is_file():
                return path
    from planner.accuracy.points import REQUIRED

    raise SpecError(
        f"is required: a CSV file with one measured point in each row and the columns {', '.join(REQUIRED)}",
        field="--points",
    )


def _write(folder: Path, document: str, report: "Report") -> None:
    """Write the report, and every predicted point beside its measurement."""
    from planner.accuracy.score import Metric

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cannot be made: {error.strerror}", field="--out", file=str(folder)) from error
    write_file(folder / "accuracy.json", document.encode() + b"\n", "--out")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{kind}_{metric.value}" for metric in Metric for kind in ("predicted", "measured")]
    writer.writerow(["line", "gpu", "engine", "model", "mode", "layout", "precision", "concurrency", *names])
    for entry in report.priced:
        point = entry.point
        values = [
            "" if pair is None else f"{pair[side]:.6g}"
            for pair in (entry.pair(metric) for metric in Metric)
            for side in (0, 1)
        ]
        writer.writerow([point.line, *point.slice, point.layout, point.precision.value, point.concurrency, *values])
    write_file(folder / "points.csv", text.getvalue().encode(), "--out")
