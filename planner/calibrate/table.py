"""The user table `cleave.kernel_points/1`: measured operator times as JSON lines.

The first line says what was measured on what (`Header`), every further line is one measured point (`Row`), and the last
line counts the rows and carries their SHA-256. A file without that line, or that does not agree with it, was written
in part or edited and is refused as a whole. The unit stands in the field's name: `time_ms` is milliseconds. Points of
one curve differ in the operator's variable only (`FAMILIES`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from specs.errors import SpecError

FORMAT = "cleave.kernel_points/1"

MAX_BYTES = 64_000_000

LARGEST_FALL = 2.0
"""Time may fall by at most this factor as the variable grows (kernels that switch tile shapes do fall a little)."""

PRECISIONS = ("bf16", "fp8", "fp8_block", "fp4", "int8", "int4")
"""Formats of weights and caches; `fp8_block` has a scale for every 128 x 128 weights and every 128 activations."""

Key = str | int | bool
Curve = tuple[str, tuple[tuple[str, Key], ...]]
"""Operator and keys: what the points of one curve share."""


@dataclass(frozen=True)
class Family:
    """The fields of one operator's rows.

    Args:
        keys: what identifies a curve.
        variable: what the time is a function of.
    """

    keys: tuple[str, ...]
    variable: str


FAMILIES: dict[str, Family] = {
    "gemm": Family(("precision", "n", "k"), "rows"),
    "grouped_gemm": Family(("precision", "hidden", "intermediate", "gated", "active_experts"), "pairs"),
    "decode_attention": Family(("kv_precision", "heads", "kv_heads", "head_dim", "queries", "context"), "sequences"),
    "decode_mla": Family(
        ("kv_precision", "heads", "kv_lora_rank", "qk_rope_head_dim", "queries", "context"), "sequences"
    ),
    "prefill_attention": Family(("kv_precision", "heads", "kv_heads", "head_dim", "context", "new_tokens"), "prompts"),
    "prefill_mla": Family(
        (
            "kv_precision",
            "heads",
            "kv_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "v_head_dim",
            "context",
            "new_tokens",
        ),
        "prompts",
    ),
    "stream": Family((), "bytes"),
    "all_reduce": Family(("ranks",), "bytes"),
}
"""Rows by operator. Heads are those of one tensor-parallel rank; `pairs` are token-expert pairs spread evenly over
`active_experts`; `new_tokens` are those of one prompt's chunk and `context` the tokens before it."""

MEASURED = ("time_ms", "spread", "kernel", "stand_in")


@dataclass(frozen=True)
class Header:
    """What was measured on what.

    Args:
        gpu: catalogue id of the GPU type, or `cpu`.
        device: name that the driver gives the device.
        backend: `cuda` or `cpu`.
        driver: its version.
        torch: version of PyTorch, or of NumPy for the CPU backend.
        date: day of the measurement, YYYY-MM-DD.
        models: models whose operators were measured.
    """

    gpu: str
    device: str
    backend: str
    driver: str
    torch: str
    date: str
    models: tuple[str, ...]

    def same_machine(self, other: Header) -> bool:
        """Whether rows of both may stand in one table."""
        mine, theirs = asdict(self), asdict(other)
        return all(mine[name] == theirs[name] for name in ("gpu", "device", "backend", "driver", "torch"))

    def __str__(self) -> str:
        return f"{self.device} ({self.gpu}), {self.backend}, driver {self.driver}, library {self.torch}"


@dataclass(frozen=True)
class Row:
    """One measured point.

    Args:
        operator: a key of `FAMILIES`.
        keys: the family's keys, in its order.
        value: of the family's variable.
        time_ms: median time, ms.
        spread: interquartile range of the samples over their median.
        kernel: what was run.
        stand_in: whether serving engines run a much better kernel; such rows inform and are not planned with.
    """

    operator: str
    keys: tuple[tuple[str, Key], ...]
    value: int
    time_ms: float
    spread: float
    kernel: str
    stand_in: bool

    @property
    def curve(self) -> Curve:
        """The curve that the point lies on."""
        return self.operator, self.keys

    @property
    def point(self) -> tuple[Curve, int]:
        """What identifies the point."""
        return self.curve, self.value

    def to_line(self) -> str:
        """The row as one line of JSON."""
        measured = {name: getattr(self, name) for name in MEASURED}
        variable = FAMILIES[self.operator].variable
        return json.dumps({"operator": self.operator, **dict(self.keys), variable: self.value, **measured})


@dataclass(frozen=True)
class Table:
    """A whole user table."""

    header: Header
    rows: tuple[Row, ...]


