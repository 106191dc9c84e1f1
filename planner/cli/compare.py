"""`cleave compare`."""

from pathlib import Path

import click

from planner.cli.codes import ExitCode
from planner.cli.options import calibration_option, gap_option, json_option, time_limit_option
from planner.cli.output import check_target, show, warn, write_file, write_json


@click.command(name="compare", short_help="Set the best plan of every serving mode side by side.")
@click.argument("file")
@json_option
@click.option("--out", type=click.Path(path_type=Path), help="Write the comparison as JSON to this file.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw the Pareto curves to this file: .svg, .png or .html."
)
@gap_option
@time_limit_option
@calibration_option
def command(
    file: str,
    as_json: bool,
    out: Path | None,
    plot: Path | None,
    gap: float,
    time_limit_s: float,
    calibration: tuple[Path, ...],
) -> int:
    """Compare the serving modes on the scenario in FILE (YAML or JSON, or - for standard input).

    Every mode gets its best plan alone; the one that loses or has none says why.

    Exit codes: 0 a mode has a plan, 3 none has, 5 none was found in time.
    """
    for path, option in ((out, "--out"), (plot, "--plot")):
        if path is not None:
            check_target(path, option)
    from planner.plot.pareto import check_format, pareto_figure
    from specs.load import errors_in, load_scenario
    from specs.plan import Status

    if plot is not None:
        check_format(plot)
    scenario = load_scenario(file)
    # Imported here, so that bad input is answered before the solver is loaded.
    from planner import api
    from planner.view.progress import progress

    with errors_in(file), progress(time_limit_s) as report:
        comparison = api.compare(scenario, gap=gap, time_limit_s=time_limit_s, calibration=calibration, progress=report)
    warn(dict.fromkeys(note for mode in comparison.modes if mode.plan for note in mode.plan.provenance.notes))
    if out is not None:
        write_file(out, comparison.to_json().encode() + b"\n", "--out")
    if plot is not None:
        write_file(plot, pareto_figure(comparison, scenario, plot.suffix), "--plot")
    if as_json:
        write_json(comparison.to_json())
    else:
        from planner.view.compare_view import compare_view

        show(compare_view(comparison, scenario))
    if comparison.best is not None:
        return ExitCode.DONE
    in_time = all(result.status is not Status.TIME_LIMIT for result in comparison.modes)
    return ExitCode.INFEASIBLE if in_time else ExitCode.NO_INCUMBENT
