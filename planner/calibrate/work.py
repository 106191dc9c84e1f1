"""The work list: what a calibration is to measure, as JSON that can be carried to another machine."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.calibrate.table import FAMILIES, Curve, Key, curve_of
from specs.errors import SpecError

WORK_SCHEMA = "cleave.calibration_work/1"


@dataclass(frozen=True)
class WorkItem:
    """One curve to measure.

    Args:
        operator: a key of `planner.calibrate.table.FAMILIES`.
        keys: the family's keys, in its order.
        values: of the family's variable, ascending.
        expected_s: seconds that measuring the curve is expected to take.
    """

    operator: str
    keys: tuple[tuple[str, Key], ...]
    values: tuple[int, ...]
    expected_s: float

    @property
    def curve(self) -> Curve:
        """What the points share."""
        return self.operator, self.keys

    def __getitem__(self, name: str) -> Any:
        """Value of a key."""
        return dict(self.keys)[name]

    def __str__(self) -> str:
        variable = FAMILIES[self.operator].variable
        keys = " ".join(f"{name}={value}" for name, value in self.keys)
        return f"{self.operator} {keys} {variable}={self.values[0]}..{self.values[-1]}".replace("  ", " ")


@dataclass(frozen=True)
class WorkList:
    """Everything that a calibration is to measure.

    Args:
        model: whose operators these are.
        gpu: catalogue id of the GPU type that is expected; None to take whichever is there.
        items: the curves, those that matter most first.
        left_out: what the model needs and no kernel here can measure, with the reason.
    """

    model: str
    gpu: str | None
    items: tuple[WorkItem, ...]
    left_out: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """Points to measure."""
        return sum(len(item.values) for item in self.items)

    @property
    def expected_s(self) -> float:
        """Seconds that the whole is expected to take."""
        return sum(item.expected_s for item in self.items)

    def to_json(self) -> str:
        """The list as JSON, one curve a line."""
        head = {
            "schema": WORK_SCHEMA,
            "model": self.model,
            "gpu": self.gpu,
            "points": self.points,
            "expected_minutes": round(self.expected_s / 60.0, 2),
            "left_out": list(self.left_out),
        }
        items = ",\n    ".join(
            json.dumps(
                {
                    "operator": item.operator,
                    **dict(item.keys),
                    "values": list(item.values),
                    "expected_s": round(item.expected_s, 3),
                }
            )
            for item in self.items
        )
        return json.dumps(head, indent=2)[:-2] + f',\n  "items": [\n    {items}\n  ]\n}}\n'


def read_work(path: Path) -> WorkList:
    """Read a work list.

    Raises:
        SpecError: it cannot be read or is not a work list.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", file=str(path)) from None
    except ValueError as error:
        raise SpecError(f"is not JSON: {error}", file=str(path)) from None
    if not isinstance(found, dict) or found.get("schema") != WORK_SCHEMA:
        raise SpecError(
            f"is not a work list; accepted: {WORK_SCHEMA}, which `cleave calibrate --dry-run --json` prints",
            field="schema",
            file=str(path),
        )
    items = [_item(path, entry) for entry in _list(path, found, "items")]
    left_out = tuple(map(str, _list(path, found, "left_out")))
    gpu = found.get("gpu")
    return WorkList(str(found.get("model")), None if gpu is None else str(gpu), tuple(items), left_out)


def _list(path: Path, found: dict[str, Any], name: str) -> Sequence[Any]:
    if not isinstance(found.get(name), list):
        raise SpecError("must be a list", field=name, file=str(path))
    entries: list[Any] = found[name]
    return entries


def _item(path: Path, entry: Any) -> WorkItem:
    if not isinstance(entry, dict):
        raise SpecError("must be a list of objects", field="items", file=str(path))
    operator, keys = curve_of(entry, ("expected_s",), path, 1, list_of="values")
    values = entry["values"]
    whole = isinstance(values, list) and all(type(value) is int and value > 0 for value in values)
    if not whole or not values or sorted(set(values)) != values:
        raise SpecError("must be ascending whole numbers from 1", field="values", file=str(path))
    expected = entry["expected_s"]
    if type(expected) not in (int, float) or not 0.0 <= expected < math.inf:
        raise SpecError("must be a number of seconds from 0", field="expected_s", file=str(path))
    return WorkItem(operator, keys, tuple(values), float(expected))
