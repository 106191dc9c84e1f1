"""`cleave plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from planner.cli.codes import code_of
from planner.cli.options import (
    MAX_ALTERNATIVES,
    calibration_option,
    formulation_option,
    gap_option,
    json_option,
    positive_whole,
    time_limit_option,
)
from planner.cli.output import check_target, show, warn, write_file, write_json

if TYPE_CHECKING:
    from specs.comparison import Alternatives
    from specs.plan import Plan
    from specs.scenario import Scenario


@click.command(name="plan", short_help="Find the best deployment, and prove how good it is.")
@click.argument("file")
@json_option
@click.option("--out", type=click.Path(path_type=Path), help="Write the plan as JSON to this file.")
@gap_option
@time_limit_option
@formulation_option
@calibration_option
@click.option(
    "--alternatives",
    "count",
    type=positive_whole("how many plans", MAX_ALTERNATIVES),
    metavar="N",
    help="Give the N best plans that differ in mode or layout, each with its distance to the best.",
)
@click.option("--explain/--no-explain", default=True, show_default=True, help="Say what binds and what would help.")
def command(
    file: str,
    as_json: bool,
    out: Path | None,
    gap: float,
    time_limit_s: float,
    formulation: Literal["columns", "piecewise"],
    calibration: tuple[Path, ...],
    count: int | None,
    explain: bool,
) -> int:
    """Find the best deployment for the scenario in FILE (YAML or JSON, or - for standard input).

    Exit codes: 0 a plan was found, 3 there is none (the output says why), 5 none was found in time.
    """
    if out is not None:
        check_target(out, "--out")
    if count is not None and formulation != "columns":
        raise click.UsageError(f"--alternatives needs --formulation columns, got {formulation}")
    from specs.load import errors_in, load_scenario

    scenario = load_scenario(file)
    # Imported here, so that bad input is answered before the solver is loaded.
    from planner import api
    from planner.view.progress import progress
    from specs.comparison import Alternatives

    found: Alternatives | None = None
    with errors_in(file), progress(time_limit_s) as report:
        if count is not None:
            plans = api.alternatives(
                scenario, count, gap=gap, time_limit_s=time_limit_s, calibration=calibration, progress=report
            )
            if plans and plans[0].services:
                found = Alternatives.of(tuple(plan for plan in plans if plan.services))
        if found is None:  # one plan was asked for, or there is none and `plan` says why
            plan = api.plan(
                scenario,
                gap=gap,
                time_limit_s=time_limit_s,
                formulation=formulation,
                explain=explain,
                calibration=calibration,
                progress=report,
            )
        else:
            plan = found.alternatives[0].plan
    warn(plan.provenance.notes)
    document = plan.to_json() if found is None else found.to_json()
    if out is not None:
        write_file(out, document.encode() + b"\n", "--out")
    if as_json:
        write_json(document)
    else:
        _show(scenario, plan, found)
    return code_of(plan.status)


def _show(scenario: "Scenario", plan: "Plan", found: "Alternatives | None") -> None:
    from rich.console import Group

    from planner.view.alternatives_view import alternatives_view
    from planner.view.plan_view import plan_view

    view = plan_view(plan, scenario)
    show(view if found is None else Group(view, alternatives_view(found)))
