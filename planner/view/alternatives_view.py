"""The best few plans in the terminal."""

from rich import box
from rich.console import RenderableType
from rich.table import Table

from planner.view.figures import MODE_NAMES, objective_value, percent
from planner.view.plan_view import layout_summary
from specs.comparison import Alternatives


def alternatives_view(found: Alternatives) -> RenderableType:
    """Draw one row for each plan: its value, its distance to the best, its modes and its layout."""
    table = Table(title="Alternatives", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("worse by", justify="right", no_wrap=True)
    table.add_column("mode")
    table.add_column("layout", overflow="fold")
    for rank, alternative in enumerate(found.alternatives, start=1):
        plan = alternative.plan
        table.add_row(
            str(rank),
            objective_value(plan.objective, plan.certificate.incumbent or 0.0),
            percent(alternative.distance),
            ", ".join(dict.fromkeys(MODE_NAMES[str(service.mode)] for service in plan.services)),
            layout_summary(plan),
        )
    return table
