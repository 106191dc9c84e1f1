"""How far the cost model was from measurements, by GPU and engine: what a plan's certificate says beside its gap."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

from specs.catalog import DATA
from specs.service import Engine, KernelSource

FILE = DATA / "accuracy.json"

THROUGHPUT = "throughput"


@cache
def _known() -> dict[str, dict[str, dict[str, float]]]:
    stored: dict[str, dict[str, dict[str, float]]] = json.loads(FILE.read_text(encoding="utf-8"))
    return stored


def throughput_error(served: Iterable[tuple[Engine, KernelSource, str]]) -> float | None:
    """Median relative error of predicted throughput, the largest over what serves; None where any was not measured.

    Args:
        served: engine, kernel source and catalogue id of the GPU of every pool in use.
    """
    worst = 0.0
    for engine, kernels, gpu in served:
        errors = _known().get(gpu, {}).get(engine.value)
        if kernels is not KernelSource.MEASURED or errors is None:
            return None
        worst = max(worst, errors[THROUGHPUT])
    return worst or None
