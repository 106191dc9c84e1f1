"""`cleave catalog`."""

import difflib
import json
from typing import TYPE_CHECKING

import click

from planner.cli.codes import ExitCode
from planner.cli.options import json_option
from planner.cli.output import show, write_json
from specs.errors import SpecError

if TYPE_CHECKING:
    from specs.hardware import GpuSpec
    from specs.model import ModelSpec

KINDS = ("gpus", "models", "workloads")


@click.command(name="catalog", short_help="Show the GPUs, models and workloads known by name.")
@click.argument("what", required=False, metavar="[gpus|models|workloads|NAME]")
@json_option
def command(what: str | None, as_json: bool) -> int:
    """Show the tables of the catalogue, or one entry with the sources of its figures.

    NAME is the id or an alias of a GPU, a model or a workload, or the path of a model's config.json.
    """
    from specs import catalog

    if what is None or what in KINDS:
        kinds = KINDS if what is None else (what,)
        if as_json:
            names = {"gpus": catalog.gpu_ids, "models": catalog.model_ids, "workloads": catalog.workload_ids}
            write_json(json.dumps({kind: names[kind]() for kind in kinds}, indent=2))
        else:
            from planner.view.catalog_view import tables_view

            show(tables_view(kinds))
        return ExitCode.DONE
    entry = _entry(what)
    if as_json:
        write_json(json.dumps(entry, indent=2) if isinstance(entry, dict) else entry.model_dump_json(indent=2))
    else:
        from planner.view.catalog_view import entry_view

        show(entry_view(what, entry))
    return ExitCode.DONE


def _entry(name: str) -> "GpuSpec | ModelSpec | dict[str, int]":
    """Look a name up among GPUs, workloads and models, in this order.

    Raises:
        SpecError: there is none; the message gives the nearest names of all three.

    """
    from specs import catalog

    for kind in (catalog.gpu, catalog.workload):
        try:
            return kind(name)
        except SpecError:
            continue
    try:
        return catalog.model(name)
    except SpecError as error:
        if error.file is not None:  # a file was meant, and the error says what is wrong with it
            raise
        index = catalog.build_index()
        known = [*index["gpus"], *index["models"], *catalog.workload_ids()]
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.0)
        raise SpecError(
            f"no GPU, model or workload {name!r}; nearest are {', '.join(near)}; accepted: {', '.join(KINDS)}, or a "
            "name that these list"
        ) from None