def read(path: Path) -> Table:
    """Read a complete table.

    Raises:
        SpecError: with file, line and field: it cannot be read, is of another format, was written in part, or a row
            is not a measurement (see `_row`), stands twice, or breaks `LARGEST_FALL`.
    """
    lines = _lines(path)
    if not lines or not lines[-1].endswith("\n"):
        raise _partial(path, len(lines))
    header = _header(path, lines[0])
    end = _object(path, len(lines), lines[-1])
    if set(end) != {"end", "rows", "sha256"}:
        raise _partial(path, len(lines))
    body = lines[1:-1]
    rows = [_row(path, number, line) for number, line in enumerate(body, start=2)]
    if end["rows"] != len(rows):
        raise SpecError(
            f"says {end['rows']!r} rows and {len(rows)} are there: the table was written in part or edited",
            field="rows",
            file=str(path),
            line=len(lines),
        )
    if end["sha256"] != _digest(lines[:-1]):
        raise SpecError(
            "is not the checksum of the lines above: the table was written in part or edited; measure again",
            field="sha256",
            file=str(path),
            line=len(lines),
        )
    check(path, rows)
    return Table(header, tuple(rows))


def read_partial(path: Path) -> Table:
    """Read what an interrupted run left; a last line that breaks off is left out.

    Raises:
        SpecError: as `read`.
    """
    lines = [line for line in _lines(path) if line.endswith("\n")]
    if not lines:
        raise SpecError("holds no header; delete it to begin anew", file=str(path), line=1)
    header = _header(path, lines[0])
    return Table(header, tuple(_row(path, number, line) for number, line in enumerate(lines[1:], start=2)))


def write(path: Path, table: Table) -> None:
    """Write a complete table: to a temporary file beside it, which is then renamed.

    Raises:
        SpecError: two rows are one point, a curve breaks `LARGEST_FALL`, or the file cannot be written.
    """
    rows = sorted(table.rows, key=lambda row: (list(FAMILIES).index(row.operator), _order(row.keys), row.value))
    check(path, rows)
    lines = [header_line(table.header), *(row.to_line() + "\n" for row in rows)]
    lines.append(json.dumps({"end": True, "rows": len(rows), "sha256": _digest(lines)}) + "\n")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_text("".join(lines), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror}", file=str(path)) from error


def header_line(header: Header) -> str:
    """The first line of a table, complete or partial."""
    return json.dumps({"format": FORMAT, **asdict(header)}) + "\n"


def check(path: Path, rows: Iterable[Row]) -> None:
    """Refuse points that stand twice, and curves that fall.

    Raises:
        SpecError: with the 1-based line of the row in the file (`rows` start at line 2).
    """
    curves: dict[Curve, list[tuple[int, Row]]] = {}
    for line, row in enumerate(rows, start=2):
        curves.setdefault(row.curve, []).append((line, row))
    for points in curves.values():
        points.sort(key=lambda point: point[1].value)
        highest = points[0][1]
        for line, row in points[1:]:
            variable = FAMILIES[row.operator].variable
            if row.value == highest.value:
                raise SpecError(f"{row.value} stands twice on one curve", field=variable, file=str(path), line=line)
            if row.time_ms * LARGEST_FALL < highest.time_ms:
                raise SpecError(
                    f"falls from {highest.time_ms:g} ms at {variable} {highest.value} to {row.time_ms:g} ms at "
                    f"{row.value}; accepted: a fall by at most a factor of {LARGEST_FALL:g}",
                    field="time_ms",
                    file=str(path),
                    line=line,
                )
            highest = max(highest, row, key=lambda row: row.time_ms)


def falling(rows: Iterable[Row]) -> set[tuple[Curve, int]]:
    """Points that a later point of their curve undercuts by more than `LARGEST_FALL`."""
    curves: dict[Curve, list[Row]] = {}
    for row in rows:
        curves.setdefault(row.curve, []).append(row)
    found = set()
    for points in curves.values():
        lowest = math.inf
        for row in sorted(points, key=lambda row: -row.value):
            if row.time_ms > LARGEST_FALL * lowest:
                found.add(row.point)
            else:
                lowest = min(lowest, row.time_ms)
    return found


