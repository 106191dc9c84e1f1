"""The published measurements: Parquet files of aiconfigurator-core, read and checked column by column.

The package (Apache-2.0) holds `systems/data/<system>/<family>/<framework>/<version>/<op>_perf.parquet`. None of its
code is imported. Whatever a file says that cannot be a measurement is refused with file, column and row.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

PACKAGE = "aiconfigurator-core"
PACKAGE_VERSION = "0.12.0"
INSTALL = "pip install 'cleave[measured]'"

FRAMEWORKS = ("vllm", "sglang", "trtllm", "nccl")
"""Directories that are read: three engines, and the library whose collectives all of them use."""

Kind = Literal["text", "count", "index", "ms", "us", "ms_or_0", "us_or_0"]
"""What a column holds: words, integers >= 1, integers >= 0, or positive times (`_or_0`: times that may be 0)."""

FASTEST_MS = (5e-4, 3.0)
"""Where the fastest row of every time column lies: no kernel takes less than half a microsecond, and every table was
measured down to a problem of less than 3 ms. Seconds or microseconds in a column of milliseconds fall outside."""

SLOWEST_MS = 1e5
"""No row takes longer."""

_VERSION = re.compile(
    r"(?P<release>\d+(\.\d+)*)((?P<pre>a|b|rc)(?P<pre_number>\d+))?(\.post(?P<post>\d+))?(\.dev(?P<dev>\d+))?"
)


class SourceError(ValueError):
    """The measurements cannot be used as they are; the message names file, column and row."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Checked rows of one file.

    Args:
        path: of the file, relative to the source's directory, with forward slashes.
        framework: directory that it lies in.
        version: of the framework.
        columns: one array per wanted column, all of shape (n,): text as objects, integers as int64, times as float64 in
            ms whatever the unit of the file.
    """

    path: str
    framework: str
    version: str
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return next(iter(self.columns.values())).size

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.columns[column]

    def select(self, which: NDArray[Any]) -> Rows:
        """The rows of a mask or of indices."""
        return Rows(
            self.path, self.framework, self.version, {name: values[which] for name, values in self.columns.items()}
        )


class Source:
    """The measurements below a `systems` directory.

    Args:
        directory: `systems` directory of the package; it holds `data/`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not (directory / "data").is_dir():
            raise SourceError(f"{directory}: no directory 'data' of measurements in it")

    @staticmethod
    def installed() -> Source:
        """The installed package's measurements; its code is not imported.

        Raises:
            SourceError: the package is absent, or of another version than these readers were written for.
        """
        spec = importlib.util.find_spec("aiconfigurator_core")
        if spec is None or not spec.submodule_search_locations:
            raise SourceError(f"{PACKAGE} {PACKAGE_VERSION} is not installed: {INSTALL}")
        version = importlib.metadata.version(PACKAGE)
        if version != PACKAGE_VERSION:
            raise SourceError(f"{PACKAGE} {version} is installed; its files are read at {PACKAGE_VERSION}: {INSTALL}")
        return Source(Path(next(iter(spec.submodule_search_locations))) / "systems")

    @property
    def name(self) -> str:
        """What is read, for an `Origin`."""
        return f"{PACKAGE} {PACKAGE_VERSION}"

    def versions(self, system: str, family: str, framework: str, op: str) -> list[str]:
        """Versions of a framework that an op was measured with, newest first; empty where there are none.

        Raises:
            SourceError: unknown system or framework, or a directory whose name is no version.
        """
        if not (self.directory / "data" / system).is_dir():
            raise SourceError(f"data/{system}: no such system")
        if framework not in FRAMEWORKS:
            raise SourceError(f"data/{system}/{family}/{framework}: unknown framework; known: {', '.join(FRAMEWORKS)}")
        folder = self.directory / "data" / system / family / framework
        found = []
        for path in sorted(folder.glob(f"*/{op}_perf.parquet")):
            if not _VERSION.fullmatch(path.parent.name):
                raise SourceError(f"{self._relative(path)}: {path.parent.name!r} is not a version of {framework}")
            found.append(path.parent.name)
        return sorted(found, key=version_key, reverse=True)

    def rows(
        self,
        system: str,
        family: str,
        framework: str,
        op: str,
        columns: Mapping[str, Kind],
        *,
        version: str | None = None,
        fastest_ms: tuple[float, float] = FASTEST_MS,
    ) -> Rows | None:
        """Checked columns of one op's file, in the order of the file.

        Args:
            system: directory below `data`, for example "h200_sxm".
            family: directory below it, for example "gemm".
            framework: one of `FRAMEWORKS`.
            op: file without `_perf.parquet`, for example "gemm".
            columns: wanted columns and what they hold; only these are read.
            version: of the framework; None for the newest.
            fastest_ms: where the fastest row of a time column lies, in ms (see `FASTEST_MS`).

        Returns:
            The rows, or None where the op was not measured for this system and framework.

        Raises:
            SourceError: unknown system, framework or version; missing column; a value that is no measurement.
        """
        known = self.versions(system, family, framework, op)
        if version is not None and version not in known:
            raise SourceError(
                f"data/{system}/{family}/{framework}: {op} was not measured with version {version!r}; "
                f"measured: {', '.join(known) or 'none'}"
            )
        if not known:
            return None
        version = version or known[0]
        path = self.directory / "data" / system / family / framework / version / f"{op}_perf.parquet"
        relative = self._relative(path)
        table = _read(path, relative, list(columns))
        checked = {name: _checked(table[name], relative, name, kind, fastest_ms) for name, kind in columns.items()}
        return Rows(relative, framework, version, checked)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.directory).as_posix()


