"""`cleave render`."""

from pathlib import Path

import click

from planner.cli.codes import ExitCode
from planner.cli.options import json_option
from planner.cli.output import write, write_json
from planner.render.target import Target


@click.command(name="render", short_help="Write the files that launch a plan.")
@click.argument("plan")
@click.option(
    "--to",
    "target",
    type=click.Choice([target.value for target in Target]),
    required=True,
    help="What the files are for.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder to write: new, or empty.",
)
@click.option("--engine-version", metavar="VERSION", help="Use the flags of this version of the engine.")
@click.option("--force", is_flag=True, help="Replace the files of an earlier rendering.")
@json_option
def command(plan: str, target: str, out: Path, engine_version: str | None, force: bool, as_json: bool) -> int:
    """Write the files that launch the plan in PLAN (JSON or YAML, or - for standard input).

    The folder is written whole or not at all. `cleave check DIR --plan PLAN` counts its GPUs again.
    """
    from planner.render.folder import check_folder, write_folder

    check_folder(out, force=force)
    from specs.load import errors_in, load_plan

    found = load_plan(plan)
    from planner.render import render

    with errors_in(plan):
        files = render(found, Target(target), engine_version=engine_version)
    write_folder(out, files, force=force)
    if as_json:
        import json

        write_json(json.dumps({"target": target, "folder": str(out), "files": sorted(files)}, indent=2))
    else:
        write(f"{len(files)} files for {target} in {out}\n" + "".join(f"  {name}\n" for name in sorted(files)))
    return ExitCode.DONE