def _order(keys: tuple[tuple[str, Key], ...]) -> tuple[tuple[str, float], ...]:
    return tuple((value, 0.0) if isinstance(value, str) else ("", float(value)) for _, value in keys)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _partial(path: Path, line: int) -> SpecError:
    return SpecError(
        "has no closing line with the number of rows: the table was written in part; run `cleave calibrate` again",
        field="end",
        file=str(path),
        line=max(line, 1),
    )


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(f"is larger than {MAX_BYTES // 1_000_000} MB, the most that is accepted", file=str(path))
        return path.read_bytes().decode("utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        raise SpecError("no such file; accepted: a table that `cleave calibrate` wrote", file=str(path)) from None
    except UnicodeDecodeError:
        raise SpecError("is not UTF-8 text; accepted: a table that `cleave calibrate` wrote", file=str(path)) from None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", file=str(path)) from None


def _object(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"is not JSON: {error}", file=str(path), line=line) from None
    if not isinstance(value, dict):
        raise SpecError("is not a JSON object", file=str(path), line=line)
    return value


def _header(path: Path, text: str) -> Header:
    found = _object(path, 1, text)
    if found.get("format") != FORMAT:
        raise SpecError(
            f"unknown format {found.get('format')!r}; accepted: {FORMAT}", field="format", file=str(path), line=1
        )
    wanted = [field.name for field in fields(Header)]
    _check_fields(path, 1, found, ["format", *wanted])
    for name in wanted[:-1]:
        if not isinstance(found[name], str) or not found[name]:
            raise SpecError(f"must be text, got {found[name]!r}", field=name, file=str(path), line=1)
    models = found["models"]
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
        raise SpecError("must be a list of model ids", field="models", file=str(path), line=1)
    return Header(**{**{name: found[name] for name in wanted}, "models": tuple(models)})


def _row(path: Path, line: int, text: str) -> Row:
    found = _object(path, line, text)
    if set(found) == {"end", "rows", "sha256"}:
        raise SpecError("closes the table, and more follows", field="end", file=str(path), line=line)
    operator, keys = curve_of(found, MEASURED, path, line)
    time_ms, spread = found["time_ms"], found["spread"]
    for name, number, least in (("time_ms", time_ms, math.ulp(0.0)), ("spread", spread, 0.0)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number < math.inf:
            kind = "a positive number of milliseconds" if name == "time_ms" else "a number from 0"
            raise SpecError(f"must be {kind}, got {number!r:.60}", field=name, file=str(path), line=line)
    if not isinstance(found["kernel"], str):
        raise SpecError(f"must be text, got {found['kernel']!r:.60}", field="kernel", file=str(path), line=line)
    if not isinstance(found["stand_in"], bool):
        raise SpecError(
            f"must be true or false, got {found['stand_in']!r:.60}", field="stand_in", file=str(path), line=line
        )
    value = found[FAMILIES[operator].variable]
    _check_count(path, line, FAMILIES[operator].variable, value, least=1)
    return Row(operator, keys, value, float(time_ms), float(spread), found["kernel"], found["stand_in"])


def curve_of(found: Mapping[str, Any], further: tuple[str, ...], path: Path, line: int, *, list_of: str = "") -> Curve:
    """Operator and keys of a JSON object that also has the fields `further`.

    Args:
        found: the object.
        further: other fields that it must have.
        path: file that it comes from.
        line: line there.
        list_of: field that stands for the variable; empty where the variable stands under its own name.

    Raises:
        SpecError: unknown operator, missing or unknown fields, or a key that is no key.
    """
    operator = found.get("operator")
    if not isinstance(operator, str) or operator not in FAMILIES:
        raise SpecError(
            f"unknown operator {operator!r:.60}; accepted: {', '.join(FAMILIES)}",
            field="operator",
            file=str(path),
            line=line,
        )
    family = FAMILIES[operator]
    _check_fields(path, line, found, ["operator", *family.keys, list_of or family.variable, *further])
    for name in family.keys:
        value = found[name]
        if name in ("precision", "kv_precision"):
            if value not in PRECISIONS:
                raise SpecError(
                    f"must be one of {', '.join(PRECISIONS)}, got {value!r:.60}", field=name, file=str(path), line=line
                )
        elif name == "gated":
            if not isinstance(value, bool):
                raise SpecError(f"must be true or false, got {value!r:.60}", field=name, file=str(path), line=line)
        else:
            _check_count(path, line, name, value, least=0 if name == "context" else 1)
    return operator, tuple((name, found[name]) for name in family.keys)


def _check_count(path: Path, line: int, name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 53:
        raise SpecError(
            f"must be a whole number from {least}, got {value!r:.60}", field=name, file=str(path), line=line
        )


def _check_fields(path: Path, line: int, found: Mapping[str, Any], wanted: list[str]) -> None:
    for name in found:
        if name not in wanted:
            raise SpecError(
                f"unknown field; accepted: {', '.join(wanted)}", field=str(name)[:60], file=str(path), line=line
            )
    for name in wanted:
        if name not in found:
            raise SpecError("is missing", field=name, file=str(path), line=line)
