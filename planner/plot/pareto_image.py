"""The Pareto curves drawn by matplotlib."""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from planner.plot.pareto import COLOURS, SLO_COLOUR, X_LABEL, Y_LABEL, title
from planner.view.figures import MODE_NAMES, needs_log, number
from planner.view.pareto_chart import user_speed_slo
from specs.comparison import Comparison
from specs.scenario import Scenario
from specs.service import Mode

MARKERS = {Mode.AGGREGATED: "o", Mode.PREFILL_DECODE: "s", Mode.AFD: "^", Mode.PREFILL_DECODE_AFD: "D"}


def draw(comparison: Comparison, scenario: Scenario, kind: str) -> bytes:
    """Draw the picture as `svg` or `png`."""
    figure = Figure(figsize=(9, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    speeds: list[float] = []
    yields: list[float] = []
    for result in comparison.modes:
        curve = sorted(result.pareto, key=lambda point: point.tokens_per_s_per_user)
        if not curve:
            continue
        x = [point.tokens_per_s_per_user for point in curve]
        y = [point.tokens_per_s_per_gpu for point in curve]
        speeds += x
        yields += y
        best = result.mode is comparison.best
        axes.plot(
            x, y, color=COLOURS[result.mode], marker=MARKERS[result.mode], markersize=5.5,
            linewidth=2.6 if best else 1.6, label=MODE_NAMES[result.mode.value] + (" (best)" if best else ""),
            zorder=3 if best else 2,
        )  # fmt: skip
        axes.annotate(
            MODE_NAMES[result.mode.value], (x[-1], y[-1]), xytext=(2, -8), textcoords="offset points", ha="right",
            va="top", fontsize=9, color=COLOURS[result.mode],
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
    _scale(axes, speeds, yields)
    slo = user_speed_slo(scenario)
    if slo:
        axes.axvline(slo, color=SLO_COLOUR, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
        axes.annotate(
            f"TPOT {number(1000 / slo)} ms", (slo, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -4),
            textcoords="offset points", va="top", color=SLO_COLOUR, fontsize=9,
        )  # fmt: skip
    axes.set_xlabel(X_LABEL)
    axes.set_ylabel(Y_LABEL)
    axes.set_title(title(scenario), loc="left", fontsize=12, fontweight="bold")
    axes.grid(True, which="major", color="#DDDDDD", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    if speeds:
        axes.legend(frameon=False, loc="best")
    else:
        axes.text(0.5, 0.5, "no mode has a plan", transform=axes.transAxes, ha="center", color=SLO_COLOUR)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _scale(axes: Axes, speeds: list[float], yields: list[float]) -> None:
    """Give each axis a logarithmic scale where its range needs one, and plain numbers at its ticks."""
    written = FuncFormatter(lambda value, _: number(value))
    for axis, values in ((axes.xaxis, speeds), (axes.yaxis, yields)):
        name = "x" if axis is axes.xaxis else "y"
        if needs_log(values):
            axes.set_xscale("log") if name == "x" else axes.set_yscale("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_minor_formatter(NullFormatter())
        elif name == "x":
            axes.set_xlim(left=0)
        else:
            axes.set_ylim(bottom=0)
        axis.set_major_formatter(written)
