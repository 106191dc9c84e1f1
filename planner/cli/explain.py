"""`cleave explain`."""

from pathlib import Path

import click

from planner.cli.codes import code_of
from planner.cli.options import calibration_option, gap_option, json_option, time_limit_option
from planner.cli.output import show, warn, write_json


@click.command(name="explain", short_help="Say why the plan is what it is, or what would make one possible.")
@click.argument("file")
@json_option
@gap_option
@time_limit_option
@calibration_option
def command(file: str, as_json: bool, gap: float, time_limit_s: float, calibration: tuple[Path, ...]) -> int:
    """Explain the scenario or the plan in FILE (YAML or JSON, or - for standard input).

    A scenario is planned first, and what one more GPU or millisecond is worth is found by solving again. A plan brings
    its explanation with it.

    Exit codes: those of the plan: 0 found, 3 infeasible, 5 none found in time.
    """
    from specs.load import errors_in, load
    from specs.scenario import Scenario

    given = load(file)
    scenario = given if isinstance(given, Scenario) else None
    if isinstance(given, Scenario):
        from planner import api
        from planner.view.progress import progress

        with errors_in(file), progress(time_limit_s) as report:
            plan = api.explain(given, gap=gap, time_limit_s=time_limit_s, calibration=calibration, progress=report)
        warn(plan.provenance.notes)
    elif calibration:
        raise click.UsageError("--calibration needs a scenario: a plan is not made again")
    else:
        plan = given
    if as_json:
        write_json(plan.to_json())
    else:
        from planner.view.explain_view import explain_view

        show(explain_view(plan, scenario))
    return code_of(plan.status)
