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
    value = best.answer(launchable=comparison.launchable)[0] if best is not None else None
    if best is None or value is None:
        head = Text("No mode has a plan", style="bold red")
    else:
        head = Text.assemble(
            (MODE_NAMES[best.mode.value], "bold green"),
            " is best: ",
            (objective_value(comparison.objective, value), "bold"),
            ", of plans that the engines can launch" if comparison.launchable else "",
        )
    parts: list[RenderableType] = [head, _modes(comparison)]
    for result in comparison.modes:
        parts += _details(result, launchable=comparison.launchable)
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
        bold = "bold green" if result.mode is comparison.best else ""
        name, status = MODE_NAMES[result.mode.value], result.status.value.replace("_", " ")
        if not result.blocked_by:
            cells = _cells(*result.answer(launchable=comparison.launchable))
            table.add_row(name, *cells, status, style=bold if cells[0] != "-" else "dim")
            continue
        # The answer first; the other plan below it.
        for launchable in (comparison.launchable, not comparison.launchable):
            value, plan = result.answer(launchable=launchable)
            what = "launchable" if launchable else "not launchable" if comparison.launchable else status
            style = bold if launchable is comparison.launchable and value is not None else "dim"
            table.add_row(name, *_cells(value, plan), "none launchable" if value is None else what, style=style)
            name = ""
    return table


def _cells(value: float | None, plan: Plan | None) -> tuple[str, ...]:
    """Objective value and what the plan reaches."""
    reached = _reached(plan) if plan is not None and plan.services else ("-",) * 4
    return ("-" if value is None else number(value), *reached)


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


def _details(result: ModeResult, *, launchable: bool) -> list[RenderableType]:
    lines: list[RenderableType] = []
    name = SHORT_MODE_NAMES[result.mode.value]
    _, plan = result.answer(launchable=launchable)
    if plan is not None and plan.services:
        lines.append(Text.assemble((f"{name}: ", "bold"), (layout_summary(plan), "dim")))
    if result.reason:
        label = (f"{name}: ", "bold") if not lines else ("", "")
        reason = Text.assemble(label, result.reason)
        lines.append(Padding(reason, (0, 0, 0, 2)) if lines else reason)
    if result.blocked_by and result.plan is not None:
        what = "the best plan" if launchable else "it"
        blocked = Text(f"{what} ({layout_summary(result.plan)}) is blocked by {'; '.join(result.blocked_by)}", "dim")
        lines.append(Padding(blocked, (0, 0, 0, 2)))
    if result.relaxations:
        lines.append(Padding(relaxation_table(result.relaxations), (0, 0, 0, 2)))
    return lines
