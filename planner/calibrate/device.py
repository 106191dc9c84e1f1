"""Which GPU type of the catalogue a device is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs.errors import SpecError

CATALOGUE = Path(__file__).parents[2] / "specs" / "data" / "gpus"

MEMORY_TOLERANCE = 0.1
"""Drivers report somewhat less memory where they keep some of it (ECC, MIG)."""

CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """What the backend runs on.

    Args:
        name: as the driver gives it.
        memory_bytes: of the device.
        cache_bytes: of its last-level cache, so that weights can be kept out of it.
        driver: its version.
        library: version of PyTorch, or of NumPy for the CPU backend.
    """

    name: str
    memory_bytes: int
    cache_bytes: int
    driver: str
    library: str


def identify(name: str, memory_bytes: int) -> str:
    """Catalogue id of the GPU with this name and memory.

    The catalogue's files are read as they are, so that nothing but the standard library is needed.

    Raises:
        SpecError: the catalogue has none.
    """
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    entries: list[Mapping[str, Any]] = [json.loads(path.read_text()) for path in sorted(CATALOGUE.glob("*.json"))]
    for entry in entries:
        model = set(entry["id"].split("-")[:-2])  # without form and memory: h200; rtx, pro
        same_memory = abs(entry["memory_bytes"] / memory_bytes - 1.0) <= MEMORY_TOLERANCE
        if model <= words and same_memory:
            return str(entry["id"])
    known = ", ".join(entry["id"] for entry in entries)
    raise SpecError(
        f"the device {name!r} with {memory_bytes / 2**30:.0f} GiB is none of the catalogue's GPUs; accepted: {known}",
        field="--gpu",
    )
