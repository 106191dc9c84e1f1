"""`cleave check`."""

from pathlib import Path

import click

from planner.cli.codes import ExitCode
from planner.cli.options import json_option
from planner.cli.output import show, write_json


@click.command(name="check", short_help="Count again what launch files ask for.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--plan", "plan_file", metavar="PLAN", help="The plan that the files must launch (JSON or YAML).")
@click.option("--cluster", "cluster_file", metavar="SCENARIO", help="A scenario whose cluster the files must fit.")
@click.option(
    "--crds",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Schemas of Kubernetes kinds: JSON or YAML files of CustomResourceDefinitions.",
)
@json_option
def command(folder: Path, plan_file: str | None, cluster_file: str | None, crds: Path | None, as_json: bool) -> int:
    """Read the launch files in DIR alone, and check what they ask for: GPUs, shards, memory, ports and flags.

    Exit codes: 0 nothing is wrong, 4 something is (every violation is listed).
    """
    from specs.load import errors_in, load_plan, load_scenario

    plan = load_plan(plan_file) if plan_file is not None else None
    scenario = load_scenario(cluster_file) if cluster_file is not None else None
    # Imported here, so that bad input is answered before the readers are loaded.
    from contextlib import nullcontext

    from planner.check.check import check

    with errors_in(plan_file) if plan_file is not None else nullcontext():
        report = check(folder, plan=plan, scenario=scenario, crds=crds)
    if as_json:
        write_json(report.to_json())
    else:
        from planner.view.check_view import check_view

        show(check_view(report))
    return ExitCode.DONE if report.ok else ExitCode.CHECK_FAILED
