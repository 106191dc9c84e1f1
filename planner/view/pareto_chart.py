"""Pareto curves drawn with characters."""

import math

from rich.console import Group, RenderableType
from rich.text import Text

from planner.view.figures import MODE_NAMES, needs_log, number
from specs.comparison import Comparison
from specs.scenario import Scenario
from specs.service import Mode

TICKS = 4
"""Intervals of an axis; each end has a tick."""
COLUMNS = 20 * TICKS + 1
ROWS = 4 * TICKS + 1

SYMBOLS = {
    Mode.AGGREGATED: ("o", "blue"),
    Mode.PREFILL_DECODE: ("+", "yellow"),
    Mode.AFD: ("x", "green"),
    Mode.PREFILL_DECODE_AFD: ("◆", "magenta"),
}
_SLO = "┊"


def user_speed_slo(scenario: Scenario | None) -> float | None:
    """Tokens/s per user that the TPOT objective asks for; None where the services differ or have none."""
    limits = {service.slo.tpot_ms for service in scenario.services} if scenario else set()
    limit = limits.pop() if len(limits) == 1 else None
    return 1000.0 / limit if limit else None


class Axis:
    """A scale from values to positions 0 to `last`.

    Args:
        values: what it must show, not empty.
        last: the last position.

    """

    def __init__(self, values: list[float], last: int) -> None:
        self.last = last
        self.logarithmic = needs_log(values)
        self.low = min(values) if self.logarithmic else 0.0
        self.high = max(values) if self.logarithmic else _round_above(max(values) or 1.0)

    def position(self, value: float) -> int:
        """Nearest position of a value; those beyond an end are drawn there."""
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return round(min(1.0, max(0.0, share)) * self.last)

    def value(self, position: int) -> float:
        """Value at a position."""
        share = position / self.last
        if self.logarithmic:
            return float(self.low * (self.high / self.low) ** share)
        return self.high * share


def pareto_chart(comparison: Comparison, scenario: Scenario | None = None) -> RenderableType:
    """Draw tokens/s/GPU against tokens/s/user, one symbol for each mode and a line where the TPOT objective is."""
    points = [(result.mode, point) for result in comparison.modes for point in result.pareto]
    slo = user_speed_slo(scenario)
    speeds = [point.tokens_per_s_per_user for _, point in points]
    across = Axis([*speeds, *([slo] if slo else [])], COLUMNS - 1)
    up = Axis([point.tokens_per_s_per_gpu for _, point in points], ROWS - 1)
    grid = [[(" ", "")] * COLUMNS for _ in range(ROWS)]
    if slo:
        for row in grid:
            row[across.position(slo)] = (_SLO, "red")
    best_last = sorted(points, key=lambda pair: pair[0] is comparison.best)
    for mode, point in best_last:
        symbol, style = SYMBOLS[mode]
        cell = across.position(point.tokens_per_s_per_user)
        grid[ROWS - 1 - up.position(point.tokens_per_s_per_gpu)][cell] = (symbol, style)
    lines = [Text("output tokens/s per GPU" + (" (log)" if up.logarithmic else ""), style="dim")]
    for i, row in enumerate(grid):
        height = ROWS - 1 - i
        labelled = height % ((ROWS - 1) // TICKS) == 0
        line = Text(f"{_tick(up.value(height)) if labelled else '':>9} {'┤' if labelled else '│'}", style="dim")
        for character, style in row:
            line.append(character, style)
        lines.append(line)
    lines += _across_axis(across)
    legend = Text(" " * 11)
    for mode in dict.fromkeys(mode for mode, _ in points):
        symbol, style = SYMBOLS[mode]
        legend.append(f"{symbol} {MODE_NAMES[mode.value]}   ", style)
    if slo:
        legend.append(f"{_SLO} TPOT {number(1000 / slo)} ms", "red")
    return Group(*lines, legend)


def _across_axis(axis: Axis) -> list[Text]:
    ticks = list(range(0, COLUMNS, (COLUMNS - 1) // TICKS))
    rule = "".join("┴" if i in ticks else "─" for i in range(COLUMNS))
    labels = [" "] * (COLUMNS + 8)
    for tick in ticks:
        label = _tick(axis.value(tick))
        start = max(0, tick - len(label) // 2)
        labels[start : start + len(label)] = label
    title = "output tokens/s per user" + (" (log)" if axis.logarithmic else "")
    return [
        Text(f"{'':>9} └{rule}", style="dim"),
        Text(" " * 11 + "".join(labels).rstrip(), style="dim"),
        Text(" " * 11 + f"{title:^{COLUMNS}}".rstrip(), style="dim"),
    ]


def _round_above(value: float) -> float:
    """Return the least end of an axis, at or above the value, that puts round numbers at every tick."""
    step = value / TICKS
    power = 10.0 ** math.floor(math.log10(step))
    factors = (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8)
    return TICKS * power * next((factor for factor in factors if factor * power >= step), 10)


def _tick(value: float) -> str:
    """Write the value of a tick, with two or three digits."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:,.0f}"
