"""Predicted against measured values as a picture."""

import importlib.util
import io
from pathlib import Path

from planner.accuracy.score import Metric, Report
from planner.view.figures import number, percent
from specs.errors import SpecError
from specs.service import Engine

FORMATS = (".svg", ".png")
COLOURS = {Engine.VLLM: "#E69F00", Engine.SGLANG: "#0072B2", Engine.TRTLLM: "#009E73"}
"""Colours that the colour-blind tell apart (Okabe and Ito, 2008)."""
MARKERS = {Engine.VLLM: "o", Engine.SGLANG: "s", Engine.TRTLLM: "^"}
NAMES = {Engine.VLLM: "vLLM", Engine.SGLANG: "SGLang", Engine.TRTLLM: "TensorRT-LLM"}
BANDS = {0.30: 0.06, 0.10: 0.14}
"""Relative errors of the shaded bands, the widest first, and their opacity."""
TITLES = {Metric.TPOT: "TPOT [ms]", Metric.THROUGHPUT: "Throughput [tokens/s per GPU]", Metric.TTFT: "TTFT [ms]"}


def check_format(path: Path) -> None:
    """Refuse a picture that could not be drawn.

    Raises:
        SpecError: no such format, or the library that draws it is not installed.

    """
    if path.suffix.lower() not in FORMATS:
        raise SpecError(f"must end in {' or '.join(FORMATS)}, got {str(path)!r}", field="--plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise SpecError(f"{path.suffix} needs matplotlib: pip install 'cleave[report]'", field="--plot")


def accuracy_figure(report: Report, title: str, suffix: str) -> bytes:
    """Draw one panel for each metric, both axes logarithmic.

    Args:
        report: what is drawn.
        title: what the points are.
        suffix: `.svg` or `.png`.

    Returns:
        The content of the file.

    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(14, 5.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    written = FuncFormatter(lambda value, _: number(value))
    for axes, metric in zip(figure.subplots(1, len(Metric)), Metric, strict=True):
        axes.set_title(TITLES[metric], loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel("measured")
        axes.set_ylabel("predicted")
        axes.spines[["top", "right"]].set_visible(False)
        found = [(entry.point.engine, pair) for entry in report.priced if (pair := entry.pair(metric)) is not None]
        if not found:
            axes.text(0.5, 0.5, "nothing was predicted", transform=axes.transAxes, ha="center", color="#555555")
            continue
        values = [value for _, pair in found for value in pair if value > 0]
        ends = min(values) / 1.3, max(values) * 1.3
        for band, alpha in BANDS.items():
            low, high = ([end * (1 + sign * band) for end in ends] for sign in (-1, 1))
            axes.fill_between(ends, low, high, color="#000000", alpha=alpha, linewidth=0, label=f"±{percent(band)}")
        axes.plot(ends, ends, color="#555555", linewidth=1.0)
        for engine in Engine:
            pairs = [pair for name, pair in found if name is engine]
            if pairs:
                axes.scatter(
                    [measured for _, measured in pairs], [predicted for predicted, _ in pairs], s=9, alpha=0.45,
                    linewidths=0, color=COLOURS[engine], marker=MARKERS[engine],
                    label=f"{NAMES[engine]} ({len(pairs)})",
                )  # fmt: skip
        for axis, scale, limit in (
            (axes.xaxis, axes.set_xscale, axes.set_xlim),
            (axes.yaxis, axes.set_yscale, axes.set_ylim),
        ):
            scale("log")
            limit(*ends)
            axis.set_major_locator(LogLocator())
            axis.set_major_formatter(written)
            axis.set_minor_formatter(NullFormatter())
        axes.grid(True, which="major", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        errors = report.overall[metric]
        axes.text(
            0.98, 0.03, f"median error {percent(round(errors.median_abs_error, 3))}, "
            f"bias {'+' if errors.bias > 0 else ''}{percent(round(errors.bias, 3))}",
            transform=axes.transAxes, ha="right", fontsize=9,
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )  # fmt: skip
        legend = axes.legend(loc="upper left", frameon=False, fontsize=9)
        for handle in legend.legend_handles[len(BANDS) :]:
            if handle is not None:
                handle.set_alpha(1.0)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    buffer = io.BytesIO()
    kind = suffix.lower().removeprefix(".")
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
