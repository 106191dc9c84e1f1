"""The modes side by side in the terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.view.explain_view import relaxation_table
from planner.view.figures import MODE_NAMES, SHORT_MODE_NAMES, number, objective_value
from planner.view.pareto_chart import pareto_chart
from planner.view.plan_view import layout_summary
from specs.comparison import Comparison, ModeResult
from specs.plan import Plan
from specs.scenario import Scenario


def compare_view(comparison: Comparison, scenario: Scenario | None = None) -> RenderableType:
    """Draw one row and one reason for each mode, then the Pareto curves."""
    by_mode = {result.mode: result for result in comparison.modes}
    best = by_mode.get(comparison.best) if comparison.best else None
    if best is None or best.value is None:
        head = Text("No mode has a plan", style="bold red")
    else:
        head = Text.assemble(
            (MODE_NAMES[best.mode.value], "bold green"),
            " is best: ",
            (objective_value(comparison.objective, best.value), "bold"),
        )
    parts: list[RenderableType] = [head, _modes(comparison)]
    for result in comparison.modes:
        parts += _details(result)
    parts += [Text(f"- {note}") for note in comparison.notes]
    if any(result.pareto for result in comparison.modes):
        parts += [Text(), pareto_chart(comparison, scenario)]
    return Group(*parts)


def _modes(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("mode", no_wrap=True)
    for name in ("value", "tok/s/GPU", "TTFT ms", "TPOT ms", "GPUs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for result in comparison.modes:
        style = "bold green" if result.mode is comparison.best else "" if result.value is not None else "dim"
        value = "-" if result.value is None else number(result.value)
        cells = _reached(result.plan) if result.plan and result.plan.services else ("-",) * 4
        table.add_row(MODE_NAMES[result.mode.value], value, *cells, result.status.value.replace("_", " "), style=style)
    return table


def _reached(plan: Plan) -> tuple[str, ...]:
    """Throughput per used GPU, the worst times of any service, and the GPUs used."""
    gpus = sum(plan.gpus_used.values())
    throughput = sum(service.throughput_tok_s for service in plan.services)
    times = ([s.ttft_ms for s in plan.services], [s.tpot_ms for s in plan.services])
    worst = (max((time for time in kind if time is not None), default=None) for kind in times)
    return (
        number(throughput / gpus) if gpus else "-",
        *("-" if time is None else number(time) for time in worst),
        number(gpus),
    )


def _details(result: ModeResult) -> list[RenderableType]:
    lines: list[RenderableType] = []
    name = SHORT_MODE_NAMES[result.mode.value]
    if result.plan is not None and result.plan.services:
        lines.append(Text.assemble((f"{name}: ", "bold"), (layout_summary(result.plan), "dim")))
    if result.reason:
        label = (f"{name}: ", "bold") if not lines else ("", "")
        reason = Text.assemble(label, result.reason)
        lines.append(Padding(reason, (0, 0, 0, 2)) if lines else reason)
    if result.relaxations:
        lines.append(Padding(relaxation_table(result.relaxations), (0, 0, 0, 2)))
    return lines
