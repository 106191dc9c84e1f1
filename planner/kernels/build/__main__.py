"""Distil the published measurements into the shipped tables: `python -m planner.kernels.build`.

Writes `<GPU of the catalogue>/<engine>.npz` and `index.json` with the origin of every table and the hash of every file.
The same measurements give the same bytes. Needs the extra `measured`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from planner.kernels.build.source import Source, SourceError
from planner.kernels.curves import CurveSet, save
from specs.catalog import DATA

FAMILIES = ("gemm", "softmax_attention", "latent_attention", "linear_attention", "experts", "collectives")
"""Modules of this package that make tables, each with `tables(source, system, framework)`."""

GPUS = {
    "a100_sxm": "a100-sxm-80gb",
    "b200_sxm": "b200-sxm-180gb",
    "b300_sxm": "b300-sxm-288gb",
    "gb200": "gb200-nvl72-186gb",
    "gb300": "gb300-nvl72-288gb",
    "h100_sxm": "h100-sxm-80gb",
    "h200_sxm": "h200-sxm-141gb",
    "l40s": "l40s-pcie-48gb",
    "rtx_pro_6000_server": "rtx-pro-6000-96gb",
}
"""Systems of the source and the catalogue's GPUs."""

ENGINES = ("sglang", "trtllm", "vllm")

INDEX = "index.json"

Family = Callable[[Source, str, str], list[CurveSet]]


def build(
    source: Source, out: Path, systems: Iterable[str], engines: Iterable[str], families: Iterable[Family]
) -> dict[str, Any]:
    """Write the files of systems and engines, and the index of all files in `out`.

    Files are finished in a temporary folder beside `out` and renamed into it, so that what is there is always whole.

    Args:
        source: the measurements.
        out: folder of the files; those of other systems and engines stay.
        systems: keys of `GPUS`.
        engines: of `ENGINES`.
        families: what makes the tables.

    Returns:
        The index: per file its SHA-256, its size in bytes and, per table, origin and counts.

    Raises:
        SourceError: the measurements cannot be used.
    """
    out.mkdir(parents=True, exist_ok=True)
    families = tuple(families)
    index = json.loads((out / INDEX).read_text(encoding="utf-8")) if (out / INDEX).exists() else {}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        fresh = Path(folder)
        for system in systems:
            for engine in engines:
                tables = [table for family in families for table in family(source, system, engine)]
                if not tables:
                    continue
                name = f"{GPUS[system]}/{engine}.npz"
                save(fresh / name, tables)
                index[name] = _entry(fresh / name, tables)
                _report(name, index[name])
        (fresh / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        for path in (*sorted(fresh.rglob("*.npz")), fresh / INDEX):
            target = out / path.relative_to(fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
    return index


def _entry(path: Path, tables: list[CurveSet]) -> dict[str, Any]:
    """What the index says of one file."""
    content = path.read_bytes()
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "tables": {
            table.name: {**asdict(table.origin), "curves": table.keys.shape[0], "knots": int(table.x.size)}
            for table in tables
        },
    }


def _report(name: str, entry: dict[str, Any]) -> None:
    """Print one file's tables."""
    print(f"{name}  {entry['bytes'] / 1e3:.0f} KB")
    for table, part in sorted(entry["tables"].items()):
        print(
            f"  {table:34} {part['framework']} {part['version']:12} {part['rows']:8} rows {part['curves']:6} curves "
            f"{part['knots']:7} knots  p95 {part['error_p95']:6.1%}  max {part['error_max']:6.1%}  "
            f"flagged {part['flagged']:6}  as read p95 {part['rising_p95']:6.1%}  "
            f"flagged {part['rising_flagged']:6}  {part['note']}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the build from the command line."""
    parser = argparse.ArgumentParser(prog="python -m planner.kernels.build", description=__doc__.splitlines()[0])
    parser.add_argument("--systems", type=Path, help="directory `systems` of the measurements; default: the installed")
    parser.add_argument("--out", type=Path, default=DATA / "kernels", help="folder of the files")
    parser.add_argument("--system", choices=sorted(GPUS), action="append", help="only this system (repeatable)")
    parser.add_argument("--framework", choices=ENGINES, action="append", help="only this engine (repeatable)")
    given = parser.parse_args(arguments)
    families = [import_module(f"planner.kernels.build.{name}").tables for name in FAMILIES]
    try:
        source = Source(given.systems) if given.systems else Source.installed()
        build(source, given.out, given.system or sorted(GPUS), given.framework or ENGINES, families)
    except SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
