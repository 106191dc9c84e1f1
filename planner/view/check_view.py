"""A check in the terminal: components with their GPUs, then what is wrong."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.check.report import ComponentTotal, Report, Violation
from planner.view.figures import number


def check_view(report: Report) -> RenderableType:
    """Draw a report."""
    parts: list[RenderableType] = [_summary(report)]
    if report.totals.components:
        parts.append(_components(report.totals.components))
    if report.totals.gpus_by_pool:
        parts += [_pools(report), Text()]
    parts += [_line(violation, "bold red") for violation in report.violations]
    parts += [_line(warning, "yellow", "warning: ") for warning in report.warnings]
    parts += [Text(f"{each.file}: not checked: {each.what} ({each.reason})", style="dim") for each in report.skipped]
    return Group(*parts)


def _summary(report: Report) -> Text:
    if report.ok:
        return Text.assemble(("OK", "bold green"), f"  {number(report.totals.gpus)} GPUs, nothing is wrong")
    count = len(report.violations)
    return Text.assemble(("FAILED", "bold red"), f"  {count} violation{'s' * (count != 1)}")


def _components(components: Sequence[ComponentTotal]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("component", overflow="fold")
    table.add_column("role", no_wrap=True)
    table.add_column("pool", overflow="fold")
    table.add_column("instances x GPUs", justify="right", no_wrap=True)
    table.add_column("layout", overflow="fold")
    for each in components:
        degrees = [f"{name.replace('moe_tp', 'etp')}{value}" for name, value in each.layout.items() if value > 1]
        table.add_row(
            each.name,
            each.role.value if each.role is not None else "-",
            each.pool or "-",
            f"{each.instances} x {each.gpus_per_instance} = {each.gpus}",
            " ".join(degrees) or "tp1",
        )
    return Padding(table, (0, 0, 0, 2))


def _pools(report: Report) -> Text:
    totals = report.totals
    parts = [
        f"{pool}: {number(gpus)} GPUs"
        + (f" on {_nodes(totals.nodes_by_pool[pool])}" if pool in totals.nodes_by_pool else "")
        for pool, gpus in totals.gpus_by_pool.items()
    ]
    return Text("  " + ", ".join(parts))


def _line(violation: Violation, style: str, before: str = "") -> Text:
    where = ":".join(str(part) for part in (violation.file, violation.line) if part is not None)
    what = f"{violation.field}: " if violation.field else ""
    return Text.assemble((where, "cyan"), f"  {before}", (violation.rule, style), f"  {what}{violation.message}")


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"
