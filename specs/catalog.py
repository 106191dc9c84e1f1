"""The catalogue: GPUs, models and workloads by name.

Every GPU and every model is one JSON file in `specs/data`; `index.json` there maps each lower-case id and alias to its
file, so that one look-up parses the index and one file. `python -m specs.catalog` prints `docs/catalog.md`;
`python -m specs.catalog index` prints `index.json` as it must read after a file was added.
"""

import difflib
import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from specs.counts import active_params, total_params
from specs.errors import SpecError
from specs.hardware import GpuSpec
from specs.huggingface import from_config
from specs.model import ModelSpec, MoeFfn, Precision

DATA = Path(__file__).parent / "data"

_ACTIVE_COUNTS = {
    "all": "all parameters",
    "no_input_embedding": "without the input embedding",
    "no_embedding": "without embedding and head",
}


def _read(path: Path) -> Any:
    """Parse the JSON in a file; raise `SpecError` with file and line where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SpecError(f"is not JSON: {error.msg}", file=str(path), line=error.lineno) from None
    except UnicodeDecodeError:
        raise SpecError("is not JSON: not UTF-8 text", file=str(path)) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets nested as deep
        raise SpecError(f"is not JSON that can be read: {error}", file=str(path)) from None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", file=str(path)) from None


@cache
def _index() -> dict[str, dict[str, str]]:
    index: dict[str, dict[str, str]] = _read(DATA / "index.json")
    return index


def _unknown(kind: str, name: str, known: Iterable[str], also: str = "") -> SpecError:
    """Make the error for a name that is not in the catalogue."""
    near = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.0)
    return SpecError(
        f"unknown {kind} {name!r}; nearest are {', '.join(near)}{also}; `cleave catalog` lists all", field=kind
    )


@cache
def _gpu(stem: str) -> GpuSpec:
    return GpuSpec.model_validate(_read(DATA / "gpus" / f"{stem}.json"))


@cache
def _model(stem: str) -> ModelSpec:
    return ModelSpec.model_validate(_read(DATA / "models" / f"{stem}.json"))


def gpu(name: str) -> GpuSpec:
    """Look up the GPU with this id or alias, case ignored.

    Raises:
        SpecError: there is none; the message gives the three nearest names.

    """
    stem = _index()["gpus"].get(name.strip().lower())
    if stem is None:
        raise _unknown("gpu", name, _index()["gpus"])
    return _gpu(stem)


def model(name_or_path: str, *, files: bool = True) -> ModelSpec:
    """Look up the model with this id or alias (case ignored), or read the one that a `config.json` describes.

    Args:
        name_or_path: a name in the catalogue, a path to a `config.json`, or a folder that holds one. A name in the
            catalogue wins over a folder of that name; write `./name` for the folder.
        files: whether files are read at all; a server reads none that its clients name.

    Raises:
        SpecError: there is no such model or file (the message gives the three nearest names), or the file cannot be
            read as a supported architecture.

    """
    stem = _index()["models"].get(name_or_path.strip().lower())
    if stem is not None:
        return _model(stem)
    if not files:
        raise _unknown("model", name_or_path, _index()["models"])
    path = Path(name_or_path)
    try:
        path = path.expanduser()
        if path.is_dir():
            path /= "config.json"
        is_file = path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long a name, a null byte, or the home of an unknown user
        is_file = False
    if is_file:
        return _from_file(path)
    looks_like_path = path.suffix == ".json" or name_or_path.startswith((".", "/", "~"))
    if looks_like_path:
        raise SpecError(
            "no such file; a model is an id in the catalogue (`cleave catalog` lists all), a config.json or a folder "
            "that holds one",
            field="model",
            file=str(path),
        )
    raise _unknown("model", name_or_path, _index()["models"], ", and no config.json is at that path")


def _from_file(path: Path) -> ModelSpec:
    """Read the model that a `config.json` describes; its id is the name of the folder."""
    spec = from_config(_read(path), str(path))
    return spec.model_copy(update={"id": path.resolve().parent.name})


def workload(name: str) -> dict[str, int]:
    """Look up a workload, case ignored: `prefix_tokens` read from cache, new `input_tokens`, `output_tokens`.

    Raises:
        SpecError: there is none; the message gives the three nearest names.

    """
    found = _workloads().get(name.strip().lower())
    if found is None:
        raise _unknown("workload", name, _workloads())
    return dict(found)


@cache
def _workloads() -> Mapping[str, Mapping[str, int]]:
    workloads: Mapping[str, Mapping[str, int]] = _read(DATA / "workloads.json")
    return workloads


def gpu_ids() -> tuple[str, ...]:
    """List the ids of all GPUs, sorted."""
    return tuple(sorted(set(_index()["gpus"].values())))


def model_ids() -> tuple[str, ...]:
    """List the Hugging Face ids of all models, in the order of their file names; parses every file."""
    return tuple(_model(stem).id for stem in sorted(set(_index()["models"].values())))


def workload_ids() -> tuple[str, ...]:
    """List the names of all workloads."""
    return tuple(_workloads())


def build_index() -> dict[str, dict[str, str]]:
    """Recompute the index from the files: kind -> lower-case id or alias -> file stem.

    Raises:
        SpecError: two files claim one name.

    """
    index: dict[str, dict[str, str]] = {}
    for kind in ("gpus", "models"):
        names: dict[str, str] = {}
        for path in sorted((DATA / kind).glob("*.json")):
            entry = _read(path)
            for name in (entry["id"], *entry.get("aliases", ())):
                if names.setdefault(name.lower(), path.stem) != path.stem:
                    raise SpecError(f"{name!r} is also a name of {names[name.lower()]}", file=str(path))
        index[kind] = dict(sorted(names.items()))
    return index


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _number(value: float) -> str:
    return f"{value:,.10g}"


def _gpu_row(spec: GpuSpec) -> tuple[str, ...]:
    rates = (
        _number(spec.dense_tflops[precision]) if precision in spec.dense_tflops else "-"
        for precision in (Precision.BF16, Precision.FP8, Precision.FP4, Precision.INT8)
    )
    return (
        f"`{spec.id}`",
        f"{spec.memory_bytes / 2**30:.1f}",
        _number(spec.memory_gbyte_per_s),
        *rates,
        f"{spec.scale_up.value} {_number(spec.scale_up_gbyte_per_s)} x {spec.scale_up_domain}",
        _number(spec.scale_out_gbit_per_s),
        str(spec.gpus_per_node),
        _number(spec.power_w),
        f"{spec.cost_per_gpu_hour:.2f}",
    )


def _model_row(spec: ModelSpec) -> tuple[str, ...]:
    kinds = " + ".join(dict.fromkeys(group.attention.kind for group in spec.layers if group.attention is not None))
    experts = next((group.ffn for group in spec.layers if isinstance(group.ffn, MoeFfn)), None)
    return (
        f"`{spec.id}`",
        str(spec.layer_count),
        kinds,
        f"{experts.experts_per_token} of {experts.experts}" if experts else "-",
        spec.native_precision.value,
        f"{total_params(spec) / 1e9:.2f}",
        _number(spec.published_total_params_billion or 0),
        f"{active_params(spec) / 1e9:.2f}",
        _number(spec.published_active_params_billion or 0),
        _ACTIVE_COUNTS[spec.published_active_counts],
    )


def markdown() -> str:
    """Write the page `docs/catalog.md`: tables of GPUs, models and workloads, and the sources of every figure."""
    gpus = [gpu(name) for name in gpu_ids()]
    models = [model(name) for name in model_ids()]
    lines = [
        "# Catalogue",
        "",
        "Printed by `python -m specs.catalog`; edit the files in `specs/data`, not this page.",
        "",
        "## GPUs",
        "",
        "Bandwidths are per GPU and per direction. TFLOP/s are dense; `-` is no hardware support: such weights are",
        "unpacked and multiplied at the BF16 rate. Scale-up reads kind, GB/s x GPUs in the domain.",
        "",
        *_table(
            ("id", "GiB", "GB/s", "BF16", "FP8", "FP4", "INT8", "scale-up", "Gbit/s out", "per node", "W", "USD/h"),
            [_gpu_row(spec) for spec in gpus],
        ),
        "",
        "## Models",
        "",
        "Parameters in billions, recomputed from the architecture and as published. Vision towers and multi-token",
        "prediction modules are left out; norms and biases are not counted. The last column says what the published",
        "activated count includes.",
        "",
        *_table(
            ("id", "layers", "attention", "experts", "weights", "total", "published", "active", "published", "counts"),
            [_model_row(spec) for spec in models],
        ),
        "",
        "## Workloads",
        "",
        *_table(
            ("name", "prefix tokens", "input tokens", "output tokens"),
            [
                (
                    f"`{name}`",
                    *(_number(workload(name)[key]) for key in ("prefix_tokens", "input_tokens", "output_tokens")),
                )
                for name in workload_ids()
            ],
        ),
        "",
        "## Sources",
    ]
    for spec in gpus:
        aliases = ", ".join(f"`{alias}`" for alias in spec.aliases)
        lines += ["", f"### {spec.name}", "", f"`{spec.id}`, also {aliases}.", ""]
        lines += [f"- `{field}`: {source}" for field, source in spec.sources.items()]
    for entry in models:
        aliases = ", ".join(f"`{alias}`" for alias in entry.aliases)
        lines += ["", f"### {entry.id}", "", f"Also {aliases}. {entry.source[0].upper()}{entry.source[1:]}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(build_index(), indent=2) + "\n" if sys.argv[1:] == ["index"] else markdown())
