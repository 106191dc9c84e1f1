"""Proof and reasons of a plan in the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from planner.view.figures import MODE_NAMES, number, objective_value, percent
from specs.plan import Plan, Relaxation, WhatIf
from specs.scenario import Scenario


def explain_view(plan: Plan, scenario: Scenario | None = None) -> RenderableType:
    """Draw the plan's outcome, its services in one line each, its proof and its reasons."""
    # Imported here: the view of a plan shows these panels too.
    from planner.view.plan_view import headline, layout_summary

    parts: list[RenderableType] = [headline(plan)]
    models = {service.name: f"  {service.model}" for service in scenario.services} if scenario else {}
    for service in plan.services:
        parts.append(
            Text.assemble(
                (service.name, "bold cyan"),
                f"{models.get(service.name, '')}  {MODE_NAMES[str(service.mode)]}"
                f"  {number(service.throughput_tok_s)} tokens/s",
            )
        )
    if plan.services:
        parts.append(Text(layout_summary(plan), style="dim"))
    return Group(*parts, Text(), proof_panel(plan), *why_panels(plan))


def proof_panel(plan: Plan) -> RenderableType:
    """Draw what is proven, and over what space."""
    certificate = plan.certificate
    facts = _facts()
    if certificate.incumbent is not None:
        facts.add_row("this plan", objective_value(plan.objective, certificate.incumbent))
    if certificate.bound is not None:
        side = "more" if plan.objective.maximizing else "less"
        facts.add_row("bound", f"{objective_value(plan.objective, certificate.bound)}: no plan has {side}")
    if certificate.gap is not None:
        parts = [
            f"{percent(part)} {source}"
            for part, source in (
                (certificate.gap_solver, "left by the solver"),
                (certificate.gap_discretisation, "by grids"),
            )
            if part is not None
        ]
        facts.add_row("gap", percent(certificate.gap) + (f": {', '.join(parts)}" if parts else ""))
    measured = certificate.measurement_error
    facts.add_row("cost model", "not measured against hardware" if measured is None else f"off by {percent(measured)}")
    facts.add_row("kernels", plan.provenance.kernels)
    for name, value in certificate.space.items():
        facts.add_row(name.replace("_", " "), _written(value))
    rejected = sorted(plan.explanation.rejected.items(), key=lambda item: -item[1])
    if rejected:
        facts.add_row("refused", ", ".join(f"{number(count)} by {reason}" for reason, count in rejected))
    return Panel(facts, title="Proof", title_align="left", border_style="dim")


def why_panels(plan: Plan) -> list[RenderableType]:
    """Draw why the plan is what it is, or why there is none; nothing where no explanation was asked for."""
    explanation = plan.explanation
    parts: list[RenderableType] = []
    if explanation.binding:
        facts = _facts()
        for binding in explanation.binding:
            facts.add_row(binding.what, binding.detail)
        parts += [Text("What binds", style="bold"), facts]
    if explanation.what_if:
        parts += [Text("What a change is worth", style="bold"), _what_ifs(plan, explanation.what_if)]
    if explanation.relaxations:
        parts += [
            Text("What would make it feasible: one change at a time", style="bold"),
            relaxation_table(explanation.relaxations),
        ]
    parts += [Text(f"- {note}") for note in (*explanation.notes, *plan.provenance.notes)]
    return [Panel(Group(*parts), title="Why", title_align="left", border_style="dim")] if parts else []


def _facts() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", max_width=24)
    table.add_column(overflow="fold")
    return table


def _what_ifs(plan: Plan, what_ifs: Sequence[WhatIf]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("change", overflow="fold")
    for name in ("before", "after", "worth"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold", style="dim")
    for what_if in what_ifs:
        before, after = what_if.objective_before, what_if.objective_after
        if after is None:
            table.add_row(what_if.change, number(before), Text("no plan", style="red"), "", what_if.note)
            continue
        gain = after - before if plan.objective.maximizing else before - after
        worth = f"{(after - before) / abs(before):+.2%}" if before else f"{after - before:+.4g}"
        style = "green" if gain > 0 else "red" if gain < 0 else "dim"
        table.add_row(what_if.change, number(before), number(after), Text(worth, style=style), what_if.note)
    return table


def relaxation_table(relaxations: Sequence[Relaxation]) -> RenderableType:
    """Draw the smallest change of each dimension that makes each mode feasible, mode by mode.

    Dimensions of one mode that fail for the same reason share a row.
    """
    named = len({relaxation.service for relaxation in relaxations}) > 1
    parts: list[RenderableType] = []
    heading = ""
    for group in alike(relaxations):
        first = group[0]
        mode = MODE_NAMES[first.mode.value]
        title = f"{first.service or 'all services'}: {mode}" if named else mode
        if title != heading:
            heading = title
            parts.append(Text(title, style="italic"))
            parts.append(table := _relaxation_grid())
        dimensions = ", ".join(DIMENSION_NAMES.get(each.dimension, each.dimension) for each in group)
        if first.needed is None:
            change = Text("nothing suffices", style="red")
        else:
            change = Text(f"{number(first.current)} -> {number(first.needed)} {first.unit}", style="green")
            change.append(" confirmed" if first.confirmed else " not confirmed", style="dim")
        table.add_row("", dimensions, change, first.detail)
    return Group(*parts)


def _relaxation_grid() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column(width=1)
    table.add_column(width=10, overflow="fold")
    table.add_column(width=26, overflow="fold")
    table.add_column(overflow="fold", style="dim", ratio=1)
    return table


DIMENSION_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "gpus": "GPUs"}


def alike(relaxations: Sequence[Relaxation]) -> list[list[Relaxation]]:
    """Relaxations in order; those of one service and mode that nothing satisfies, for the same reason, together."""
    groups: dict[tuple[object, ...], list[Relaxation]] = {}
    for number_, each in enumerate(relaxations):
        own = () if each.needed is None else (number_,)
        groups.setdefault((each.service, each.mode, each.detail if each.needed is None else "", *own), []).append(each)
    return list(groups.values())


def _written(value: str | int | float | tuple[str | int | float, ...]) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(part if isinstance(part, str) else number(part) for part in values)
