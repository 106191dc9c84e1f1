"""`cleave calibrate`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planner.cli.codes import ExitCode
from planner.cli.options import json_option, positive_number
from planner.cli.output import check_target, show, write_json

if TYPE_CHECKING:
    from planner.calibrate.backend import Backend
    from planner.calibrate.work import WorkItem, WorkList

LARGEST_DEGREE = 1024

ASSUMED_GPU = "h100-sxm-80gb"
"""GPU that a dry run assumes where none is named and none is there."""

CPU_MOST_MS = 0.004
"""With the CPU backend only points are measured that the assumed GPU would compute this fast."""


def _degrees(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read degrees such as 1,2,4."""
    if value is None:
        return None
    parts = value.split(",")
    degrees = [int(part) if part.strip().isdecimal() and len(part) < 10 else 0 for part in parts]
    if not all(1 <= degree <= LARGEST_DEGREE for degree in degrees):
        raise click.BadParameter(
            f"must be whole numbers from 1 to {LARGEST_DEGREE} with commas between, such as 1,2,4,8; "
            f"got {value[:100]!r}",
            context,
            parameter,
        )
    return tuple(dict.fromkeys(degrees))


@click.command(name="calibrate", short_help="Measure the kernels that a model needs on this machine's GPU.")
@click.option("--model", required=True, metavar="ID", help="Model id in the catalogue, or a path to a config.json.")
@click.option("--gpu", default="auto", show_default=True, metavar="ID", help="GPU type that must be here.")
@click.option(
    "--tp", callback=_degrees, default="1,2,4,8", show_default=True, metavar="N,...", help="Tensor-parallel degrees."
)
@click.option("--ep", callback=_degrees, metavar="N,...", help="Expert-parallel degrees.  [default: those of --tp]")
@click.option(
    "--precision",
    type=click.Choice(["bf16", "fp8", "fp4", "int8", "int4"]),
    help="Of weights and products.  [default: the model's own]",
)
@click.option(
    "--kv-cache-dtype", type=click.Choice(["bf16", "fp8"]), default="bf16", show_default=True, help="Of the KV cache."
)
@click.option("--out", type=click.Path(path_type=Path), help="The table to write.  [default: calibration-GPU.jsonl]")
@click.option("--dry-run", is_flag=True, help="List what would be measured and how long it takes; needs no GPU.")
@click.option(
    "--minutes",
    type=positive_number("minutes"),
    metavar="N",
    help="Stop after this long; the same command goes on from there.",
)
@click.option("--backend", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@json_option
def command(
    model: str,
    gpu: str,
    tp: tuple[int, ...],
    ep: tuple[int, ...] | None,
    precision: str | None,
    kv_cache_dtype: str,
    out: Path | None,
    dry_run: bool,
    minutes: float | None,
    backend: str,
    as_json: bool,
) -> int:
    """Measure the kernels that a model needs on this machine's GPU, into a table that planning then prefers.

    Needs PyTorch. Rows are kept as they come, so an interrupted run goes on where it stopped. With --dry-run --json the
    work list is printed, which `python -m planner.calibrate.run WORK OUT` measures on a machine that has only PyTorch.

    Exit codes: 0 the table is written, 5 the time was up before (run the same command again).
    """
    if out is not None:
        check_target(out, "--out")
    from specs import catalog
    from specs.errors import SpecError

    architecture = catalog.model(model)
    device: Backend | None = None
    named = None if gpu == "auto" else catalog.gpu(gpu)
    if not dry_run:
        from planner.calibrate.run import backend_of

        device = backend_of(backend)
    found = _found(device, backend) if named is None else named.id
    from planner.calibrate.needs import needs
    from specs.model import Precision

    work = needs(
        model,
        catalog.gpu(found or ASSUMED_GPU),
        tp=tp,
        ep=ep or tp,
        precision=Precision(precision) if precision else architecture.native_precision,
        kv_dtype=Precision(kv_cache_dtype),
        most_ms=CPU_MOST_MS if backend == "cpu" else float("inf"),
    )
    if found is None:  # whichever GPU it is carried to
        from dataclasses import replace

        work = replace(work, gpu=None)
    if not work.items:
        raise SpecError("nothing of this model can be measured here: " + "; ".join(work.left_out), field="--model")
    if dry_run:
        if as_json:
            write_json(work.to_json())
        else:
            from planner.view.calibrate_view import work_view

            show(work_view(work, assumed=ASSUMED_GPU if found is None else None))
        return ExitCode.DONE
    assert device is not None
    return _measure(work, device, out, minutes, as_json=as_json)


def _found(device: "Backend | None", backend: str) -> str | None:
    """Catalogue id of the GPU that is here; None where there is none, or it is the CPU that measures."""
    from planner.calibrate.device import identify
    from specs.errors import SpecError

    if backend == "cpu":
        return None
    if device is None:
        from planner.calibrate.run import backend_of

        try:
            device = backend_of(backend)
        except SpecError:
            return None
    here = device.device()
    return identify(here.name, here.memory_bytes)


def _measure(work: "WorkList", device: "Backend", out: Path | None, minutes: float | None, *, as_json: bool) -> int:
    from dataclasses import asdict

    from planner.calibrate.run import execute, header_of, partial_path

    target = out or Path(f"calibration-{header_of(work, device).gpu}.jsonl")

    def progress(item: "WorkItem", done: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"{done:5d} of {work.points}  {item}\n")

    outcome = execute(work, target, device, minutes=minutes, progress=progress)
    if as_json:
        document = {
            "out": str(target if outcome.complete else partial_path(target)),
            "header": asdict(outcome.header),
            "measured": outcome.measured,
            "kept": outcome.kept,
            "complete": outcome.complete,
            "left_out": [asdict(part) for part in outcome.left_out],
        }
        write_json(json.dumps(document, indent=2))
    else:
        from planner.view.calibrate_view import outcome_view

        show(outcome_view(outcome, target, work))
    return ExitCode.DONE if outcome.complete else ExitCode.NO_INCUMBENT