def version_key(version: str) -> tuple[tuple[int, ...], tuple[int, int], int, float]:
    """Order of versions (PEP 440): development < alpha < beta < candidate < release < post-release.

    Raises:
        SourceError: not a version.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise SourceError(f"{version!r} is not a version")
    release = [int(part) for part in match["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    dev = float(match["dev"]) if match["dev"] else float("inf")
    if match["pre"]:
        pre = (("a", "b", "rc").index(match["pre"]), int(match["pre_number"]))
    else:
        pre = (-1, 0) if match["dev"] and not match["post"] else (3, 0)
    return tuple(release), pre, int(match["post"]) if match["post"] else -1, dev


def _read(path: Path, relative: str, columns: list[str]) -> dict[str, Any]:
    """Columns of a Parquet file as Arrow arrays."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SourceError(f"reading {relative} needs pyarrow: {INSTALL}") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            present = file.schema_arrow.names
            for name in columns:
                if name not in present:
                    raise SourceError(f"{relative}: column {name!r} is missing; it has {', '.join(present)}")
            table = file.read(columns=columns, use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{relative}: not a whole Parquet file: {error}") from error
    if table.num_rows == 0:
        raise SourceError(f"{relative}: no rows")
    return {name: table.column(name).combine_chunks() for name in columns}


def _checked(column: Any, path: str, name: str, kind: Kind, fastest_ms: tuple[float, float]) -> NDArray[Any]:
    """One column as numpy, or an error that names the first offending row (counted from 1)."""
    import pyarrow

    def refuse(wrong: NDArray[np.bool_], why: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise SourceError(f"{path}: column {name!r}, row {row + 1}: {column[row].as_py()!r} {why}")

    refuse(np.asarray(column.is_null().to_numpy(zero_copy_only=False)), "where a value must be")
    if kind == "text":
        if not (pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)):
            raise SourceError(f"{path}: column {name!r} holds {column.type}, not text")
        encoded = column.dictionary_encode()
        words = np.array(encoded.dictionary.to_pylist(), dtype=object)
        return np.asarray(words[encoded.indices.to_numpy()])
    if not (pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)):
        raise SourceError(f"{path}: column {name!r} holds {column.type}, not numbers")
    values = np.asarray(column.to_numpy(zero_copy_only=False))
    refuse(~np.isfinite(values), "is not a finite number")
    if kind in ("count", "index"):
        refuse(values != np.round(values), "is not an integer")
        refuse(values < (1 if kind == "count" else 0), f"is below {1 if kind == 'count' else 0}")
        return values.astype(np.int64)
    times = values.astype(np.float64) * (1e-3 if kind.startswith("us") else 1.0)
    may_be_zero = kind.endswith("_or_0")
    refuse(times < 0 if may_be_zero else times <= 0, "is not a positive time")
    unit = "microseconds" if kind.startswith("us") else "milliseconds"
    refuse(times > SLOWEST_MS, f"is too long for {unit}")
    if not may_be_zero:
        refuse(times < fastest_ms[0], f"is too short for {unit}")
        refuse(
            (times == times.min()) & (times > fastest_ms[1]),
            f"is the fastest row, too long for {unit}: is the column in another unit?",
        )
    return times
