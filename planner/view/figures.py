"""Numbers and names as people read them."""

from specs.objective import Objective
from specs.plan import PoolPlan
from specs.service import Mode

MODE_NAMES: dict[str, str] = {
    Mode.AGGREGATED.value: "aggregated",
    Mode.PREFILL_DECODE.value: "prefill-decode",
    Mode.AFD.value: "AFD",
    Mode.PREFILL_DECODE_AFD.value: "prefill + AFD decode",
    "mixed": "mixed modes",
}
SHORT_MODE_NAMES: dict[str, str] = {**MODE_NAMES, Mode.PREFILL_DECODE_AFD.value: "P/D + AFD", "mixed": "mixed"}

UNITS = {
    "throughput": "output tokens/s",
    "cost": "per hour",
    "gpus": "GPUs",
    "power": "kW",
}
"""Unit of an objective by its quantity."""


def number(value: float) -> str:
    """Write a number with four significant digits, or all before the point: 17,232, 88, 4.25, 0.01235."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.1:
        return f"{value:.4g}"
    digits = next((digits for digits, least in ((1, 100), (2, 10), (3, 1)) if abs(value) >= least), 4)
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def percent(share: float) -> str:
    """Write a share of one: 0.0005 as 0.05%."""
    return f"{number(share * 100)}%"


def milliseconds(value: float | None) -> str:
    """Write a time, or a dash where there is none."""
    return "-" if value is None else f"{number(value)} ms"


def objective_value(objective: Objective, value: float) -> str:
    """Write an objective value with its unit."""
    return f"{number(value)} {UNITS[objective.quantity]}"


def layout(pool: PoolPlan) -> str:
    """Write the degrees of parallelism that are not 1, and the micro-batches: `tp2 dp4 ep8`."""
    degrees = {"tp": pool.tp, "dp": pool.dp, "ep": pool.ep, "etp": pool.moe_tp, "pp": pool.pp, "mb": pool.microbatches}
    return " ".join(f"{name}{degree}" for name, degree in degrees.items() if degree > 1) or "tp1"


LOG_FROM = 20.0
"""An axis is logarithmic where its largest value is this many times its smallest."""


def needs_log(values: list[float]) -> bool:
    """Say whether the values span so much that a linear axis would hide the small ones."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_FROM
