"""Bars and curves in SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from planner.plot.pareto import COLOURS, X_LABEL, Y_LABEL
from planner.report.markup import Markup, join, tag
from planner.view.figures import MODE_NAMES, SHORT_MODE_NAMES, needs_log, number
from specs.comparison import Comparison
from specs.service import Mode

WIDTH, HEIGHT = 920, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 16, 48


def mode_bars(values: Sequence[tuple[Mode, float | None]], unit: str) -> Markup:
    """One bar per mode; a mode without a plan says so."""
    largest = max((value for _, value in values if value is not None), default=1.0) or 1.0
    parts = []
    for i, (mode, value) in enumerate(values):
        y = i * 34
        parts.append(tag("text", MODE_NAMES[mode.value], x=170, y=y + 20, text_anchor="end", class_="label"))
        length = 0.0 if value is None else 560 * value / largest
        parts.append(tag("rect", x=180, y=y + 6, width=length, height=20, rx=3, fill=COLOURS[mode]))
        words = "no plan meets the limits" if value is None else f"{number(value)} {unit}"
        parts.append(tag("text", words, x=190 + length, y=y + 20, class_="label"))
    title = tag("title", "Best plan of every serving mode")
    return tag("svg", title, *parts, viewBox=f"0 0 {WIDTH} {34 * len(values) + 8}", role="img", class_="bars")


def pareto_curves(comparison: Comparison, slo_per_user: float | None) -> Markup | None:
    """Tokens/s per GPU against tokens/s per user of every mode; None where there are no points."""
    curves = {result.mode: result.pareto for result in comparison.modes if result.pareto}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return None
    xs = _Axis.of([point.tokens_per_s_per_user for point in points], LEFT, WIDTH - RIGHT)
    ys = _Axis.of([point.tokens_per_s_per_gpu for point in points], HEIGHT - BOTTOM, TOP)
    parts = [*_grid(xs, ys)]
    if slo_per_user is not None and xs.low <= slo_per_user <= xs.high:
        at = xs.at(slo_per_user)
        parts += [
            tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="slo"),
            tag("text", "limit", x=at + 4, y=TOP + 10, class_="tick"),
        ]
    for i, (mode, curve) in enumerate(curves.items()):
        line = sorted((xs.at(p.tokens_per_s_per_user), ys.at(p.tokens_per_s_per_gpu)) for p in curve)
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(tag("polyline", points=joined, fill="none", stroke=COLOURS[mode], stroke_width=2))
        for point in curve:
            hint = f"{MODE_NAMES[mode.value]}: {point.layout}, TPOT {number(point.tpot_ms)} ms"
            x, y = xs.at(point.tokens_per_s_per_user), ys.at(point.tokens_per_s_per_gpu)
            parts.append(tag("circle", tag("title", hint), cx=x, cy=y, r=4, fill=COLOURS[mode]))
        parts.append(tag("rect", x=WIDTH - RIGHT + 16, y=TOP + 20 * i, width=12, height=12, rx=2, fill=COLOURS[mode]))
        name = SHORT_MODE_NAMES[mode.value]
        parts.append(tag("text", name, x=WIDTH - RIGHT + 34, y=TOP + 20 * i + 10, class_="label"))
    title = tag("title", "What a GPU yields against what a user feels")
    return tag("svg", title, *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="curves")


class _Axis:
    """A linear or logarithmic axis from values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float, *, is_log: bool) -> None:
        self.low, self.high, self._start, self._end, self._log = low, high, start, end, is_log

    @classmethod
    def of(cls, values: list[float], start: float, end: float) -> _Axis:
        """An axis that holds the values."""
        if needs_log(values):
            return cls(min(values) / 1.1, max(values) * 1.1, start, end, is_log=True)
        return cls(0.0, max(values) * 1.08 or 1.0, start, end, is_log=False)

    def at(self, value: float) -> float:
        """Pixel of a value."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(value)) if self._log else (self.low, self.high, value)
        )
        return self._start + (self._end - self._start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values inside the axis."""
        if self._log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            return [m * 10.0**p for p in powers for m in (1, 2, 5) if self.low <= m * 10.0**p <= self.high]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
        return [step * i for i in range(int(self.high / step) + 1)]


def _grid(xs: _Axis, ys: _Axis) -> list[Markup]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in xs.ticks():
        x = xs.at(value)
        parts.append(tag("line", x1=x, x2=x, y1=TOP, y2=bottom, class_="grid"))
        parts.append(tag("text", number(value), x=x, y=bottom + 16, text_anchor="middle", class_="tick"))
    for value in ys.ticks():
        y = ys.at(value)
        parts.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", number(value), x=LEFT - 8, y=y + 4, text_anchor="end", class_="tick"))
    parts.append(tag("text", X_LABEL, x=(LEFT + right) / 2, y=HEIGHT - 10, text_anchor="middle", class_="tick"))
    upright = f"rotate(-90 14 {(TOP + bottom) / 2:g})"
    middle = (TOP + bottom) / 2
    parts.append(tag("text", Y_LABEL, x=14, y=middle, text_anchor="middle", transform=upright, class_="tick"))
    return parts


def share_bar(value_ms: float, limit_ms: float) -> Markup:
    """A time as a share of its limit."""
    share = min(value_ms / limit_ms, 1.0)
    over = value_ms > limit_ms * (1 + 1e-6)
    bar = tag("rect", width=120 * share, height=10, rx=3, class_="over" if over else "within")
    return tag("svg", join(tag("rect", width=120, height=10, rx=3, class_="rail"), bar), width=120, height=10,
               aria_hidden="true")  # fmt: skip
