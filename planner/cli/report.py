"""`cleave report`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from planner.cli.codes import ExitCode
from planner.cli.options import time_limit_option
from planner.cli.output import check_target, warn, write, write_file

if TYPE_CHECKING:
    from specs.comparison import Comparison
    from specs.scenario import Scenario


@click.command(name="report", short_help="Write a plan as one page for people to read.")
@click.argument("plan")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.html", help="The page to write.")
@click.option("--compare/--no-compare", default=True, show_default=True, help="Plan the other serving modes as well.")
@time_limit_option
def command(plan: str, out: Path, compare: bool, time_limit_s: float) -> int:
    """Write the plan in PLAN (JSON or YAML, or - for standard input) as one page that needs nothing else.

    The page says what is deployed, what it costs, what limits it, how sure that is, and how the other serving modes
    compare; for these the scenario in the plan is planned once more.
    """
    check_target(out, "--out")
    from specs.load import errors_in, load_plan

    found = load_plan(plan)
    from planner.report import report_html

    with errors_in(plan):
        comparison = _comparison(found.scenario, time_limit_s) if compare and found.scenario else None
        page = report_html(found, comparison)
    write_file(out, page.encode(), "--out")
    write(f"{out}\n")
    return ExitCode.DONE


def _comparison(scenario: "Scenario", time_limit_s: float) -> "Comparison | None":
    """The modes side by side; None where no mode is allowed by every service."""
    from planner import api
    from planner.view.progress import progress
    from specs.errors import SpecError

    try:
        with progress(time_limit_s) as report:
            return api.compare(scenario, time_limit_s=time_limit_s, progress=report)
    except SpecError as error:
        warn([f"the modes are not compared: {error.message}"])
        return None
