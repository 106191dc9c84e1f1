"""`cleave predict`."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from planner.cli.codes import ExitCode
from planner.cli.options import calibration_option, json_option
from planner.cli.output import show, warn, write_json
from specs.errors import SpecError
from specs.quantities import MAX_COUNT, MAX_TOKENS
from specs.service import Engine, Mode, Statistic

COUNT = click.IntRange(1, MAX_COUNT)
TOKENS = click.IntRange(1, MAX_TOKENS)


@click.command(name="predict", short_help="Say what one configuration reaches, without any search.")
@click.argument("file", required=False)
@json_option
@calibration_option
@click.option("--model", metavar="NAME", help="Model of the catalogue, or the path of a config.json.")
@click.option("--gpu", metavar="NAME", help="GPU of the catalogue.")
@click.option("--engine", type=click.Choice([engine.value for engine in Engine]))
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]))
@click.option("--precision", metavar="NAME", help="Precision of weights and GEMMs: bf16, fp8, fp4, ...")
@click.option("--kv-cache-dtype", metavar="NAME", help="Precision of the KV cache.")
@click.option("--tp", type=COUNT, help="Tensor-parallel ranks of attention.")
@click.option("--dp", type=COUNT, help="Attention data-parallel ranks inside a replica.")
@click.option("--ep", type=COUNT, help="Expert-parallel ranks.")
@click.option("--moe-tp", type=COUNT, help="Tensor-parallel ranks of one expert.")
@click.option("--pp", type=COUNT, help="Pipeline stages.")
@click.option("--replicas", type=COUNT)
@click.option("--batch", type=COUNT, help="Most requests in flight per replica.")
@click.option("--chunk-tokens", type=COUNT, help="Most new tokens per step and replica.")
@click.option("--input", "input_tokens", type=TOKENS, help="New tokens of a request.")
@click.option("--output", "output_tokens", type=TOKENS, help="Output tokens of a request.")
@click.option("--prefix", "prefix_tokens", type=click.IntRange(0, MAX_TOKENS), help="Tokens read from the cache.")
@click.option("--concurrency", type=COUNT, help="Requests that clients keep in the system (closed loop).")
@click.option("--requests", type=COUNT, help="Simulate a benchmark of so many requests (closed loop).")
@click.option("--rate", type=click.FloatRange(0.0, min_open=True), help="Requests/s that arrive at random (Poisson).")
@click.option("--statistic", type=click.Choice([statistic.value for statistic in Statistic]))
def command(
    file: str | None,
    as_json: bool,
    calibration: tuple[Path, ...],
    input_tokens: int | None,
    output_tokens: int | None,
    prefix_tokens: int | None,
    concurrency: int | None,
    requests: int | None,
    rate: float | None,
    mode: str | None,
    **given: Any,
) -> int:
    """Say what one configuration reaches: TTFT, TPOT, tokens/s, memory, and where the time of a step goes.

    The configuration comes from FILE (YAML or JSON, or - for standard input), from the options, or from both: options
    take the place of what the file says. Degrees, batch and chunk are those of the worker of mode aggregated; the
    servers of the other modes are written in a file.

    Exit codes: 0 predicted, 3 it cannot run so (the output says why).
    """
    if concurrency is not None and rate is not None:
        raise click.UsageError("--concurrency (closed loop) and --rate (Poisson) exclude each other")
    changes = {name: given.pop(name) for name in ("model", "gpu", "engine", "precision", "kv_cache_dtype", "statistic")}
    lengths = {"input_tokens": input_tokens, "output_tokens": output_tokens, "prefix_tokens": prefix_tokens}
    workload: dict[str, Any] = _present(lengths)
    if concurrency is not None:
        workload["arrival"] = {"process": "closed_loop", "cv": None, "concurrency": concurrency}
    elif rate is not None:
        workload["arrival"] = {"process": "poisson", "cv": None, "concurrency": None}
    changes = {**_present(changes), **_present({"mode": mode, "workload": workload or None})}
    if concurrency is not None or rate is not None:
        changes["request_rate_rps"] = rate
    changes |= _present({"requests": requests})
    worker = _present(given)
    if worker or (file is None and mode in (None, Mode.AGGREGATED.value)):
        changes["worker"] = worker
    from specs.load import errors_in, load_configuration

    if file is None:
        _require({"--model": "model" in changes, "--gpu": "gpu" in changes, "--input": input_tokens is not None})
        _require({"--output": output_tokens is not None, "--concurrency or --rate": bool(workload.get("arrival"))})
        _refuse_other_modes(mode)
    configuration = load_configuration(file, changes)
    # Imported here, so that bad input is answered before arrays are loaded.
    from planner.prediction import predict
    from planner.view.predict_view import predict_view

    with errors_in(file) if file is not None else nullcontext():
        prediction = predict(configuration, calibration=calibration)
    warn(prediction.provenance.notes)
    if as_json:
        write_json(prediction.to_json())
    else:
        show(predict_view(prediction, configuration))
    return ExitCode.DONE if prediction.feasible else ExitCode.INFEASIBLE


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _require(options: dict[str, bool]) -> None:
    missing = [name for name, there in options.items() if not there]
    if missing:
        raise click.UsageError(f"{', '.join(missing)} is required where there is no FILE")


def _refuse_other_modes(mode: str | None) -> None:
    if mode not in (None, Mode.AGGREGATED.value):
        raise SpecError(f"{mode} needs a FILE that describes its servers", field="--mode")
