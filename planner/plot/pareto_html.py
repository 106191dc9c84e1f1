"""The Pareto curves drawn by plotly, as one file that needs no network."""

import math

import plotly.graph_objects as go

from planner.plot.pareto import COLOURS, SLO_COLOUR, X_LABEL, Y_LABEL, title
from planner.view.figures import MODE_NAMES, milliseconds, needs_log, number
from planner.view.pareto_chart import user_speed_slo
from specs.comparison import Comparison
from specs.scenario import Scenario
from specs.service import Mode

SYMBOLS = {
    Mode.AGGREGATED: "circle",
    Mode.PREFILL_DECODE: "square",
    Mode.AFD: "triangle-up",
    Mode.PREFILL_DECODE_AFD: "diamond",
}


def draw(comparison: Comparison, scenario: Scenario) -> bytes:
    """Draw the picture as HTML in UTF-8; a point shows its layout and times under the pointer."""
    figure = go.Figure()
    for result in comparison.modes:
        curve = sorted(result.pareto, key=lambda point: point.tokens_per_s_per_user)
        if not curve:
            continue
        best = result.mode is comparison.best
        figure.add_trace(
            go.Scatter(
                x=[point.tokens_per_s_per_user for point in curve],
                y=[point.tokens_per_s_per_gpu for point in curve],
                text=[
                    f"{point.layout}<br>TTFT {milliseconds(point.ttft_ms)}, TPOT {milliseconds(point.tpot_ms)}"
                    for point in curve
                ],
                name=MODE_NAMES[result.mode.value] + (" (best)" if best else ""),
                mode="lines+markers",
                marker={"symbol": SYMBOLS[result.mode], "size": 9},
                line={"color": COLOURS[result.mode], "width": 4 if best else 2},
                hovertemplate="%{y:,.0f} tokens/s/GPU, %{x:,.1f} tokens/s/user<br>%{text}",
            )
        )
    points = [point for result in comparison.modes for point in result.pareto]
    log_x = needs_log([point.tokens_per_s_per_user for point in points])
    log_y = needs_log([point.tokens_per_s_per_gpu for point in points])
    slo = user_speed_slo(scenario)
    if slo:
        figure.add_vline(x=slo, line={"color": SLO_COLOUR, "dash": "dash"})
        # On a logarithmic axis plotly places lines by value, but annotations by its logarithm.
        figure.add_annotation(
            x=math.log10(slo) if log_x else slo,
            y=1.0,
            yref="paper",
            yanchor="top",
            xanchor="left",
            showarrow=False,
            font={"color": SLO_COLOUR},
            text=f"TPOT {number(1000 / slo)} ms",
        )
    figure.update_layout(template="plotly_white", title=title(scenario))
    figure.update_xaxes(title=X_LABEL, type="log" if log_x else "linear", rangemode="normal" if log_x else "tozero")
    figure.update_yaxes(title=Y_LABEL, type="log" if log_y else "linear", rangemode="normal" if log_y else "tozero")
    html: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return html.encode()
